"""ONNX graphs to TensorRT plans: profiles, memory, and one build after another."""
