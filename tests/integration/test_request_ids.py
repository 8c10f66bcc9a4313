"""A request id that is used for several answers, on a real Redis: counted, marked, and never bound to the wrong one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.records import Interaction
from registry.registry import Registry
from registry.settings import RegistrySettings
from tests.peft_folders import write_adapter
from tests.redis_server import RedisServer
from tests.served_app import serving

AT = datetime(2026, 1, 1, tzinfo=UTC)
INLINE = {"adapter": "bot", "version": 1, "prompt": "q", "answer": "a"}


def answered(request_id: str, answer: str = "a", **more: Any) -> Interaction:
    fields = {"adapter": "bot", "version": 1, "prompt": "p", "at": AT, **more}
    return Interaction(request_id=request_id, answer=answer, **fields)


def test_the_first_answer_keeps_its_record_which_says_that_the_id_is_ambiguous(registry: Registry) -> None:
    """Of one batch or of a later one, by another version, prompt or sampling; the record ends when it would have."""
    interactions = registry.interactions
    second, third = answered("r1", "b"), answered("r1", version=2, at=AT + timedelta(hours=1))
    assert interactions.add_many([answered("r1"), second, answered("r2")], [60.0, 600.0, 60.0]) == [second]
    assert interactions.add_many([third]) == [third]

    assert interactions.get("r1") == answered("r1", ambiguous=True)
    assert interactions.get("r2") == answered("r2")
    key = f"{registry.settings.namespace}:interaction:{{r1}}"
    assert 0 < int(registry.redis.ttl(key)) <= 60  # type: ignore[arg-type]
    for more in ({"prompt": "q"}, {"sampling": {"seed": 1}}, {"conversation": "c"}, {"adapter": "other"}):
        assert len(interactions.add_many([answered("r2", **more)])) == 1


def test_a_repeated_write_changes_nothing(registry: Registry) -> None:
    """A batch whose answer was lost is written again: nobody's id was taken, also where it was ambiguous by then. An answer
    that says the same, as to a client's retry, is no other."""
    sampled = answered("r1", sampling={"temperature": 0.1, "seed": 2**60, "logit_bias": float("inf")})
    batch = [sampled, answered("r2"), answered("r2", "b")]
    assert registry.interactions.add_many(batch) == [batch[2]]
    assert registry.interactions.add_many(batch) == [batch[2]]
    retry = answered("r2", at=AT + timedelta(seconds=9), seconds=3.0)
    assert registry.interactions.add_many([retry]) == []
    assert not registry.interactions.get("r1").ambiguous
    assert registry.interactions.get("r2").ambiguous


def test_an_id_is_free_again_when_its_record_has_ended(registry: Registry) -> None:
    """Also in the moment between the write that was refused and the look at what is there."""
    interactions = registry.interactions
    interactions.add_many([answered("r1")])
    look = interactions._held

    def ended(request_ids: Any) -> dict[str, str]:
        registry.redis.delete(f"{registry.settings.namespace}:interaction:{{r1}}")
        return look(request_ids)

    interactions._held = ended  # type: ignore[method-assign]
    assert interactions.add_many([answered("r1", "b")]) == []
    interactions._held = look  # type: ignore[method-assign]
    assert interactions.get("r1") == answered("r1", "b")


@asynccontextmanager
async def a_house(settings: RegistrySettings, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    registry = Registry.open(settings)
    registry.register("bot", write_adapter(tmp_path / "bot", seed=1), by="test")
    registry.promote("bot", 1, by="test")
    registry.close()
    async with serving(settings, tmp_path / "home") as client:
        yield client


async def ask(shoal: httpx.AsyncClient, request_id: str, said: str) -> None:
    body = {"model": "bot", "messages": [{"role": "user", "content": said}]}
    answer = await shoal.post("/v1/chat/completions", json=body, headers={"x-request-id": request_id})
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, request_id)


