"""What the analyses look at, and the one thing that all of them do with it: let a swarm climb, and keep its path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from swarm_worker import search
from swarm_worker.scorer import Scorer, climb
from swarm_worker.scoring.engine import Candidate
from swarm_worker.search import Coefficients, Move, Outcome
from swarm_worker.search.generations import Generations
from swarm_worker.search.optimizer import UTILITY_DECIMALS
from swarm_worker.search.swarm_options import ModelSwarmsOptions


class Visit(NamedTuple):
    """A particle was at a position in a generation; ``utility`` None: it could not be scored there."""

    generation: int
    particle: int
    position: Coefficients
    utility: float | None


@dataclass(frozen=True, slots=True)
class Climbed:
    """A search that has ended: its best position, its bill in item-generations, how many particles moved, and every
    position that was scored."""

    best: Coefficients
    utility: float
    item_generations: int
    moved: int
    visits: tuple[Visit, ...]

    @property
    def generations(self) -> int:
        return 1 + max(visit.generation for visit in self.visits)

    @property
    def particles(self) -> dict[int, list[Visit]]:
        """The path of each particle, where it was scored. Starts that are scored and never move are none."""
        paths: dict[int, list[Visit]] = {}
        for visit in self.visits:
            if visit.particle < self.moved:
                paths.setdefault(visit.particle, []).append(visit)
        return paths

    @property
    def final(self) -> list[Coefficients]:
        """Where each particle was when it was last scored."""
        return [path[-1].position for path in self.particles.values()]


def _nobody(line: str) -> None:
    """Hears nothing."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Experts, what a search climbs on, what its end is measured by, and how much it may spend.

    ``search``, ``test``: scorers on two lists of items that share none, on one engine that knows the experts; the test
    utility is what claims are made in, an accuracy. ``names``: of the hull's columns, in the order of the coefficients (a
    hull of one layer group). ``evaluations``: positions that one search may score, starts included. ``options``: of
    ``model_swarms``, the paper's preset unless told otherwise. ``watch`` hears a line after each search. Raises
    ``ValueError`` that names the field.
    """

    search: Scorer
    test: Scorer
    names: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    evaluations: int = 200
    options: Mapping[str, Any] = field(default_factory=lambda: {"preset": "paper"})
    watch: Callable[[str], Any] = _nobody

    def __post_init__(self) -> None:
        if len(self.names) < 2 or len(set(self.names)) != len(self.names):
            raise ValueError(f"names must be two experts or more, no two alike, not {', '.join(self.names) or 'none'}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different numbers, 0 or more, not {list(self.seeds)}")
        if self.evaluations <= len(self.names):
            raise ValueError(f"evaluations must be more than the {len(self.names)} starts, not {self.evaluations}")
        if self.evaluations < (first := len(self._swarm().ask())):
            raise ValueError(
                f"evaluations must be {first} or more, the swarm's first generation, not {self.evaluations}"
            )
        if leaked := {item.digest for item in self.search.items} & {item.digest for item in self.test.items}:
            names = ", ".join(sorted(digest[:12] for digest in leaked))
            raise ValueError(f"{len(leaked)} test items are among the search items: {names}")

    @property
    def experts(self) -> list[Coefficients]:
        """Each expert alone."""
        return [tuple(row) for row in np.eye(len(self.names)).tolist()]

    @property
    def rules(self) -> ModelSwarmsOptions:
        """The options with the preset's and the defaults among them."""
        return cast(ModelSwarmsOptions, self._swarm().options)

    def _swarm(self) -> Generations:
        return search.make("model_swarms", n_experts=len(self.names), seed=0, **self.options)

    def searched(self) -> list[float]:
        """The utility of each expert on the search items: what a choice among experts may be based on."""
        return [score.utility for score in self.search.scores([self._scored(expert) for expert in self.experts])]

    def climb(self, seed: int, lineup: Sequence[int] | None = None, **changes: Any) -> Climbed:
        """A swarm from ``lineup``, experts by number (all of them once unless told otherwise; some may be left out, some
        repeated), with ``changes`` to ``options``. It ends by its own rules, or before the generation that would exceed
        the budget. Positions come back as coefficients of all experts: those of an expert's copies added up, which is the
        same adapter in both spaces."""
        members = list(range(len(self.names)) if lineup is None else lineup)
        places = np.eye(len(self.names))[members]  # (slots, n): a position of the lineup times this is one of the hull
        optimizer = search.make("model_swarms", n_experts=len(members), seed=seed, **{**self.options, **changes})
        path = _Path(self.search, places)
        best = climb(optimizer, path, item_generations=self.evaluations * len(path.items))
        self.watch(f"seed {seed}: utility {best.utility:.4f} after {len(path.visits)} positions")
        position = tuple((np.array(best.coefficients) @ places).tolist())
        moved = len(optimizer.to_json()["state"]["positions"])
        return Climbed(position, best.utility, path.item_generations, moved, tuple(path.visits))

    def tested(self, positions: Sequence[Coefficients]) -> np.ndarray:
        """(positions, items) scores on the test items. Raises ``ValueError`` where one could not be judged."""
        scores = self.test.scores([self._scored(position) for position in positions])
        if unjudged := sum(score.unjudged for score in scores):
            raise ValueError(f"{unjudged} answers to test items could not be judged: an analysis needs every score")
        return np.array([score.values for score in scores], dtype=float)

    def _scored(self, position: Coefficients) -> Candidate:
        return Candidate(position, self.search.space)


class _Path:
    """A scorer that keeps where it was asked, with a bill of its own: the scorer below is shared by all searches."""

    def __init__(self, scorer: Scorer, places: np.ndarray) -> None:
        self.items = scorer.items
        self.item_generations = 0
        self.visits: list[Visit] = []
        self._scorer = scorer
        self._places = places

    def outcomes(self, moves: Sequence[Move]) -> list[Outcome]:
        positions = (np.array([move.coefficients for move in moves]) @ self._places).tolist()
        placed = [
            dataclasses.replace(move, coefficients=tuple(position))
            for move, position in zip(moves, positions, strict=True)
        ]
        outcomes = self._scorer.outcomes(placed)
        self.item_generations += len(moves) * len(self.items)
        self.visits += [
            Visit(move.generation, move.particle, move.coefficients, _compared(outcome.utility))
            for move, outcome in zip(placed, outcomes, strict=True)
        ]
        return outcomes


def _compared(utility: float | None) -> float | None:
    """As the search compares it."""
    return None if utility is None else round(utility, UTILITY_DECIMALS)
