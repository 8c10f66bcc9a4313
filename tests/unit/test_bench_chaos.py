"""The judge of the killed runs: what counts as an event that is there twice, and what as one that is missing."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from bench.story import Story


class Recorded(Story):
    """A story whose service answers from a list."""

    def _fresh(self) -> Any:
        return nullcontext(self.client)


def story(told: list[int], stream: list[int], events: list[str], *, promoted: bool = True) -> Story:
    """A run of revision 3 whose watcher was told ``told``, with this stream and these events of its adapter."""

    class Answers:
        """What the service would answer."""

        def _stream(self, run_id: str) -> list[dict[str, Any]]:
            return [{"revision": revision} for revision in stream]

        def history(self, adapter: str, limit: int) -> list[dict[str, Any]]:
            return [{"kind": kind, "by": "run-1"} for kind in events] + [{"kind": "promoted", "by": "ann"}]

    made = Recorded.__new__(Recorded)
    made.client, made.adapter = Answers(), "bot"  # type: ignore[assignment]
    made.run = {"id": "run-1", "revision": 3, "promoted": promoted, "status": "done"}
    made.states = [{"revision": revision} for revision in told]
    return made


@pytest.mark.parametrize(
    ("told", "stream", "events", "twice", "missing"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3], ["registered", "promoted"], 0, 0),
        ([0, 1, 2, 3], [0, 1, 1, 2, 3], ["registered", "promoted"], 1, 0),
        ([0, 1, 2, 3], [0, 1, 2, 3], ["registered", "promoted", "promoted"], 1, 0),
        ([0, 1, 3], [0, 1, 2, 3], ["registered", "promoted"], 0, 1),
        ([0, 1, 2, 3], [0, 1, 3], ["registered"], 0, 2),
    ],
)
def test_events_are_counted(told: list[int], stream: list[int], events: list[str], twice: int, missing: int) -> None:
    """Each state and each event of the run once, no other's among them."""
    judged = story(told, stream, events)
    assert (judged.duplicates(), judged.missing()) == (twice, missing)


def test_a_run_that_did_not_promote_misses_no_promotion() -> None:
    """And its weights are no one's."""
    judged = story([0, 1, 2, 3], [0, 1, 2, 3], [], promoted=False)
    assert judged.missing() == 0
    assert judged.digest() == ""
