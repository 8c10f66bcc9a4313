"""Several tasks at once, none at another's cost: the harmonic mean of their utilities (Model Swarms, arXiv:2410.11163, its
second objective)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from swarm_worker.scoring.engine import Asked, Told
from swarm_worker.statistics import harmonic_mean, mapped
from swarm_worker.utilities.utility import Item, Utility, Verdict


@dataclass(frozen=True)
class Multi:
    """Each item is scored by the utility of its task; ``combine`` gives the harmonic mean over tasks, 0 where one is 0.

    ``tasks``: by task name a utility, its name ("numeric"), or its name with parameters
    (``{"name": "multiple_choice", "smooth": True}``). A task whose utility can be negative (``abstain``) is first mapped from
    its bounds to [0, 1]; without that, a negative number has no harmonic mean. Tasks without an item do not count.
    All answers get the largest ``max_tokens`` of the tasks, for they are generated together.
    """

    name: ClassVar[str] = "multi"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    tasks: Mapping[str, Utility | str | dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", {task: _utility(task, chosen) for task, chosen in self.tasks.items()})

    @property
    def utilities(self) -> dict[str, Utility]:
        """The utility of each task."""
        return self.tasks  # type: ignore[return-value]  # __post_init__ made every one a utility

    def utility_of(self, item: Item) -> Utility:
        """The utility of the item's task. Raises ``ValueError`` for a task that is none of ``tasks``."""
        return self.utilities[self._task(item)]

    @property
    def needs_reference(self) -> bool:
        return any(utility.needs_reference for utility in self.utilities.values())

    def asks(self, items: Sequence[Item]) -> Asked:
        """The questions of the tasks, one task after the other."""
        asked = [self.utilities[task].asks(own) for task, own in self._by_task(items).items()]
        return Asked(
            likelihoods=tuple(question for part in asked for question in part.likelihoods),
            answers=tuple(prompt for part in asked for prompt in part.answers),
            max_tokens=max((part.max_tokens for part in asked if part.answers), default=1),
        )

    def judge(self, items: Sequence[Item], told: Told, reference: Told | None) -> list[Verdict]:
        by_task = self._by_task(items)
        parts = self._split(by_task, told)
        references = self._split(by_task, reference) if reference is not None else {}
        verdicts = {
            task: iter(self.utilities[task].judge(own, parts[task], references.get(task)))
            for task, own in by_task.items()
        }
        return [next(verdicts[self._task(item)]) for item in items]

    def combine(self, items: Sequence[Item], values: Sequence[float | None]) -> float:
        """Raises ``ValueError`` without items, and where of one task no item could be judged."""
        scores: dict[str, list[float | None]] = {}
        for item, value in zip(items, values, strict=True):
            scores.setdefault(self._task(item), []).append(value)
        return harmonic_mean([self._of_task(task, own, items) for task, own in scores.items()])

    def _of_task(self, task: str, values: list[float | None], items: Sequence[Item]) -> float:
        utility = self.utilities[task]
        return mapped(utility.combine([item for item in items if item.task == task], values), utility.bounds)

    def _split(self, by_task: Mapping[str, Sequence[Item]], told: Told) -> dict[str, Told]:
        parts, likelihood, answer = {}, 0, 0
        for task, own in by_task.items():
            asked = self.utilities[task].asks(own)
            ends = likelihood + len(asked.likelihoods), answer + len(asked.answers)
            parts[task] = Told(told.likelihoods[likelihood : ends[0]], told.answers[answer : ends[1]])
            likelihood, answer = ends
        return parts

    def _by_task(self, items: Sequence[Item]) -> dict[str, list[Item]]:
        """The items of each task that has any, in the order of ``tasks``."""
        grouped: dict[str, list[Item]] = {task: [] for task in self.utilities}
        for item in items:
            grouped[self._task(item)].append(item)
        return {task: own for task, own in grouped.items() if own}

    def _task(self, item: Item) -> str:
        if item.task not in self.utilities:
            known = ", ".join(self.utilities) or "none: multi needs tasks={task: utility}"
            raise ValueError(f"item {item.digest[:12]} is of task {item.task!r}; multi has {known}")
        return item.task


def _utility(task: str, chosen: Any) -> Utility:
    from swarm_worker.utilities import make  # the table holds Multi itself

    if isinstance(chosen, str):
        return make(chosen)
    if isinstance(chosen, dict):
        parameters = dict(chosen)
        if "name" not in parameters:
            raise ValueError(f"task {task!r} names no utility: {chosen!r} has no 'name'")
        return make(parameters.pop("name"), **parameters)
    return chosen
