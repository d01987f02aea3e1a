"""Vision encoders, one file per architecture, as lean modules that also emit what methods score with."""
