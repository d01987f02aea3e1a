"""What a version of TensorRT would reject in an ONNX graph or, worse, silently get wrong; needs no TensorRT to tell.

From below: ``view`` and ``shapes`` read a graph, ``operators`` is the table of what each version takes, the ``*_rules``
find, and ``lint`` runs them all.
"""
