"""What can be seen of a Shoal from outside: one scrape of one replica shows the service and the loop."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from registry.queues import SCORE_SLICE, celery_options
from registry.trace_ids import span_id, trace_id
from tests.conftest import redis_binary_or_skip
from tests.otlp_receiver import Receiver, receiving
from tests.promql import labels_of
from tests.watch_files import ALERTS, alerts, check_query, exported, queries
from tests.watched_house import BOT, KEY, House, house

SAID = "what only this user would say"
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, collector: Receiver) -> Iterator[House]:
    """A house with a run behind it, a trial in it, and one answer of each kind."""
    told = {
        "SHOAL_LOG_FORMAT": "json",
        "SHOAL_LOG_LEVEL": "debug",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with house(redis_binary_or_skip(), tmp_path_factory.mktemp("house"), **told) as opened:
        asked_in_the_shadow(opened)
        assert opened.ask(f"/api/adapters/{BOT}/canary", version=2, share=0.25).is_success
        opened.answers = [
            opened.chat(SAID, user="ann"),
            opened.chat(SAID, user="ann", stream=True),
            opened.chat(SAID, model="base"),
        ]
        opened.chat(SAID, user="bob", model=f"{BOT}@2", max_tokens=0)
        rated = {"adapter": BOT, "version": opened.registry.rollout(BOT).champion, "prompt": "who", "answer": "me"}
        assert opened.ask("/api/feedback", id="rated-1", rating=0.75, **rated).is_success
        yield opened


def asked_in_the_shadow(opened: House) -> None:
    """A trial that answers nobody was asked once."""
    assert opened.ask(f"/api/adapters/{BOT}/canary", version=3, shadow=True).is_success
    assert opened.chat(SAID).is_success
    until = time.monotonic() + 60
    while "shoal_shadow_requests_total" not in opened.metrics():
        assert time.monotonic() < until
        time.sleep(0.1)


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
    assert of(scrape, "shoal_versions_without_place") == 0
    assert of(scrape, "shoal_champion_version", adapter=BOT) == run.version
    assert of(scrape, "shoal_champion_info", adapter=BOT, version=champion) == 1
    assert of(scrape, "shoal_canary_share_ratio", adapter=BOT, version=f"{BOT}@2", shadow="false") == 0.25
    assert of(scrape, "shoal_runs_ended_total", adapter=BOT, outcome="promoted") == 1
    assert of(scrape, "shoal_gate_decisions_total", adapter=BOT, outcome="passed") == 1
    assert of(scrape, "shoal_run_item_generations_total", adapter=BOT) == run.item_generations
    assert of(scrape, "shoal_run_generations_total", adapter=BOT) == run.generation + 1
    assert of(scrape, "shoal_run_scoring_seconds_total", adapter=BOT) == pytest.approx(run.search_seconds)
    assert of(scrape, "shoal_rollout_moves_total", adapter=BOT, kind="promoted", cause="run") == 1
    assert of(scrape, "shoal_rollout_moves_total", adapter=BOT, kind="promoted", cause="operator") == 1
    assert of(scrape, "shoal_rollout_moves_total", adapter=BOT, kind="canary_started", cause="operator") == 2
    assert of(scrape, "shoal_feedback_items", adapter=BOT) == 161
    assert of(scrape, "shoal_feedback_unused_items", adapter=BOT) == 1
    assert of(scrape, "shoal_rating_mean", version=champion) == 0.75
    assert of(scrape, "shoal_ratings_total", version=champion) == 1
    assert {of(scrape, "shoal_queue_messages", queue=queue) for queue in ("control", "score")} == {0}
    assert {of(scrape, "shoal_workers", kind=kind) for kind in ("control", "score", "beat")} == {1}
    assert sum(scrape["shoal_workers_troubled"].values()) == sum(scrape["shoal_runs"].values()) == 0
    assert of(scrape, "process_resident_memory_bytes") > 1e6
    assert any(name.startswith("bentoml_service_") for name in scrape)


def test_every_query_of_the_dashboard_asks_for_what_is_exported(watched: House) -> None:
    """Names, labels and legends; vLLM's are held against a real vLLM, in tests/e2e."""
    known = exported(watched.metrics())
    asked = [each for each in queries() if "vllm:" not in each[1]]
    assert len(asked) > 40
    for panel, expression, legend in asked:
        check_query(panel, expression, legend, known)


def test_every_alert_asks_for_what_is_exported_and_says_what_to_do(watched: House) -> None:
    """Names and labels; its runbook is a section of docs/operations.md; what it tells uses labels that it has."""
    known = exported(watched.metrics())
    page = (ALERTS.parents[2] / "docs/operations.md").read_text(encoding="utf-8")
    sections = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.*)$", page, re.M)
    }
    for name, rule in alerts().items():
        carried = labels_of(rule["expr"], known)
        told = rule["annotations"]["summary"]
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= carried, name
        path, _, section = rule["annotations"]["runbook"].partition("#")
        assert path == "docs/operations.md"
        assert section in sections, (name, section)


