"""Pruning methods, one file per method: the modules of its encoder stage and of its decoder cuts.

A method is a pure function of named tensors. It knows no family and no checkpoint; the names of the tensors it
reads are its ``Method`` record's business, and whoever exports it provides them.
"""