async def post(shoal: httpx.AsyncClient, body: dict[str, Any], status: int) -> Any:
    answer = await shoal.post("/api/feedback", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def dropped(shoal: httpx.AsyncClient) -> int:
    await asyncio.sleep(0.3)  # the recorder writes within 50 ms
    return int((await shoal.get("/api/status")).json()["interactions_dropped"])


async def test_feedback_by_an_id_of_two_answers_is_refused(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """A trace with two generations: right behind the second, single, in a batch, or among others; the first rating, which came
    before, stays, also when it is exported and sent again. Inline each answer can be rated, and none replaces that of the
    other."""
    async with a_house(registry_settings, tmp_path) as shoal:
        await ask(shoal, "trace-1", "hello")
        first = await post(shoal, {"request_id": "trace-1", "rating": 1, "rater": "ann", "id": "f1"}, 201)
        assert first["feedback"]["messages"][0]["content"] == "hello"

        await ask(shoal, "trace-1", "another question")
        by_id = {"request_id": "trace-1", "rating": 0, "rater": "ann"}
        error = (await post(shoal, by_id, 409))["error"]
        assert (error["code"], error["details"]) == ("interaction_ambiguous", {"request_id": "trace-1"})
        assert "several answers" in error["message"]
        assert "'prompt'" in error["message"]
        assert await dropped(shoal) == 1

        fine = {**INLINE, "rating": 1, "rater": "ben"}
        await post(shoal, {"items": [fine, by_id]}, 409)
        told = await post(shoal, {"items": [by_id, fine], "partial": True}, 201)
        assert told["items"][0]["error"]["code"] == "interaction_ambiguous"
        await post(shoal, {**by_id, "adapter": "bot", "prompt": "q"}, 409)  # a rating, of no answer
        exported = registry.feedback.all("bot")[0].model_dump(
            mode="json", exclude_none=True, exclude={"schema_number", "by"}
        )
        assert (await post(shoal, exported, 200))["feedback"]["request_id"] == "trace-1"
        for answer, rating in (("a1", 0), ("a2", 1)):
            kept = await post(shoal, {**INLINE, **by_id, "answer": answer, "rating": rating}, 201)
            assert (kept["feedback"]["answer"], kept["feedback"]["version"]) == (answer, 1)
            assert kept["feedback"]["request_id"] is None

    assert [one.rating for one in registry.feedback.standing("bot")] == [1, 1, 0, 1]
    assert registry.feedback.superseded_count("bot") == 0


async def test_feedback_that_waited_on_disk_is_refused_too(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """The second answer was given while Redis was away, as was the rating by their id: it is bound to neither, whichever of the
    two reaches Redis first, and is kept with its reason."""
    settings = registry_settings.model_copy(update={"redis_url": redis_process.url})
    async with a_house(settings, tmp_path) as shoal:
        await ask(shoal, "trace-1", "hello")
        assert await dropped(shoal) == 0
        redis_process.kill()
        await ask(shoal, "trace-1", "another question")
        await post(shoal, {"request_id": "trace-1", "rating": 0, "id": "f1"}, 202)
        redis_process.start()
        refused = tmp_path / "home"
        for _ in range(200):
            if found := list(refused.glob("feedback-*.refused")):
                break
            await asyncio.sleep(0.1)
        assert "was used for several answers" in found[0].read_text()
        assert await dropped(shoal) == 1
    again = Registry.open(settings)
    assert again.feedback.all("bot") == []
    again.close()


@pytest.mark.parametrize("before", [True, False])
async def test_a_retry_that_says_the_same_is_one_answer(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path, before: bool
) -> None:
    """The same question, version and answer under one id: feedback by the id is bound to them, and nothing is dropped."""
    async with a_house(registry_settings, tmp_path) as shoal:
        for _ in range(2):
            await ask(shoal, "r1", "hello")
            if before:
                assert await dropped(shoal) == 0
        await post(shoal, {"request_id": "r1", "rating": 1}, 201)
        assert await dropped(shoal) == 0