def test_a_query_for_what_is_not_there_is_refused() -> None:
    """The check above would fail for a wrong name, a wrong label, a label that a sum has taken away, a wrong legend."""
    known = {"shoal_runs": frozenset({"adapter", "status"}), "shoal_champion_info": frozenset({"adapter", "version"})}
    for wrong in (
        "shoal_run",
        'shoal_runs{adaptor="a"}',
        "sum by (version) (shoal_runs)",
        "max by (status) (sum by (adapter) (shoal_runs))",
        "shoal_runs * on (version) shoal_champion_info",
        "histogram_quantile(0.5, rate(shoal_runs[5m]))",
        "sum(rate(shoal_runs[5m])",
    ):
        with pytest.raises(AssertionError):
            check_query("wrong", wrong, "", known)
    with pytest.raises(AssertionError):
        check_query("wrong", "sum by (adapter) (shoal_runs)", "{{status}}", known)
    right = "max by (adapter) (shoal_runs) * on (adapter) group_left (version) shoal_champion_info"
    check_query("right", right, "{{adapter}} {{version}}", known)


def test_every_line_of_every_log_is_a_json_object(watched: House) -> None:
    """Also Celery's, BentoML's and what is printed: time, level, logger, message, and whose process it is."""
    for path in watched.logs:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines, path
        for line in lines:
            assert {"time", "level", "logger", "message"} <= line.keys()
            assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    service, control, score, beat = (told(path) for path in watched.logs)
    assert any(line.get("replica", "").endswith(f":{watched.service.port}") for line in service)
    assert any(line.get("worker", "").startswith("control@") for line in control)
    assert any(line["logger"] == "celery.worker.strategy" for line in score)
    assert any(line["logger"] == "celery.beat" for line in beat)


def test_lines_name_what_they_are_about(watched: House) -> None:
    """An answer: its request, version and adapter. A move of a run: the run, the adapter, in the end the version."""
    service, control, _score, _beat = (told(path) for path in watched.logs)
    asked = watched.answers[0].headers
    (line,) = [each for each in service if each.get("request_id") == asked["x-request-id"]]
    assert (line["version"], line["adapter"]) == (asked["x-shoal-version"], BOT)
    moves = [line for line in control if line["logger"] == "shoal.runs"]
    assert {(line["run"], line["adapter"]) for line in moves} == {(watched.run.id, BOT)}
    assert moves[0]["message"] == "searching, generation 0 of 2"
    assert moves[-1]["version"] == f"{BOT}@{watched.run.version}"


def test_neither_prompts_nor_keys_are_logged(watched: House) -> None:
    """At the level debug: not what a user asks, not what feedback holds, not the key, in the service or in a worker."""
    written = "".join(path.read_text() for path in watched.logs)
    feedback = watched.registry.feedback.all(BOT)
    asked = {message.content for each in feedback for message in each.messages or ()}
    assert len(asked) > 50
    for secret in (SAID, KEY, *asked):
        assert secret not in written, secret


def test_an_answer_is_a_span_with_its_version(watched: House, collector: Receiver) -> None:
    """By the conventions for HTTP servers and generative AI; below it the wait for the version, and its answer."""
    for answer in watched.answers:
        request_id, version = answer.headers["x-request-id"], answer.headers["x-shoal-version"]
        collector.wait(lambda _, wanted=request_id: bool(collector.of(shoal__request_id=wanted)))  # type: ignore[misc]
        (span,) = collector.of(shoal__request_id=request_id)
        assert (span.name, span.kind, span.parent, span.failed) == ("POST /v1/chat/completions", "server", "", False)
        told = span.attributes
        assert told["shoal.version"] == told["gen_ai.response.model"] == version
        assert told.get("shoal.adapter") == (None if version == "base" else BOT)
        assert (told["gen_ai.operation.name"], told["http.response.status_code"]) == ("chat", 200)
        assert told["gen_ai.request.model"] == (BOT if version != "base" else "base")
        assert span.resource["service.name"] == "shoal-service"
        assert span.resource["service.instance.id"].endswith(f":{watched.service.port}")
        below = [each for each in collector.spans if each.parent == span.span]
        assert {each.name for each in below} == {"admit", f"answer {version}"}
        assert all(span.began <= each.began <= each.ended <= span.ended for each in below)
    whole, streamed = (
        collector.of(shoal__request_id=answer.headers["x-request-id"])[0] for answer in watched.answers[:2]
    )
    assert whole.attributes["gen_ai.usage.output_tokens"] > 1
    assert whole.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert 0 <= streamed.attributes["gen_ai.response.time_to_first_chunk"] < 30
    assert streamed.attributes["gen_ai.request.stream"] is True


