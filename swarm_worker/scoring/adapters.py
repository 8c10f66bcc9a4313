"""Candidates as adapters for an engine that loads files: written, named once and never again, deleted afterwards.

``AdapterEngine`` is what such engines share: who is asked together, and what lies on disk meanwhile.
"""

from __future__ import annotations

import itertools
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from swarm_worker.expert import read_expert
from swarm_worker.hull import ExpertStack, HullOptions
from swarm_worker.scoring.chat import Chat, TokenisedAsked
from swarm_worker.scoring.engine import AdapterFolder, Asked, Base, Candidate, Prompt, Scored, Told

NO_OPTIONS = HullOptions()
# A file system in memory, where there is one: an adapter lives for one batch.
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of its own is made there, with a random name


class WrittenAdapter(NamedTuple):
    """``number``, ``name``: never given to another adapter."""

    number: int
    name: str
    folder: Path


class AdapterWriter:
    """Writes what is scored for an engine that takes ranks up to ``max_rank``, and only in the linear layers ``modules``
    (the last parts of their names; None: any)."""

    def __init__(self, max_rank: int, modules: Sequence[str] | None, place: Path | None = None) -> None:
        self.max_rank = max_rank
        self.modules = modules
        self._place = place or (IN_MEMORY if IN_MEMORY.is_dir() else Path(tempfile.gettempdir()))
        self._numbers = itertools.count(1)
        self._prefix = f"shoal-{uuid.uuid4().hex[:12]}"
        self._stack: ExpertStack | None = None
        self._hull: tuple[tuple[Path, ...], HullOptions] | None = None

    def set_experts(self, folders: Sequence[Path], options: HullOptions) -> None:
        if (tuple(folders), options) == self._hull:
            return
        stack = ExpertStack.load(list(folders), options)
        self._require_modules(stack.modules, "the experts")
        self._stack, self._hull = stack, (tuple(folders), options)

    def check(self, scored: Scored) -> None:
        """Raises ``ValueError`` for what cannot be written: a candidate without experts, too many coefficients, an
        adapter that the engine would refuse or, worse, apply in part."""
        if isinstance(scored, Candidate):
            if self._stack is None:
                raise ValueError("a candidate needs experts: call set_experts first")
            self._stack.require_space(scored.space)
            if len(scored.coefficients) != self._stack.dimensions:
                raise ValueError(f"{len(scored.coefficients)} coefficients for {self._stack.dimensions} dimensions")
        elif isinstance(scored, AdapterFolder):
            modules = read_expert(scored.folder).modules
            self._require_modules(modules, str(scored.folder))
            rank = max(module.rank for module in modules.values())
            if rank > self.max_rank:
                raise ValueError(f"{scored.folder} has rank {rank}, the engine's max_lora_rank is {self.max_rank}")

    @contextmanager
    def written(self, scored: Sequence[Scored]) -> Iterator[list[WrittenAdapter]]:
        """For a while, the candidates and adapters as PEFT folders, float32; a candidate of a higher rank is cut."""
        with tempfile.TemporaryDirectory(prefix=f"{self._prefix}-", dir=self._place) as parent:
            Path(parent).chmod(0o755)  # a server under another user reads it
            yield [self._write(one, Path(parent)) for one in scored]

    def _write(self, scored: Scored, parent: Path) -> WrittenAdapter:
        number = next(self._numbers)
        name = f"{self._prefix}-{number}"
        if isinstance(scored, AdapterFolder):
            return WrittenAdapter(number, name, scored.folder)
        if not isinstance(scored, Candidate) or self._stack is None:
            raise TypeError(f"{scored!r} is not written as an adapter")
        space, rank = scored.space, self.max_rank
        self._stack.write(scored.coefficients, parent / name, space=space, max_rank=rank, dtype="float32")
        return WrittenAdapter(number, name, parent / name)

    def _require_modules(self, modules: Iterable[str], whose: str) -> None:
        if self.modules is None:
            return
        foreign = sorted({name.rpartition(".")[2] for name in modules}.difference(self.modules))
        if foreign:
            raise ValueError(
                f"{whose} adapt {', '.join(foreign)}; the engine was told to adapt {', '.join(self.modules)} "
                "(lora_modules)"
            )


class AdapterEngine(ABC):
    """A ``ScoringEngine`` but for how it is asked. ``at_once``: adapters that are asked, and on disk, together."""

    def __init__(self, chat: Chat, writer: AdapterWriter, at_once: int) -> None:
        self._chat = chat
        self._writer = writer
        self._at_once = at_once

    @property
    @abstractmethod
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""

    @abstractmethod
    def _ask_base(self, question: TokenisedAsked, asked: Asked) -> Told:
        """The same question in tokens and in words, put to the base alone."""

    @abstractmethod
    def _ask_adapters(self, adapters: Sequence[WrittenAdapter], question: TokenisedAsked, asked: Asked) -> list[Told]:
        """Put to each of ``adapters``; none of them is loaded when this returns, whatever happens."""

    def set_experts(self, folders: Sequence[Path], options: HullOptions = NO_OPTIONS) -> None:
        """Raises ``UnusableExpert``, or ``ValueError`` where an expert adapts a layer that the engine does not."""
        self._writer.set_experts(folders, options)

    def length(self, prompt: Prompt, answer: str) -> int:
        return len(self._chat.tokenise(prompt, answer))

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        """The base by itself, for vLLM on CPU may answer its rows with the weights of adapters that share their batch; the
        rest in chunks. Raises ``ValueError`` for what cannot be written, before anything is asked."""
        question = self._chat.tokenise_all(asked, self.context)
        for one in scored:
            self._writer.check(one)
        told: dict[int, Told] = {}
        bases = [number for number, one in enumerate(scored) if isinstance(one, Base)]
        if bases:
            told.update(dict.fromkeys(bases, self._ask_base(question, asked)))
        adapters = [number for number in range(len(scored)) if number not in told]
        for start in range(0, len(adapters), self._at_once):
            numbers = adapters[start : start + self._at_once]
            with self._writer.written([scored[number] for number in numbers]) as written:
                told.update(zip(numbers, self._ask_adapters(written, question, asked), strict=True))
        return [told[number] for number in range(len(scored))]
