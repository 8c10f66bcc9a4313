"""Three service processes on one machine: what one is told, all answer by. Real ``bentoml serve``, stub engines, real Redis."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.registry import Registry
from registry.settings import RegistrySettings
from tests.asking import asked_without_pause
from tests.peft_folders import write_adapter
from tests.stub_service import StubService, running

ASK = {"model": "bot", "prompt": "who", "max_tokens": 2}


@pytest.fixture(scope="module")
def settings(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> RegistrySettings:
    folder = tmp_path_factory.mktemp("three")
    return RegistrySettings(
        redis_url=redis_url,
        namespace="three-replicas",
        artifacts_url=str(folder / "artifacts"),
        cache_dir=str(folder / "cache"),
    )


@pytest.fixture(scope="module")
def registry(settings: RegistrySettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    opened = Registry.open(settings)
    folder = tmp_path_factory.mktemp("experts")
    for number in range(4):
        opened.register("bot", write_adapter(folder / str(number), seed=number), by="test")
    opened.promote("bot", 1, by="test")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def three(
    registry: Registry, settings: RegistrySettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[StubService]]:
    """The third hears no hint: its user may not listen to any channel."""
    folder = tmp_path_factory.mktemp("services")
    registry.redis.execute_command("ACL", "SETUSER", "deaf", "on", ">unheard", "~*", "+@all", "resetchannels")
    deaf = settings.model_copy(update={"redis_url": settings.redis_url.replace("redis://", "redis://deaf:unheard@")})
    services = [
        StubService(its, folder / name, SHOAL_READY_TIMEOUT="20")
        for name, its in (("one", settings), ("two", settings), ("deaf", deaf))
    ]
    with running(*services):
        yield services
    registry.redis.execute_command("ACL", "DELUSER", "deaf")


def answered_by(service: StubService, **more: str) -> str:
    answer = httpx.post(f"{service.url}/v1/completions", json=ASK | more, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-shoal-version"]


def promote(service: StubService, version: int) -> httpx.Response:
    return httpx.post(f"{service.url}/api/adapters/bot/promote", json={"version": version}, timeout=60)


def test_after_a_move_nobody_answers_with_the_old_version_for_more_than_a_second(three: list[StubService]) -> None:
    """Also the replica that hears no hint. Each is asked without pause; every answer that began a second or more after the
    move was given by the new version."""
    with asked_without_pause(ASK, *(service.url for service in three)) as seen:
        moved = promote(three[0], 2)
        at = time.monotonic()
        time.sleep(2.0)

    assert moved.status_code == 200, moved.text
    late = {version for _, began, version in seen if began > at + 1.0}
    assert late == {"bot@2"}
    assert {version for _, _, version in seen} == {"bot@1", "bot@2"}


def test_what_a_move_asked_for_ends_with_it(three: list[StubService], registry: Registry) -> None:
    """Else the versions of the last moves, each wished for still, would push each other out without end."""
    assert promote(three[0], 2).status_code == 200

    assert registry.replicas.wanted() == []


def test_one_that_cannot_refuses_the_move_for_all(three: list[StubService], registry: Registry) -> None:
    """The bytes are gone before the third replica has read them: 409 with its reason, the champion unmoved everywhere. Put
    right and asked again, the same version is promoted."""
    assert {answered_by(service, model="bot@3") for service in three[:2]} == {"bot@3"}
    digest = registry.version("bot", 3).digest
    place = next(
        path for path in Path(registry.settings.artifacts_url).rglob("*") if path.name in digest and path.is_dir()
    )
    aside = place.with_name("aside")
    place.rename(aside)

    refused = promote(three[0], 3)

    assert refused.status_code == 409, refused.text
    reasons = refused.json()["error"]["details"]["replicas"]
    assert registry.replicas.wanted() == []
    assert [replica.rpartition(":")[2] for replica in reasons] == [str(three[2].port)]
    assert all("does not hold it" in why for why in reasons.values())
    assert {answered_by(service) for service in three} == {"bot@2"}
    aside.rename(place)
    assert promote(three[0], 3).status_code == 200
    time.sleep(1.0)
    assert {answered_by(service) for service in three} == {"bot@3"}


def test_a_replica_that_falls_silent_drops_out_and_catches_up_when_it_is_back(three: list[StubService]) -> None:
    """Stopped in its tracks it cannot be asked: the move goes on when its heartbeat has ended, long before the deadline.
    Awake again, it answers by the new version within a second."""
    (worker,) = three[1].workers()
    os.kill(worker, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert promote(three[0], 4).status_code == 200
        assert time.monotonic() - began < 15
    finally:
        os.kill(worker, signal.SIGCONT)
    time.sleep(1.0)
    assert {answered_by(service) for service in three} == {"bot@4"}


def test_a_replica_that_starts_has_converged_before_it_is_ready(
    three: list[StubService], settings: RegistrySettings, tmp_path: Path
) -> None:
    """Its first answer is the champion's, given by a version that is loaded."""
    late = StubService(settings, tmp_path / "late")
    with running(late):
        holds = httpx.get(f"{late.url}/api/status", timeout=10).json()["replicas"]
        assert "bot@4" in next(one["holds"] for one in holds if one["id"].endswith(f":{late.port}"))
        assert answered_by(late) == "bot@4"


