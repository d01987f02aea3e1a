"""What a machine has and lacks for running bundles: facts, findings, and the command that mends each lack.

``Machine.read`` collects the facts, ``checks`` and ``suitability`` judge them, ``report`` prints both.
"""
