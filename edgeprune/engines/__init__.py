"""ONNX graphs to TensorRT plans: lint, profiles, memory, build."""
