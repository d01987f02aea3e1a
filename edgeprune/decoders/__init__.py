"""Language-model decoders, one file per architecture, cut into segments between which tokens can be dropped."""
