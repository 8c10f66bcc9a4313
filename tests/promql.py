"""What a PromQL expression asks of the metrics there are, read with a real parser of the language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import promql_parser as promql

SCRAPED = frozenset({"instance", "job"})
"""Labels that Prometheus puts on everything that it scrapes."""


class NotExported(AssertionError):
    """A name or a label that nobody exports."""


def labels_of(expression: str, exported: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The labels that the answer may carry. ``NotExported`` for a metric, or a label of one, that is not there."""
    return _labels(promql.parse(expression), exported)


def _labels(at: Any, exported: Mapping[str, frozenset[str]]) -> frozenset[str]:
    read = _READERS.get(type(at).__name__)
    if read is None:
        raise NotImplementedError(f"{type(at).__name__} in {at}")
    return read(at, exported)


def _selector(at: Any, exported: Mapping[str, frozenset[str]]) -> frozenset[str]:
    if at.name not in exported and at.name != "up":  # Prometheus itself says whether a target is up
        raise NotExported(f"no such metric: {at.name}")
    known = exported.get(at.name, frozenset()) | SCRAPED
    _need([matcher.name for matcher in at.matchers.matchers], known, at.name)
    return known


def _aggregate(at: Any, exported: Mapping[str, frozenset[str]]) -> frozenset[str]:
    below = _labels(at.expr, exported)
    if at.modifier is None:
        return frozenset()
    named = frozenset(at.modifier.labels)
    _need(named, below, str(at))
    return named if at.modifier.type == promql.AggModifierType.By else below - named


def _binary(at: Any, exported: Mapping[str, frozenset[str]]) -> frozenset[str]:
    left, right = _labels(at.lhs, exported), _labels(at.rhs, exported)
    modifier = at.modifier
    if modifier is None or modifier.matching is None:
        return left or right
    _need(modifier.matching.labels, left, str(at))
    _need(modifier.matching.labels, right, str(at))
    taken = frozenset(modifier.group_labels or ())  # what group_left brings along
    _need(taken, right, str(at))
    return left | taken


def _call(at: Any, exported: Mapping[str, frozenset[str]]) -> frozenset[str]:
    below = [_labels(argument, exported) for argument in at.args]
    if at.func.name == "histogram_quantile":
        _need(["le"], below[1], str(at))
        return below[1] - {"le"}
    if at.func.name == "absent":
        return frozenset({"job"})
    if at.func.name == "label_replace":
        return below[0] | {at.args[1].val}
    return next((each for each in below if each), frozenset())


def _need(wanted: Any, known: frozenset[str], where: str) -> None:
    if missing := set(wanted) - known:
        raise NotExported(
            f"{where}: no such label: {', '.join(sorted(missing))} (there are {', '.join(sorted(known))})"
        )


def _nothing(at: Any, exported: Mapping[str, frozenset[str]]) -> frozenset[str]:
    return frozenset()


_READERS: dict[str, Callable[[Any, Mapping[str, frozenset[str]]], frozenset[str]]] = {
    "VectorSelector": _selector,
    "MatrixSelector": lambda at, exported: _labels(at.vector_selector, exported),
    "AggregateExpr": _aggregate,
    "BinaryExpr": _binary,
    "ParenExpr": lambda at, exported: _labels(at.expr, exported),
    "UnaryExpr": lambda at, exported: _labels(at.expr, exported),
    "SubqueryExpr": lambda at, exported: _labels(at.expr, exported),
    "Call": _call,
    "NumberLiteral": _nothing,
    "StringLiteral": _nothing,
}
