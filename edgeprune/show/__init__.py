"""What pruning methods keep of one picture, side by side: measures, and a picture of all of them."""
