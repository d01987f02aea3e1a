"""The parts of ``tools/gpu_check.py``: what a GPU reaches with edgeprune's engines, against PyTorch eager."""
