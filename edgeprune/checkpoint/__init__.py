"""A checkpoint in Hugging Face format: where it lies, what its configuration says, its weights one by one.

Knows the format and nothing of graphs or pruning: what to do with a tensor is up to ``families``.
"""
