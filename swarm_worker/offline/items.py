"""Which items a search sees, which confirm it, which test it: drawn from files, never one in two parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.canonical import digest
from swarm_worker import datasets
from swarm_worker.datasets import Dataset
from swarm_worker.offline.config import DataConfig
from swarm_worker.splits import Splits, check_disjoint, content_hash, split
from swarm_worker.utilities import Item


@dataclass(frozen=True, slots=True)
class Drawn:
    """``training``: for baselines that train, and for nothing else."""

    search: tuple[Item, ...]
    confirm: tuple[Item, ...]
    test: tuple[Item, ...]
    training: tuple[Item, ...] = ()

    def parts(self) -> dict[str, tuple[Item, ...]]:
        return {"search": self.search, "confirm": self.confirm, "test": self.test}

    def digests(self) -> dict[str, str]:
        """One digest a part, training among them, over its items' digests in order."""
        parts = self.parts() | {"training": self.training}
        return {name: digest([item.digest for item in part]) for name, part in parts.items()}


def draw(data: DataConfig) -> Drawn:
    """Raises ``ValueError`` where there are too few items, ``LeakedItems`` where one would be in two parts."""
    sources = _sources(data)
    drawn = [
        _of_one(
            source, data, tuple(_share(size, number, len(sources)) for size in (data.search, data.confirm, data.test))
        )
        for number, source in enumerate(sources)
    ]
    whole = Splits(
        tuple(item for part in drawn for item in part.search),
        tuple(item for part in drawn for item in part.confirm),
        tuple(item for part in drawn for item in part.test),
        data.by,
    )
    training = datasets.load(data.training, chat=data.chat).dev if data.training else ()
    check_disjoint({"training": training, "confirm": whole.confirm, "test": whole.test}, by=data.by)
    return Drawn(whole.search, whole.confirm, whole.test, training)


def _sources(data: DataConfig) -> list[Dataset]:
    """One a task."""
    if data.lm_eval is not None:
        source = datasets.from_lm_eval(data.lm_eval)
        return [source.deduplicated() if data.deduplicate else source]
    files: list[tuple[str | None, Path]] = [(None, data.file)] if data.file else [*data.files.items()]
    return [datasets.load(file, chat=data.chat, task=task, deduplicate=data.deduplicate) for task, file in files]


def _share(size: int | None, number: int, of: int) -> int | None:
    """Of ``size`` items, those of task ``number``: equal parts, the first ones of what is left over."""
    return None if size is None else size // of + (number < size % of)


def _of_one(source: Dataset, data: DataConfig, sizes: tuple[int | None, ...]) -> Splits:
    """One source's share of the items; what is wrong with it is told with what of ``data`` would mend it."""
    try:
        return _split(source, data, sizes)
    except ValueError as error:  # LeakedItems among them, which keeps its kind
        error.args = (f"data: {source.name}: {error}; {_remedy(source, data)}",)
        raise


def _remedy(source: Dataset, data: DataConfig) -> str:
    different = source.deduplicated()
    sizes = f"{len(different.dev)} questions in dev and {len(different.test)} in test"
    would = "has left" if data.deduplicate else "(each question once, and none of test in dev) leaves"
    return f"data.deduplicate: true {would} {sizes}; data.search, data.confirm and data.test say how many are drawn"


def _split(source: Dataset, data: DataConfig, sizes: tuple[int | None, ...]) -> Splits:
    search, confirm, test = sizes[0] or 0, sizes[1] or 0, sizes[2]
    if source.test:  # the file says itself what claims are measured on
        drawn = split(source.dev, search=search, confirm=confirm, seed=data.seed, by=data.by)
        wanted = _different(source.test, data) if test is None else test
        tested = split(source.test, search=wanted, seed=data.seed, by=data.by).search
        return Splits(drawn.search, drawn.confirm, tested, data.by)
    left = max(0, _different(source.dev, data) - search - confirm) if test is None else test
    return split(source.dev, search=search, confirm=confirm, test=left, seed=data.seed, by=data.by)


def _different(items: Sequence[Item], data: DataConfig) -> int:
    return len({content_hash(item, data.by) for item in items})
