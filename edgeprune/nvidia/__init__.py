"""NVIDIA's libraries behind one door: CUDA, memory of a GPU, and whichever TensorRT is installed.

From below: ``library`` (which TensorRT) and ``logger`` (what it says); ``cuda`` (a GPU and its stream) and ``memory``
(arrays on it). Importing this loads none of them. It knows no bundle and no graph.
"""
