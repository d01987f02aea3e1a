"""Runs a bundle without PyTorch: pictures and a question in, an answer out.

From below: ``backend`` (what a session is) and ``ort``; ``cache``; ``chain`` (one image through the graphs, one
token after another); ``generation`` (the loop); ``vlm`` (what users hold). ``preprocess``, ``prompt``,
``sampling`` and ``overlay`` stand beside them and know no graph.
"""
