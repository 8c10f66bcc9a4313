"""How good an answer was, on one scale: 0 to 1. Pure; the one place where thumbs and stars become a rating."""

from __future__ import annotations

from typing import Literal

Thumbs = Literal["up", "down"]
THUMBS: dict[Thumbs, float] = {"up": 1.0, "down": 0.0}
MOST_STARS = 5
NANO = 1_000_000_000
"""Ratings are summed as whole billionths: the same sum in whatever order they came, and none is left when one is taken back."""
RATING_SUMS = ("ratings", "rating_sum", "rating_nano")
"""The figures of a version (``registry/figures.py``) that its mean rating is made of."""


def rating_of_stars(stars: int) -> float:
    """One star is 0, five are 1, three say nothing."""
    return (stars - 1) / (MOST_STARS - 1)


def nano(rating: float) -> int:
    """A rating in billionths."""
    return round(rating * NANO)
