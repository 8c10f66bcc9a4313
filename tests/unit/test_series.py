"""Which versions have series of their own for Prometheus, and what these count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from registry.records import Rollout, now
from service.series import ANSWER_SECONDS, MOST_LABELS, MOST_PINNED, OTHER, Labels, Times


class Loop:
    """Adapters whose champions change; ``rollout`` is as much of a replica as labels ask."""

    def __init__(self) -> None:
        self.now: dict[str, Rollout] = {}
        self.labels = Labels(self.rollout)

    def rollout(self, adapter: str) -> Rollout | None:
        return self.now.get(adapter)

    def promote(self, adapter: str, champion: int, *, trial: int | None = None) -> None:
        before = self.now.get(adapter)
        trail = (before.champion,) if before and before.champion else ()
        self.now[adapter] = Rollout(
            adapter=adapter, revision=champion, champion=champion, challenger=trial, trail=trail, moved_at=now()
        )

    def answer(self, version: str) -> None:
        self.labels.of(version).requests["ok"] += 1

    def counted(self) -> dict[str, int]:
        return {label: series.requests["ok"] for label, series in self.labels.all().items()}


def test_champions_trials_and_ways_back_keep_their_labels_however_long_the_process_lives() -> None:
    """Ten adapters, a promotion a day each, and callers who name versions of old: no day on which a champion is ``other``."""
    loop, most = Loop(), 0
    for day in range(1, 201):
        for adapter in (f"bot-{number}" for number in range(10)):
            loop.promote(adapter, day, trial=day + 1)
            for number in (day, day + 1, max(1, day - 1), day // 2 + 1):
                loop.answer(f"{adapter}@{number}")
        loop.answer("base")
        loop.labels.tidy()
        counted = loop.counted()
        most = max(most, len(counted))
        kept = {f"{name}@{number}" for name, rollout in loop.now.items() for number in rollout.pinned}
        assert kept | {"base"} <= counted.keys()
    assert counted["base"] == 200
    assert most == MOST_LABELS + 1  # with ``other``


def test_versions_of_no_rollout_share_a_label_beyond_the_first() -> None:
    """Ten thousand versions that callers name do not make ten thousand time series, and what is counted never goes down."""
    loop, before = Loop(), dict[str, int]()
    for number in range(10_000):
        loop.answer(f"bot@{number}")
        if number % 1000 == 0:
            loop.labels.tidy()
            counted = loop.counted()
            assert all(counted[label] >= value for label, value in before.items())
            before = counted
    assert len(loop.counted()) == MOST_LABELS + 1
    assert loop.counted()[OTHER] == 10_000 - MOST_LABELS
    assert loop.counted()["bot@1"] == 1


def test_a_label_ends_when_others_need_the_room_the_one_asked_least_recently_first() -> None:
    loop = Loop()
    for number in range(MOST_LABELS):
        loop.answer(f"old@{number}")
    loop.answer("old@0")
    loop.promote("bot", 1)
    loop.answer("bot@1")
    assert len(loop.counted()) == MOST_LABELS + 1
    loop.labels.tidy()
    assert len(loop.counted()) == MOST_LABELS
    assert {"bot@1", "old@0"} <= loop.counted().keys()
    assert "old@1" not in loop.counted()
    loop.answer("old@1")  # it does not come back from 0
    assert loop.counted()[OTHER] == 1


def test_there_is_a_bound_also_for_rollouts() -> None:
    loop = Loop()
    for number in range(3 * MOST_PINNED):
        loop.promote(f"bot-{number}", 1)
        loop.answer(f"bot-{number}@1")
        loop.labels.tidy()
    assert len(loop.counted()) == MOST_PINNED + 1


@given(st.lists(st.one_of(st.floats(0.0, 100.0), st.sampled_from(ANSWER_SECONDS)), max_size=50))
def test_times_are_counted_as_prometheus_counts_them(seconds: list[float]) -> None:
    """Against prometheus_client's own histogram; a bound belongs to the bucket below it."""
    theirs = Histogram("h", "h.", buckets=ANSWER_SECONDS, registry=CollectorRegistry())
    ours = Times(ANSWER_SECONDS)
    for each in seconds:
        theirs.observe(each)
        ours.add(each)
    (family,) = theirs.collect()
    buckets = [(sample.labels["le"], sample.value) for sample in family.samples if sample.name == "h_bucket"]
    assert ours.buckets == buckets
    assert ours.total == sum(seconds)
