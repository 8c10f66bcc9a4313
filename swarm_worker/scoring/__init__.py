"""Engines that say how likely an answer is, and what a model answers."""
