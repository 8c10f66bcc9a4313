"""``run.yaml``: everything that an off-line search is, in one frozen value.

Paths are relative to the file they stand in. What is not set is set by ``preset`` (swarm_worker/presets.py). Unknown keys
and bad values are refused with the field's name and what is allowed there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from swarm_worker.hull import Space
from swarm_worker.hull_options import HullOptions
from swarm_worker.presets import PRESETS
from swarm_worker.racing import Racing
from swarm_worker.splits import By

PresetName = Literal["shoal", "paper"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Named(_Frozen):
    """Something from a table, and how it differs from what the table says. In YAML a bare name will do."""

    name: str
    options: dict[str, Any] = {}


class OptimizerConfig(Named):
    preset: str | None = None


class EngineConfig(Named):
    """``mode``: how candidates share the base, where the engine knows several ways; None: its own default."""

    name: str = "transformers"
    mode: str | None = None


class DataConfig(_Frozen):
    """Where items come from (swarm_worker/datasets.py) and how many are drawn for what; ``test`` None: all that are left.

    ``file``: JSONL, or the paper's JSON; or ``files``: one a task, for the ``multi`` utility, each with an equal part of the
    items; or ``lm_eval``: a task of lm-eval. ``chat``: a question is a user's message, for models with a chat template.
    ``by``: what makes two items the same. ``deduplicate``: of items that ask the same, test keeps the first, and dev has
    none that test asks. ``training``: items for baselines that train.
    """

    file: Path | None = None
    files: dict[str, Path] = {}
    lm_eval: str | None = None
    chat: bool = False
    by: By = "item"
    deduplicate: bool = False
    training: Path | None = None
    search: Annotated[int, Field(ge=1)] = 100
    confirm: Annotated[int, Field(ge=1)] = 100
    test: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum((self.file is not None, bool(self.files), self.lm_eval is not None)) != 1:
            raise ValueError("give one of file (a file), files (task: file) or lm_eval (the name of a task)")
        return self


class HullConfig(_Frozen):
    """``space``: None is the preset's. ``max_rank``: of the adapter that is written. The rest is ``HullOptions``."""

    space: Space | None = None
    include_base: bool = False
    sparse_copies: int = 0
    density: float = 0.5
    layer_groups: int = 1
    seed: int = 0
    max_rank: Annotated[int, Field(ge=1)] = 16

    @model_validator(mode="after")
    def _as_the_hull_says(self) -> Self:
        _ = self.options
        return self

    @property
    def options(self) -> HullOptions:
        return HullOptions(**self.model_dump(exclude={"space", "max_rank"}))


class BudgetConfig(_Frozen):
    """What a search may spend, starting scores included: item-generations, or evaluations (positions scored on all the
    search items)."""

    item_generations: Annotated[int, Field(ge=1)] | None = None
    evaluations: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if (self.item_generations is None) == (self.evaluations is None):
            raise ValueError("give either item_generations or evaluations")
        return self

    def of(self, n_items: int) -> int:
        """In item-generations."""
        return self.item_generations if self.item_generations is not None else (self.evaluations or 0) * n_items


class RacingConfig(_Frozen):
    """See ``swarm_worker.racing.Racing``."""

    blocks: tuple[float, ...] = Racing().blocks
    level: float = Racing().level
    min_items: int = Racing().min_items

    @model_validator(mode="after")
    def _as_racing_says(self) -> Self:
        _ = self.racing
        return self

    @property
    def racing(self) -> Racing:
        return Racing(self.blocks, self.level, self.min_items)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _experts(value: Any) -> Any:
    """A list of folders is named by their last parts."""
    if not isinstance(value, list):
        return value
    names = [Path(str(folder)).name for folder in value]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two experts would be called {', '.join(twice)}: give them as name: folder")
    return dict(zip(names, value, strict=True))


