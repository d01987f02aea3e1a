"""Measures a bundle on this machine: what it costs by count, what it takes by the clock, and how far apart they are."""
