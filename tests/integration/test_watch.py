"""What can be seen of a Shoal from outside: one scrape of one replica shows the service and the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import redis_binary_or_skip
from tests.watched_house import BOT, House, house

Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house with a run behind it, a trial in it, and one answer of each kind."""
    with house(redis_binary_or_skip(), tmp_path_factory.mktemp("house")) as opened:
        assert opened.ask(f"/api/adapters/{BOT}/canary", version=2, share=0.25).is_success
        opened.answers = [
            opened.chat("who are you", user="ann"),
            opened.chat("who are you", user="ann", stream=True),
            opened.chat("who are you", model="base"),
        ]
        rated = {"adapter": BOT, "version": opened.registry.rollout(BOT).champion, "prompt": "who", "answer": "me"}
        assert opened.ask("/api/feedback", id="rated-1", rating=0.75, **rated).is_success
        yield opened


def samples(text: str) -> Samples:
    """Every sample of a scrape, by name and labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def of(scrape: Samples, name: str, **labels: str) -> float:
    """The one sample with these labels, among others."""
    (value,) = [value for given, value in scrape.get(name, {}).items() if frozenset(labels.items()) <= given]
    return value


def settled(watched: House) -> Samples:
    """A scrape that has read the registry anew."""
    time.sleep(5.1)  # a look is kept for five seconds
    return samples(watched.metrics())


def test_one_scrape_shows_service_and_loop(watched: House) -> None:
    """Requests by version, the rollout, the trial, the run's outcome, its work, the gate, the moves, the queues, the feedback."""
    scrape = settled(watched)
    run = watched.run
    champion = f"{BOT}@{run.version}"
    assert run.promoted, run.outcome
    answered = {dict(labels)["version"] for labels in scrape["shoal_requests_total"]}
    assert "base" in answered
    assert answered & {champion, f"{BOT}@2"}
    assert of(scrape, "shoal_registry_up") == of(scrape, "shoal_replica_ready") == of(scrape, "shoal_replicas") == 1
    assert of(scrape, "shoal_champion_version", adapter=BOT) == run.version
    assert of(scrape, "shoal_champion_info", adapter=BOT, version=champion) == 1
    assert of(scrape, "shoal_canary_share_ratio", adapter=BOT, version=f"{BOT}@2", shadow="false") == 0.25
    assert of(scrape, "shoal_runs_ended_total", adapter=BOT, outcome="promoted") == 1
    assert of(scrape, "shoal_gate_decisions_total", adapter=BOT, outcome="passed") == 1
    assert of(scrape, "shoal_run_item_generations_total", adapter=BOT) == run.item_generations
    assert of(scrape, "shoal_run_generations_total", adapter=BOT) == run.generation
    assert of(scrape, "shoal_run_scoring_seconds_total", adapter=BOT) == pytest.approx(run.search_seconds)
    assert of(scrape, "shoal_rollout_moves_total", adapter=BOT, kind="promoted", cause="run") == 1
    assert of(scrape, "shoal_rollout_moves_total", adapter=BOT, kind="promoted", cause="operator") == 1
    assert of(scrape, "shoal_rollout_moves_total", adapter=BOT, kind="canary_started", cause="operator") == 1
    assert of(scrape, "shoal_feedback_items", adapter=BOT) == 121
    assert of(scrape, "shoal_feedback_unused_items", adapter=BOT) == 1
    assert of(scrape, "shoal_rating_mean", version=champion) == 0.75
    assert of(scrape, "shoal_ratings_total", version=champion) == 1
    assert {of(scrape, "shoal_queue_messages", queue=queue) for queue in ("control", "score")} == {0}
    assert sum(scrape["shoal_runs"].values()) == 0
    assert of(scrape, "process_resident_memory_bytes") > 1e6
    assert any(name.startswith("bentoml_service_") for name in scrape)


def test_with_redis_gone_a_scrape_says_so_and_leaves_out_what_it_cannot_know(watched: House) -> None:
    """It is answered soon, with what the replica knows by itself: the rollouts, what waits on its disk."""
    watched.redis.hang()
    try:
        until = time.monotonic() + 60
        while of(scrape := samples(watched.metrics()), "shoal_registry_up"):
            assert time.monotonic() < until
        began = time.monotonic()
        scrape = samples(watched.metrics())
        assert time.monotonic() - began < 5
        assert of(scrape, "shoal_champion_version", adapter=BOT) == watched.run.version
        assert "shoal_runs" not in scrape
        assert "shoal_feedback_items" not in scrape
        rated = {"adapter": BOT, "version": 1, "prompt": "who", "answer": "me", "rating": 1}
        assert watched.ask("/api/feedback", id="spooled-1", **rated).status_code == 202
        scrape = samples(watched.metrics())
        assert of(scrape, "shoal_feedback_spooled") == 1
        assert of(scrape, "shoal_feedback_spool_bytes") > 10
    finally:
        watched.redis.go_on()
    until = time.monotonic() + 60
    while of(scrape := samples(watched.metrics()), "shoal_feedback_spooled") or "shoal_feedback_items" not in scrape:
        assert time.monotonic() < until
        time.sleep(0.2)
