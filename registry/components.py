"""What pairs join up: connected components, by union and find (Tarjan, 1975). Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable


def components(n: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The places 0 to ``n`` - 1 in groups that the pairs join up, each in order, by their first places."""
    parent = list(range(n))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for one, other in pairs:
        parent[max(root(one), root(other))] = min(root(one), root(other))
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for place in range(n):
        groups[root(place)].append(place)
    return list(groups.values())
