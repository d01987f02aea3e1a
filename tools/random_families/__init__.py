"""Random checkpoints, one file per family; ``tools.random_checkpoint`` writes them by the names of their shapes.

A family's file has ``SHAPES``, by name, and ``write(shape, out, seed, dtype, **storage)``.
"""
