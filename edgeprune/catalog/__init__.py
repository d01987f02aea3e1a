"""What is told about each pruning method: one card per method, ``<name>.toml`` beside this file.

Plain data, read without torch: the names that exist, the rule that spells out a budget, the paper's own labels, and
what a person wants to know before choosing. The methods themselves are in ``edgeprune/methods``.
"""

from edgeprune.catalog.card import Card, Probe, Published, card, names
from edgeprune.catalog.carry import generalised, obstacle

__all__ = ["Card", "Probe", "Published", "card", "generalised", "names", "obstacle"]
