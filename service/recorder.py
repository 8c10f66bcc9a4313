"""Record answers so that feedback can name them: off the request's path, in batches, each drop counted by its reason."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Literal, get_args

from registry.errors import RedactionFailed, RegistryDown
from registry.interactions import Interactions
from registry.recording import Recording
from registry.records import Interaction
from service.recording_rules import RecordingRules
from service.redaction import Redaction

log = logging.getLogger("shoal.interactions")

WAITING = 50_000
"""Answers kept while Redis is away; beyond that the newest are dropped, and counted."""
Reason = Literal["full", "id_taken", "not_text", "redaction", "stopped", "unwritable"]
"""Why an answer that should be recorded is not: too many wait for Redis; its request id was used for another answer before; its
prompt is not text; the redaction hook failed; the service stopped while Redis was away; Redis would not take it."""
REASONS: tuple[Reason, ...] = get_args(Reason)


class Recorder:
    """A thread that writes interactions in batches, as the rules say. ``record`` never waits; reading the rules and the hooks
    are the thread's work, too."""

    def __init__(
        self,
        interactions: Interactions,
        rules: RecordingRules,
        redaction: Redaction,
        *,
        batch: int = 200,
        every: float = 0.05,
    ) -> None:
        self._interactions = interactions
        self._rules = rules
        self._redaction = redaction
        self._batch, self._every = batch, every
        self._waiting: queue.Queue[Interaction] = queue.Queue(maxsize=WAITING)
        self._at_hand: list[Interaction] = []
        self._unwritten: dict[str, datetime] = {}  # of each request id that waits, when its last answer was begun
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="interactions", daemon=True)
        self._lock = threading.Lock()
        self._drops: Counter[Reason] = Counter(dict.fromkeys(REASONS, 0))

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Write what waits, as far as Redis takes it; the rest is counted."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if left := self._due(self._left()):
            self._drop("stopped", left)
            log.warning("%d answers are not recorded: the service stops, and Redis is away", left)

    @property
    def drops(self) -> dict[Reason, int]:
        """How many answers were not recorded although they should have been, by reason."""
        with self._lock:
            return dict(self._drops)

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())

    def record(self, interaction: Interaction) -> None:
        """What the rules do not take, as far as they are known, is not even held until they can be read."""
        due = self._due([interaction])
        if self._rules.current and not due:
            return
        with self._lock:
            self._unwritten[interaction.request_id] = interaction.at
        try:
            self._waiting.put_nowait(interaction)
        except queue.Full:
            self._forget([interaction])
            self._drop("full", due)

    def unrecordable(self, adapter: str, request_id: str) -> None:
        """An answer to a prompt that is not text: it is counted where the rules would have it recorded."""
        if self._rules.of(adapter).takes(request_id):
            self._drop("not_text", 1)

    def waits_beside(self, recorded: Interaction) -> bool:
        """Whether another answer under its request id is still to be written: until then nobody knows which it names."""
        with self._lock:
            return self._unwritten.get(recorded.request_id, recorded.at) != recorded.at

    def settle(self, timeout: float = 2.0) -> None:
        """Wait until what was recorded up to now is written: feedback may follow its answer at once."""
        deadline = time.monotonic() + timeout
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.005)

    def _drop(self, reason: Reason, count: int) -> None:
        with self._lock:
            self._drops[reason] += count

    def _due(self, interactions: Iterable[Interaction]) -> int:
        """How many of them the rules take, as far as they are known."""
        return sum(self._rules.of(one.adapter).takes(one.request_id) for one in interactions)

    def _left(self) -> list[Interaction]:
        left = [*self._at_hand]
        with suppress(queue.Empty):
            while True:
                left.append(self._waiting.get_nowait())
        return left

    def _forget(self, interactions: Iterable[Interaction]) -> None:
        with self._lock:
            for one in interactions:
                if self._unwritten.get(one.request_id) == one.at:
                    del self._unwritten[one.request_id]

    def _write_on(self) -> None:
        self._look()  # so that the policies are known if Redis goes before the first answer
        while True:
            batch = self._at_hand = self._take()
            if not batch:
                if self._stopping.is_set():
                    return
                if self._rules.failing:
                    self._look()
                continue
            while not self._write(batch):
                if self._stopping.wait(1.0):
                    return  # what waits is counted by ``stop``
            self._forget(batch)
            for _ in batch:
                self._waiting.task_done()

    def _look(self) -> None:
        """Read the rules; while they cannot be read this is tried every second, for answers may wait for nothing else."""
        try:
            self._rules.refresh()
        except Exception as error:
            if not isinstance(error, RegistryDown):
                log.warning("which answers are to be recorded cannot be read: %s", error)
            self._stopping.wait(1.0)

    def _take(self) -> list[Interaction]:
        batch: list[Interaction] = []
        try:
            batch.append(self._waiting.get(timeout=self._every))
            while len(batch) < self._batch:
                batch.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _write(self, batch: list[Interaction]) -> bool:
        """False: Redis is away, and nothing of it is written."""
        try:
            self._rules.refresh()
            kept, failed = self._as_kept(batch)
            taken = self._interactions.add_many([one for one, _ in kept], [rule.keep_for for _, rule in kept])
        except RegistryDown as error:
            log.warning("%d answers wait to be recorded: %s", self._waiting.unfinished_tasks, error)
            return False
        except Exception:
            # Whatever it is: recording goes on with the next ones, and these are counted.
            log.exception("%d answers cannot be recorded", len(batch))
            self._drop("unwritable", self._due(batch))
            return True
        if taken:
            log.warning(
                "%d answers are not recorded, their request ids were used before: %s", len(taken), taken[0].request_id
            )
        self._drop("redaction", failed)
        self._drop("id_taken", len(taken))
        return True

    def _as_kept(self, batch: list[Interaction]) -> tuple[list[tuple[Interaction, Recording]], int]:
        """Those that the rules take, as they may be stored, and how many a hook failed on: they are not stored.

        What a hook made stays in the batch: written again after an answer that was lost, it is the same text."""
        kept, failed = [], 0
        for place, interaction in enumerate(batch):
            rule = self._rules.of(interaction.adapter)
            if not rule.takes(interaction.request_id):
                continue
            try:
                names = () if rule.redact is None else (rule.redact,)
                batch[place] = self._redaction.interaction(interaction, names)
                kept.append((batch[place], rule))
            except RedactionFailed as error:
                failed += 1
                log.warning("%s is not recorded: %s", interaction.request_id, error.reason)
        return kept, failed
