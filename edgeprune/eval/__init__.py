"""Accuracy beside latency: what a budget costs on questions with known answers."""
