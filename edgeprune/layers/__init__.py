"""The few tensor operations that every tower, decoder and method is made of, in both ONNX dialects.

`base` spells everything in primitive operators (opset 18); `fused` uses the RMSNormalization, RotaryEmbedding
and Attention operators of opset 23. Both compute the same function in plain PyTorch, which is what the tests
hold against Hugging Face. Nothing here knows a checkpoint, a family or a method.

Letters: B batch, S new rows, P cached rows, T = P + S, H heads, G key/value heads, D width, d head width.
"""