def test_a_session_stays_on_its_side_on_every_replica(three: list[StubService]) -> None:
    """The same ``user`` gets the same version wherever a balancer sends it; a larger share moves sessions one way only."""
    sides: dict[float, dict[str, set[str]]] = {}
    for share in (0.2, 0.6):
        body = {"version": 2, "share": share}
        assert httpx.post(f"{three[0].url}/api/adapters/bot/canary", json=body, timeout=60).status_code == 200
        time.sleep(1.0)
        sides[share] = {f"u{n}": {answered_by(service, user=f"u{n}") for service in three} for n in range(24)}
        assert all(len(versions) == 1 for versions in sides[share].values())
    moved = {user for user in sides[0.2] if sides[0.2][user] != sides[0.6][user]}
    assert all(sides[0.6][user] == {"bot@2"} for user in moved)
    assert {side for versions in sides[0.6].values() for side in versions} == {"bot@2", "bot@4"}


def test_a_trial_in_the_shadow_answers_nobody_and_is_scored(three: list[StubService], registry: Registry) -> None:
    """Every user is answered by the champion; the challenger's answers are counted apart, compared, and kept to be rated.
    The figures are those of all replicas."""
    body = {"version": 2, "share": 0.0, "shadow": True}
    assert httpx.post(f"{three[0].url}/api/adapters/bot/canary", json=body, timeout=60).status_code == 200
    time.sleep(1.0)
    before = figures(three[0])
    ask = ASK | {"max_tokens": 8, "stream": True}
    for number, service in enumerate(three):
        answer = httpx.post(
            f"{service.url}/v1/completions", json=ask, headers={"x-request-id": f"told-{number}"}, timeout=30
        )
        assert answer.headers["x-shoal-version"] == "bot@4"
    deadline = time.monotonic() + 20
    while figures(three[0]).get(2, {"shadow": {"requests": 0}})["shadow"]["requests"] < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    after = figures(three[1])
    assert after[4]["requests"] >= before[4]["requests"] + 3  # those of the test before may still come in
    assert (after[4]["place"], after[2]["place"]) == ("champion", "shadow")
    assert after[4]["seconds_to_first_p50"] is not None
    assert after[2]["shadow"]["errors"] == after[2]["shadow"]["exact"] == 0
    assert 0.5 < after[2]["shadow"]["agreement"] < 1.0  # they say who they are, and then the same
    kept = registry.interactions.get("told-1-shadow")
    assert (kept.version, kept.shadow, kept.answer) == (2, True, "bot@2: who ")
    for number, rating in enumerate((1.0, 0.5)):
        rated = {"request_id": f"told-{number}-shadow", "rating": rating}
        assert httpx.post(f"{three[2].url}/api/feedback", json=rated, timeout=30).status_code == 201
    assert (figures(three[0])[2]["rating_mean"], figures(three[0])[2]["ratings"]) == (0.75, 2)
    told = httpx.get(f"{three[0].url}/metrics", timeout=10).text
    assert 'shoal_shadow_requests_total{outcome="ok",version="bot@2"} 1.0' in told
    assert 'shoal_output_tokens_total{version="bot@4"}' in told


def figures(service: StubService) -> dict[int, dict[str, Any]]:
    answer = httpx.get(f"{service.url}/api/adapters/bot/metrics", timeout=10)
    assert answer.status_code == 200, answer.text
    return {of["version"]: of for of in answer.json()["versions"]}
