"""The bench of kept feedback: which half a command means, and what its verdict asks."""

from __future__ import annotations

import pytest

from bench.feedback import part
from bench.ingest import item, met
from service.auth import Caller
from service.feedback_body import FeedbackBody

GOOD = {
    "posted": 10, "kept": 10, "lost": 0, "double": 0, "kills": 2, "batch_items_per_s": 2000.0, "posts_per_s": 300.0,
    "latency_ratio": 1.1,
}  # fmt: skip


def test_one_command_two_parts() -> None:
    """``--ingest`` means this bench, and is not handed on; anything else the other."""
    assert part(["--ingest", "--quick"]) == ("bench.ingest", ["--quick"])
    assert part(["--quick", "--json", "x"]) == ("bench.feedback_utility", ["--quick", "--json", "x"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"lost": 1},
        {"kept": 9},
        {"double": 1},
        {"kills": 1},
        {"batch_items_per_s": 1999.0},
        {"posts_per_s": 299.0},
        {"latency_ratio": 1.11},
    ],
)
def test_every_bar_is_asked(wrong: dict[str, float]) -> None:
    """One figure that misses its bar is enough."""
    assert met(GOOD)
    assert not met(GOOD | wrong)


def test_items_are_answers_of_their_own_that_the_service_takes() -> None:
    """No two of them replace each other, or the figures could not tell a double from a replacement."""
    some = [item(number) for number in range(500)]
    assert len({(one["messages"][0]["content"], one["answer"]) for one in some}) == 500
    for one in some:
        FeedbackBody.model_validate(one).fields(Caller("x", "", frozenset({"admin"})))
