"""What the demo model is trained with: the network, its batches, its losses and the curriculum."""
