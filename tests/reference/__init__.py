"""An independent numpy reference of LLaVA-1.5 with VisionDrop pruning, which exported graphs are judged by.

It shares no code with the package and takes no shortcut: everything is computed for every row, in float64.
"""
