"""Recipes: TOML files that name a model and where to cut it; they lie in ``export/`` and ``engines/``."""
