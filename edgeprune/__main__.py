"""``python -m edgeprune`` is ``edgeprune``."""

from edgeprune.cli import main

main()
