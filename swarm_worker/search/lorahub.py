"""LoraHub: gradient-free search with an L1 term (Huang et al., arXiv:2307.13269, section 3.3), on nevergrad's NGOpt.

The coefficients are free within bounds: no sum, negative ones allowed. nevergrad is imported when the first move is
asked for, because that takes seconds.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from swarm_worker.search.generations import Generations, Options, require
from swarm_worker.search.optimizer import Coefficients


@dataclass(frozen=True, slots=True)
class LoraHubOptions(Options):
    """The paper's settings (its section 4.1): 40 evaluations, coefficients in [-``bound``, ``bound``], ``l1``: the weight
    of their mean absolute value, which is taken off the utility. ``population``: positions a generation; 1 is as
    published, more lets NGOpt choose a method that works in parallel.
    """

    max_generations: int = 40
    bound: float = 1.5
    l1: float = 0.05
    population: int = 1

    def __post_init__(self) -> None:
        # Not super(): slots=True makes a new class, which the bare form does not know.
        Options.__post_init__(self)
        require(self.bound > 0, "bound", self.bound, "> 0")
        require(self.l1 >= 0, "l1", self.l1, "0 or more")
        require(self.population >= 1, "population", self.population, "1 or more")


class LoraHub(Generations):
    """NGOpt from zeros. It is not told what the starts scored (as published), but they count for ``best``, which is the
    highest utility, without the L1 term.

    NGOpt chooses its method by dimensions, budget and population (one at a time and few evaluations: Cobyla). Its state is
    what it was told: replaying that gives the same moves. Before each ask, its generator is seeded by
    (seed, generation, particle). A failed position counts as much as the worst one known.
    """

    name: ClassVar[str] = "lorahub"
    options_type = LoraHubOptions
    options: LoraHubOptions

    def __init__(self, n_experts: int, seed: int, options: LoraHubOptions, groups: int = 1) -> None:
        super().__init__(n_experts, seed, options, groups)
        self._told: list[list[float | None]] = []  # utilities, by generation from 1
        self._asked: list[Any] = []  # nevergrad's own objects for this generation's positions
        self._values: list[float] = []  # theirs, to be minimised, once all are known
        self._ngopt: Any = None
        self._highest = -np.inf  # value so far

    def _learn(self, utilities: list[float | None]) -> None:
        if self.generation > 0:
            self._feed(utilities)

    def _feed(self, utilities: list[float | None]) -> None:
        self._told.append(utilities)
        values = [
            None if utility is None else self.options.l1 * float(np.abs(asked.value).mean()) - utility
            for asked, utility in zip(self._asked, utilities, strict=True)
        ]
        self._highest = max([self._highest, *(value for value in values if value is not None)])
        failed = self._highest if np.isfinite(self._highest) else 0.0
        self._values = [failed if value is None else value for value in values]

    def _propose(self) -> list[Coefficients]:
        with _quiet(), _numpy_kept():
            if self._ngopt is None:
                self._ngopt = self._new()
            # Told here, not when they came in: what NGOpt then does in a thread of its own ends before the next ask does.
            for asked, value in zip(self._asked, self._values, strict=True):
                self._ngopt.tell(asked, value)
            self._asked = [self._ask(particle) for particle in range(self.options.population)]
        return [tuple(asked.value.tolist()) for asked in self._asked]

    def _ask(self, particle: int) -> Any:
        seed = int(self.rng(particle).integers(2**32))
        self._ngopt.parametrization.random_state.seed(seed)
        np.random.seed(seed)
        return _in_a_daemon(self._ngopt.ask)

    def _new(self) -> Any:
        import nevergrad

        options = self.options
        budget = options.population * options.max_generations
        if options.max_evaluations is not None:
            budget = min(budget, max(options.max_evaluations - len(self.starts), 1))
        zeros = np.zeros(self.dimensions)
        box = nevergrad.p.Array(init=zeros, lower=zeros - options.bound, upper=zeros + options.bound)
        box.random_state = np.random.RandomState(0)  # seeded before each ask
        return nevergrad.optimizers.NGOpt(parametrization=box, budget=budget, num_workers=options.population)

    def _state_to_json(self) -> dict[str, Any]:
        return {"told": self._told}

    def _state_from_json(self, state: dict[str, Any]) -> None:
        """Replays every generation. Raises ``ValueError`` where that does not lead to the positions that were saved."""
        if self.generation == 0:
            return
        generation, told = self.generation, state["told"]
        for self.generation in range(1, len(told) + 1):
            self._propose()
            self._feed(told[self.generation - 1])
        self.generation = generation
        if self.should_stop is None and not np.allclose(self._propose(), self._positions, atol=1e-6):
            raise ValueError(
                "this state of lorahub was saved by another nevergrad: its replay asks for other positions"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what nevergrad warns of inside itself, where a caller can change nothing."""
    with warnings.catch_warnings():
        import nevergrad

        warnings.filterwarnings("ignore", "COBYLA: Invalid", UserWarning)  # settings that nevergrad chose
        warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"scipy\.optimize")  # far steps in its models
        warnings.filterwarnings("ignore", "Conversion of an array with ndim", DeprecationWarning, r"nevergrad\.")
        warnings.simplefilter("ignore", nevergrad.errors.FinishedUnderlyingOptimizerWarning)
        warnings.simplefilter("ignore", nevergrad.errors.InefficientSettingsWarning)
        yield


@contextmanager
def _numpy_kept() -> Iterator[None]:
    """Whatever is done inside, numpy's global generator goes on afterwards as if nothing had been."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)


def _in_a_daemon(call: Callable[[], Any]) -> Any:
    """``call()`` from a daemon thread. Where NGOpt runs a library in a thread of its own (Cobyla), that thread inherits
    this, and an unfinished search does not keep the process from ending."""
    answer: list[Any] = []

    def answered() -> None:
        try:
            answer.extend((call(), None))
        except BaseException as error:
            answer.extend((None, error))

    thread = threading.Thread(target=answered, daemon=True)
    thread.start()
    thread.join()
    result, error = answer
    if error is not None:
        raise error
    return result
