"""Hugging Face's own model run eagerly in PyTorch: what bundles are held against."""