def _file(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


def _racing(value: Any) -> Any:
    return {} if value is True else None if value is False else value


class RunConfig(_Frozen):
    """One search. ``utility`` is what users want: it is confirmed and tested. ``score`` is what the search climbs on;
    None: the utility itself, or its smooth twin where the preset says so. ``champion``: what the finalist must beat and
    is compared with by a utility that compares, an expert's name or ``base``; None: the expert that is best on the search
    items (and the base as the reference). ``finalists``: 1 goes to confirm; of several, one half of confirm chooses and
    the other decides."""

    base: str
    experts: Annotated[dict[str, Path], BeforeValidator(_experts), Field(min_length=1)]
    data: Annotated[DataConfig, BeforeValidator(_file)]
    utility: Annotated[Named, BeforeValidator(_named)]
    score: Annotated[Named | None, BeforeValidator(_named)] = None
    preset: PresetName = "shoal"
    hull: HullConfig = HullConfig()
    optimizer: Annotated[OptimizerConfig | None, BeforeValidator(_named)] = None
    engine: Annotated[EngineConfig, BeforeValidator(_named)] = EngineConfig()
    champion: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    budget: BudgetConfig | None = None
    racing: Annotated[RacingConfig | None, BeforeValidator(_racing)] = None
    finalists: Annotated[int, Field(ge=1)] = 1
    out: Path | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.champion is not None and self.champion not in (*self.experts, "base"):
            raise ValueError(f"champion must be one of {', '.join([*self.experts, 'base'])}, not {self.champion!r}")
        if taken := sorted({"base", "found"} & set(self.experts)):
            raise ValueError(
                f"experts: {taken[0]!r} is what a report calls something else; give the expert another name"
            )
        if self.preset == "paper" and self.racing is not None:
            raise ValueError("racing is not part of the paper: leave racing out, or use preset: shoal")
        return self

    @property
    def space(self) -> Space:
        return self.hull.space or PRESETS[self.preset].space

    def identity(self) -> dict[str, Any]:
        """The config as JSON without what does not change the result."""
        return self.model_dump(mode="json", exclude={"out"})


class BadConfig(ValueError):
    """A run.yaml that cannot be used; one line for each thing that is wrong."""


def load(file: Path) -> RunConfig:
    """Read ``file``. Raises ``BadConfig`` with every wrong field, what is wrong and what is allowed."""
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig(f"{file} cannot be read: {error.strerror}. Give the path of a run.yaml.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{file} is not YAML: {error}") from error
    if not isinstance(value, dict):
        raise BadConfig(f"{file} must hold keys and values: {', '.join(RunConfig.model_fields)}")
    try:
        config = RunConfig.model_validate(value)
    except ValidationError as wrong:
        raise BadConfig("\n".join(f"{file}: {line}" for line in _explained(wrong))) from wrong
    return _located(config, file)


def _explained(wrong: ValidationError) -> list[str]:
    lines = []
    for error in wrong.errors(include_url=False):
        place = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            lines.append(f"{place}: there is no such key; allowed are {', '.join(_keys_beside(error['loc']))}")
        elif error["type"] == "missing":
            lines.append(f"{place}: is missing")
        else:
            told = error["msg"].removeprefix("Value error, ")
            given = f", not {error['input']!r}" if place and not isinstance(error["input"], dict) else ""
            lines.append(f"{place}: {told}{given}" if place else told)
    return lines


def _keys_beside(place: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in place[:-1]:
        annotation = model.model_fields[str(part)].annotation
        kinds = [annotation, *get_args(annotation)]
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(model.model_fields)


def _located(config: RunConfig, file: Path) -> RunConfig:
    """With paths that hold from anywhere. The base may be a Hugging Face id: only what looks like a path must exist."""
    here = file.resolve().parent
    base = here / config.base
    if not base.is_dir() and (config.base.startswith((".", "/", "~")) or config.base.count("/") != 1):
        raise BadConfig(f"{file}: base: {base} is no folder, and {config.base!r} is no Hugging Face id (owner/name)")
    experts = {name: here / folder for name, folder in config.experts.items()}
    for name, folder in experts.items():
        if not (folder / "adapter_config.json").is_file():
            raise BadConfig(f"{file}: experts.{name}: {folder} is no PEFT folder: it has no adapter_config.json")

    def found(field: str, path: Path | None) -> Path | None:
        if path is not None and not (here / path).is_file():
            raise BadConfig(f"{file}: data.{field}: there is no file {here / path}")
        return path and here / path

    data = {
        "file": found("file", config.data.file),
        "files": {task: found(f"files.{task}", path) for task, path in config.data.files.items()},
        "training": found("training", config.data.training),
    }
    return config.model_copy(
        update={
            "base": str(base) if base.is_dir() else config.base,
            "experts": experts,
            "data": config.data.model_copy(update=data),
            "out": config.out and here / config.out,
        }
    )
