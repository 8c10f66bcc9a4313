"""A point of the hull in one line. Pure, so that who only shows or records it needs no tensor library."""

from __future__ import annotations

from collections.abc import Sequence


def describe(names: Sequence[str], coefficients: Sequence[float]) -> str:
    """What a mix is, largest first: ``0.43 science + 0.31 cot - 0.08 lima``."""
    terms = sorted(zip(coefficients, names, strict=True), key=lambda term: -term[0])
    shown = [(c, name) for c, name in terms if abs(c) >= 0.005]
    if not shown:
        return "0.00 (the base model)"
    (first, first_name), *rest = shown
    return f"{first:.2f} {first_name}" + "".join(f" {'-' if c < 0 else '+'} {abs(c):.2f} {name}" for c, name in rest)