def test_a_callers_trace_goes_on_and_its_wish_not_to_be_traced_is_heard(watched: House, collector: Receiver) -> None:
    """A traceparent is honoured, a malformed one is nobody's; an error is a span, too, with its status."""
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    watched.chat(SAID, {"traceparent": f"00-{trace}-{parent}-00", "x-request-id": "untraced"})
    watched.chat(SAID, {"traceparent": f"00-{trace}-zz-01", "x-request-id": "malformed"})
    watched.chat(SAID, {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "unknown"}, model="nobody")
    watched.chat(SAID, {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "wrong"}, temperature=-1)
    watched.chat(SAID, {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "traced"})
    collector.wait(lambda _: bool(collector.of(shoal__request_id="traced")))
    (traced,) = collector.of(shoal__request_id="traced")
    assert (traced.trace, traced.parent) == (trace, parent)
    assert collector.of(shoal__request_id="untraced") == []
    (malformed,) = collector.of(shoal__request_id="malformed")
    assert (malformed.trace != trace, malformed.parent) == (True, "")
    (unknown,) = collector.of(shoal__request_id="unknown")
    assert (unknown.trace, unknown.attributes["http.response.status_code"], unknown.failed) == (trace, 404, False)
    (wrong,) = collector.of(shoal__request_id="wrong")
    assert (wrong.attributes["http.response.status_code"], wrong.attributes["shoal.adapter"]) == (400, BOT)
    lines = [line for line in told(watched.logs[0]) if line.get("request_id") == "traced"]
    assert {line["trace_id"] for line in lines} == {trace}


def test_a_run_is_one_trace_over_all_its_processes(watched: House, collector: Receiver) -> None:
    """run -> queued, each generation, confirm, promote -> the slices, each below the step that its message named."""
    run = watched.run
    trace, root = f"{trace_id(run.id):032x}", f"{span_id(run.id):016x}"
    spans = collector.wait(lambda spans: any(span.span == root for span in spans))
    mine = {span.span: span for span in spans if span.trace == trace}
    whole = mine[root]
    assert (whole.name, whole.parent, whole.failed) == (f"adapt {BOT}", "", False)
    assert whole.attributes["shoal.version"] == f"{BOT}@{run.version}"
    assert whole.attributes["shoal.run.promoted"] is True
    steps = {span.name: span for span in mine.values() if span.parent == root}
    searches = {f"search-{generation}" for generation in range(run.generation + 1)}
    assert steps.keys() == {"queued", *searches, "confirm", "promote"}
    ordered = [steps[name] for name in ("queued", *sorted(searches), "confirm", "promote")]
    assert all(before.ended == after.began for before, after in pairwise(ordered))
    assert abs(ordered[0].began - whole.began) < 1e9
    slices = [span for span in mine.values() if span.name == "score slice"]
    assert {mine[span.parent].name for span in slices} == {*searches, "confirm"}
    assert {span.kind for span in slices} == {"consumer"}
    assert {span.resource["service.name"] for span in mine.values()} == {"shoal-worker"}
    assert len({span.resource["service.instance.id"] for span in mine.values()}) == 2
    assert all(span.attributes["shoal.step"] == mine[span.parent].name for span in slices)
    reported = [span for span in slices if span.attributes["shoal.slice.outcome"] == "reported"]
    scored_once = {(span.attributes["shoal.step"], span.attributes["shoal.slice"]) for span in reported}
    assert len(scored_once) == len(reported) >= len(searches) + 1  # what came twice was done once
    scored = [line for line in told(watched.logs[2]) if line.get("run") == run.id and "trace_id" in line]
    assert {line["trace_id"] for line in scored} <= {trace}


def test_a_workers_span_hangs_where_its_message_says(watched: House, collector: Receiver) -> None:
    """The message carries the context: one that names another trace is followed there."""
    trace, parent = "1" * 32, "2" * 16
    settings = watched.registry.settings
    sender = Celery("test", set_as_current=False)
    sender.conf.update(celery_options(settings.redis_url, settings.namespace))
    message = {"run": watched.run.id, "step": "search-0", "index": 0, "work": {"moves": []}}
    with sender:
        sender.send_task(SCORE_SLICE, kwargs=message, headers={"traceparent": f"00-{trace}-{parent}-01"})
    spans = collector.wait(lambda spans: any(span.trace == trace for span in spans))
    (span,) = [span for span in spans if span.trace == trace]
    assert (span.parent, span.attributes["shoal.slice.outcome"]) == (parent, "nothing to do")


def test_no_span_holds_a_prompt_or_a_key(watched: House, collector: Receiver) -> None:
    feedback = watched.registry.feedback.all(BOT)
    asked = {message.content for each in feedback for message in each.messages or ()}
    held = repr(collector.spans)
    for secret in (SAID, KEY, *asked):
        assert secret not in held, secret


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


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
