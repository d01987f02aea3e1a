"""What a model will take on a machine before either is there: operations, bytes, memory, time.

Plain Python from sizes alone: no weights, no graphs, no numpy. Nothing here measures anything.
"""
