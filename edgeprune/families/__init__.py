"""Model families, one file each: which tower, projector and decoder a checkpoint has, and which weights fill them."""
