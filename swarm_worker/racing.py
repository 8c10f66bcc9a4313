"""Racing: positions that cannot win stop before all items are scored, and what was saved goes into more generations.

As in F-race (Birattari et al., GECCO 2002; Lopez-Ibanez et al., 2016), items come in growing blocks. After each but the
last, a position is compared with the best one known, on the items that both were scored on: where the upper confidence
bound of the difference is below 0, it stops. What the optimiser is told of a stopped position is its utility on the items
it saw, corrected by how much easier those are for the best than all of them (a control variate): ``u(x) + (u_all(best) -
u(best))``, and never more than the best's own, so that no stopped position becomes the best.

The first generation has nothing to be compared with and is scored in full, so the starts' scores are whole. A search that
races is told less exact scores: what that costs is for ``effect`` to measure. Off in the ``paper`` preset.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from swarm_worker.scorer import Scorer, ScoresMoves, climb
from swarm_worker.scoring.engine import Candidate
from swarm_worker.search import Coefficients, Move, Outcome
from swarm_worker.search.generations import Generations
from swarm_worker.utilities import Item, Utility

Values = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Racing:
    """``blocks``: the share of the items that a position has seen after each block; the last is all of them. ``level``:
    one-sided confidence below which nothing is stopped. ``min_items``: seen before anything is stopped."""

    blocks: tuple[float, ...] = (1 / 3, 2 / 3, 1.0)
    level: float = 0.95
    min_items: int = 10

    def __post_init__(self) -> None:
        blocks = tuple(float(share) for share in self.blocks)
        object.__setattr__(self, "blocks", blocks)
        growing = all(one < other for one, other in zip((0.0, *blocks), blocks, strict=False))
        if not blocks or not growing or blocks[-1] != 1.0:
            raise ValueError(f"racing.blocks must be growing shares that end with 1, not {blocks!r}")
        if not 0.5 <= self.level < 1:
            raise ValueError(f"racing.level must be in [0.5, 1), not {self.level!r}")
        if self.min_items < 2:
            raise ValueError(f"racing.min_items must be 2 or more, not {self.min_items!r}")


@dataclass(slots=True)
class _Racer:
    move: Move
    values: Values = ()
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class _Leader:
    """The best position that saw every item."""

    values: Values
    utility: float


@dataclass(frozen=True, slots=True)
class Effect:
    """What racing did to a search: utilities of the two finds, as ``judge`` saw them, and the two bills."""

    utility_plain: float
    utility_raced: float
    item_generations_plain: int
    item_generations_raced: int
    stopped: int

    @property
    def difference(self) -> float:
        """Of the utilities; below 0: racing cost that much."""
        return self.utility_raced - self.utility_plain

    @property
    def saving(self) -> float:
        """The share of the item-generations that racing did not spend."""
        return 1 - self.item_generations_raced / self.item_generations_plain


class RacingScorer:
    """Scores moves as a ``Scorer`` does, on a part of ``items`` where that is enough.

    ``on(items)`` makes the ``Scorer`` of one block. ``item_generations`` counts what was spent; ``stopped`` the positions
    that did not see all items. With several tasks every block holds its share of each.
    """

    def __init__(self, on: Callable[[list[Item]], Scorer], items: Sequence[Item], racing: Racing | None = None) -> None:
        self.racing = Racing() if racing is None else racing
        blocks = _blocks(items, self.racing.blocks)
        self.items = [item for block in blocks for item in block]
        self.item_generations = 0
        self.computed = 0
        self.stopped = 0
        self._scorers = [on(block) for block in blocks]
        self._utility: Utility = self._scorers[0].utility
        self._leader: _Leader | None = None

    def outcomes(self, moves: Sequence[Move]) -> list[Outcome]:
        """The outcome of each move, block by block over those that still may win."""
        racers = [_Racer(move) for move in moves]
        running = racers
        for scorer in self._scorers:
            candidates = [Candidate(racer.move.coefficients, scorer.space) for racer in running]
            for racer, scores in zip(running, scorer.scores(candidates), strict=True):
                racer.values += scores.values
                racer.stopped = not self._may_win(racer.values)
            running = [racer for racer in running if not racer.stopped]
        self.stopped += len(racers) - len(running)
        self._add_up()
        outcomes = [Outcome.of(racer.move, self._told(racer)) for racer in racers]
        self._follow(racers, outcomes)
        return outcomes

    def _add_up(self) -> None:
        self.item_generations = sum(scorer.item_generations for scorer in self._scorers)
        self.computed = sum(scorer.computed for scorer in self._scorers)

    def _may_win(self, values: Values) -> bool:
        """Whether the upper bound of the lead over the best, on all items, is 0 or more."""
        seen = len(values)
        if self._leader is None or not self.racing.min_items <= seen < len(self.items):
            return True
        try:
            lead, error = _lead(self._utility, self.items[:seen], values, self._leader.values[:seen])
        except ValueError:
            return True  # too little could be judged to say anything
        unseen = 1 - seen / len(self.items)  # the finite population's correction: what was seen is no longer uncertain
        return lead + NormalDist().inv_cdf(self.racing.level) * error * unseen**0.5 >= 0

    def _told(self, racer: _Racer) -> float:
        seen = len(racer.values)
        utility = self._utility.combine(self.items[:seen], racer.values)
        if not racer.stopped or self._leader is None:
            return utility
        leaders_part = self._utility.combine(self.items[:seen], self._leader.values[:seen])
        return min(utility + self._leader.utility - leaders_part, self._leader.utility)

    def _follow(self, racers: list[_Racer], outcomes: list[Outcome]) -> None:
        for racer, outcome in zip(racers, outcomes, strict=True):
            better = self._leader is None or (outcome.utility or 0.0) > self._leader.utility
            if not racer.stopped and outcome.utility is not None and better:
                self._leader = _Leader(racer.values, outcome.utility)

    def to_json(self) -> dict[str, Any]:
        """What a resumed search needs: the best position's scores and the bill."""
        leader = self._leader
        return {
            "leader": None if leader is None else {"values": list(leader.values), "utility": leader.utility},
            "stopped": self.stopped,
            "bills": [[scorer.item_generations, scorer.computed] for scorer in self._scorers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``to_json`` said, on the same items."""
        leader = state["leader"]
        self._leader = None if leader is None else _Leader(tuple(leader["values"]), leader["utility"])
        self.stopped = state["stopped"]
        for scorer, (spent, computed) in zip(self._scorers, state["bills"], strict=True):
            scorer.item_generations, scorer.computed = spent, computed
        self._add_up()


def effect(
    search: Callable[[], Generations], plain: ScoresMoves, raced: RacingScorer, judge: Callable[[Coefficients], float]
) -> Effect:
    """Run the same search twice, plain and racing, and let ``judge`` (fresh items, say) compare what they found."""
    best_plain, best_raced = climb(search(), plain), climb(search(), raced)
    return Effect(
        utility_plain=judge(best_plain.coefficients),
        utility_raced=judge(best_raced.coefficients),
        item_generations_plain=plain.item_generations,
        item_generations_raced=raced.item_generations,
        stopped=raced.stopped,
    )


def _blocks(items: Sequence[Item], shares: Sequence[float]) -> list[list[Item]]:
    """Growing prefixes' new parts, each task in its share; a block that would be empty is left out."""
    tasks: defaultdict[str | None, list[Item]] = defaultdict(list)
    for item in items:
        tasks[item.task].append(item)
    blocks: list[list[Item]] = [[] for _ in shares]
    for of_task in tasks.values():
        begin = 0
        for block, share in zip(blocks, shares, strict=True):
            end = round(share * len(of_task))
            block.extend(of_task[begin:end])
            begin = end
    return [block for block in blocks if block]


def _lead(utility: Utility, items: Sequence[Item], values: Values, rival: Values) -> tuple[float, float]:
    """How far ``values`` are ahead of ``rival`` on the same items, and the standard error of that.

    The jackknife's (Efron & Tibshirani 1993, chapter 11), so that it holds for any ``combine``; for a mean it is the
    paired t statistic's. An item that one of the two has no score for tells nothing.
    """
    both = [i for i, pair in enumerate(zip(values, rival, strict=True)) if None not in pair]

    def difference(kept: Sequence[int]) -> float:
        shown = [items[i] for i in kept]
        return utility.combine(shown, [values[i] for i in kept]) - utility.combine(shown, [rival[i] for i in kept])

    n = len(both)
    if n < 2:
        raise ValueError("fewer than two items were scored for both")
    left_out = [difference(both[:i] + both[i + 1 :]) for i in range(n)]
    centre = sum(left_out) / n
    return difference(both), ((n - 1) / n * sum((one - centre) ** 2 for one in left_out)) ** 0.5
