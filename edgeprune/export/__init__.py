"""From a checkpoint to a bundle: what is cut where, one ONNX graph per module, one manifest."""
