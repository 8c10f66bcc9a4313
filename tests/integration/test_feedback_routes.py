"""Feedback over HTTP, on the service's whole app with a real Redis: what is kept, what is refused, and which of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from registry.errors import RegistryDown
from registry.records import Feedback
from registry.registry import Registry
from registry.settings import RegistrySettings
from service.keyring import Keyring
from tests.peft_folders import write_adapter
from tests.served_app import serving

INLINE = {"adapter": "bot", "version": 1, "prompt": "q", "answer": "a"}


@pytest_asyncio.fixture
async def shoal(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    registry.register("bot", write_adapter(tmp_path / "bot", seed=1), by="test")
    registry.promote("bot", 1, by="test")
    async with serving(registry_settings, tmp_path / "home") as client:
        yield client


async def post(shoal: httpx.AsyncClient, body: dict[str, Any], status: int) -> dict[str, Any]:
    answer = await shoal.post("/api/feedback", json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def answered(shoal: httpx.AsyncClient, request_id: str, **more: Any) -> None:
    body = {"model": "bot", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.25, **more}
    answer = await shoal.post("/v1/chat/completions", json=body, headers={"x-request-id": request_id})
    assert answer.status_code == 200, answer.text


async def test_feedback_by_request_is_bound_to_how_the_answer_was_made(shoal: httpx.AsyncClient) -> None:
    """Version, prompt, sampling parameters and conversation come from what was recorded of the request."""
    await answered(shoal, "r1", user="conversation-1")

    told = await post(shoal, {"request_id": "r1", "stars": 5, "labels": ["tone"], "rater": "ann"}, 201)

    kept = Feedback.model_validate(told["feedback"])
    assert (kept.adapter, kept.version, kept.sampling) == ("bot", 1, {"temperature": 0.25})
    assert (kept.conversation, kept.rating, kept.stars, kept.labels) == ("conversation-1", 1.0, 5, ("tone",))
    assert kept.messages is not None


async def test_a_later_rating_replaces_and_the_list_shows_both(shoal: httpx.AsyncClient, registry: Registry) -> None:
    """One rater changes their mind: figures count once, the list shows what was replaced by what."""
    first = await post(shoal, {**INLINE, "id": "a", "rater": "ann", "thumbs": "up"}, 201)
    assert first["new"]
    await post(shoal, {**INLINE, "id": "b", "rater": "ann", "thumbs": "down"}, 201)

    listed = (await shoal.get("/api/feedback?adapter=bot")).json()

    assert [(one["id"], one["superseded_by"]) for one in listed["feedback"]] == [("b", {}), ("a", {"rating": "b"})]
    assert (listed["total"], listed["superseded"]) == (2, 1)
    assert registry.figures.read("bot")[1]["ratings"] == 1
    assert registry.figures.read("bot")[1]["rating_mean"] == 0.0


async def test_a_correction_rates_the_answer(shoal: httpx.AsyncClient, registry: Registry) -> None:
    """Who only says what would have been right has rated the answer 0, or 1 where it is that answer; figures count it. A rating
    that was given stands."""
    told = await post(shoal, {**INLINE, "id": "a", "rater": "ann", "correction": "b"}, 201)
    assert (told["feedback"]["rating"], told["feedback"]["correction"]) == (0.0, "b")
    told = await post(shoal, {**INLINE, "id": "b", "rater": "bob", "correction": " a"}, 201)
    assert told["feedback"]["rating"] == 1.0
    told = await post(shoal, {**INLINE, "id": "c", "rater": "eve", "correction": "b", "rating": 0.5}, 201)
    assert told["feedback"]["rating"] == 0.5
    assert await post(shoal, {**INLINE, "id": "a", "rater": "ann", "correction": "b"}, 200)
    (sums,) = registry.figures.sums("bot", [1]).values()
    assert sums["ratings"] == 3


async def test_a_batch_is_all_or_nothing(shoal: httpx.AsyncClient, registry: Registry) -> None:
    """A bad field, an unknown request, adapter or version, an id that is taken: nothing of the batch is kept, and the
    answer says what was wrong with which."""
    good = {**INLINE, "rating": 1}
    await post(shoal, {**good, "id": "taken"}, 201)
    registry.create_adapter("other", by="test")
    others = {"adapter": "other", "prompt": "q", "answer": "a"}
    await post(shoal, {**others, "id": "taken", "rating": 1}, 201)
    for bad, status in (
        ({**INLINE, "rating": 2}, 422),
        ({"request_id": "never", "rating": 1}, 404),
        ({**good, "adapter": "nobody"}, 404),
        ({**good, "version": 2}, 404),
        ({**good, "id": "taken", "rating": 0}, 409),
        ({**others, "id": "taken", "rating": 0}, 409),
        ({**others, "version": 1, "rating": 0}, 404),
    ):
        error = await post(shoal, {"items": [good, bad]}, status)
        assert error["error"]["message"]
    assert registry.feedback.count("bot") == 1
    told = await post(shoal, {"items": [good, {**INLINE, "stars": 9}]}, 422)
    assert told["error"]["details"]["problems"] == [
        {"field": "items.1.stars", "problem": "Input should be less than or equal to 5"}
    ]


async def test_in_a_partial_batch_each_stands_for_itself(shoal: httpx.AsyncClient, registry: Registry) -> None:
    """Good items are kept, each bad one has its place and its reason, and repeated it says the same."""
    good = {**INLINE, "rating": 1}
    await post(shoal, {**good, "id": "taken"}, 201)
    items: list[Any] = [
        {**good, "id": "one"},
        {**INLINE, "rating": 2},
        {"request_id": "never", "rating": 1},
        {**good, "adapter": "nobody"},
        {**good, "version": 9},
        {**good, "id": "taken", "rating": 0},
        "no object",
        {**good, "id": "two"},
        {**good, "id": "taken"},
    ]

    told = await post(shoal, {"items": items, "partial": True}, 201)

    codes = [one["error"]["code"] if "error" in one else one["new"] for one in told["items"]]
    assert codes == [
        True, "bad_input", "interaction_unknown", "adapter_unknown", "version_unknown", "feedback_conflict", "bad_input",
        True, False,
    ]  # fmt: skip
    assert (told["accepted"], told["repeated"], told["refused"]) == (2, 1, 6)
    assert "'rating'" in told["items"][1]["error"]["message"]
    assert registry.feedback.count("bot") == 3
    again = await post(shoal, {"items": items, "partial": True}, 201)
    assert (again["accepted"], again["repeated"], again["refused"]) == (0, 3, 6)


async def test_a_request_that_is_not_recorded_may_stand_inline(shoal: httpx.AsyncClient) -> None:
    """With prompt and answer beside its id, feedback on a request from elsewhere, or long ago, is kept."""
    told = await post(shoal, {**INLINE, "request_id": "long-ago", "rating": 1, "sampling": {"seed": 1}}, 201)
    assert (told["feedback"]["request_id"], told["feedback"]["sampling"]) == ("long-ago", {"seed": 1})


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"rating": NaN}', b'"x"', b"\xff", b'{"items": []}', b'{"items": 3}']
)
async def test_what_is_no_feedback_is_refused_as_such(shoal: httpx.AsyncClient, raw: bytes) -> None:
    """Not JSON, not an object, no items: 422 in the one error body."""
    answer = await shoal.post("/api/feedback", content=raw)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == "bad_input"


async def test_the_keys_own_raters_are_held_to(shoal: httpx.AsyncClient, registry: Registry) -> None:
    """A key that is made for a rater cannot speak for another; the record says which key brought it."""
    made = (await shoal.post("/api/keys", json={"name": "app", "scopes": ["feedback"], "raters": ["ann"]})).json()
    headers = {"authorization": f"Bearer {made['token']}"}
    body = {**INLINE, "rating": 1}

    kept = await shoal.post("/api/feedback", json=body, headers=headers)
    other = await shoal.post("/api/feedback", json={**body, "rater": "ben"}, headers=headers)
    mixed = {"items": [body, {**body, "rater": "ben"}], "partial": True}
    partial = await shoal.post("/api/feedback", json=mixed, headers=headers)

    assert (kept.json()["feedback"]["rater"], kept.json()["feedback"]["by"]) == ("ann", made["key"]["id"])
    assert (other.status_code, other.json()["error"]["code"]) == (403, "forbidden")
    assert partial.json()["items"][1]["error"]["code"] == "forbidden"
    assert {one.rater for one in registry.feedback.all("bot")} == {"ann"}
    assert (await shoal.post("/api/keys", json={"name": "x", "scopes": ["feedback"], "raters": []})).status_code == 422


@pytest.mark.parametrize("field", ["rater", "conversation", "labels"])
async def test_names_are_one_line_of_what_they_show(shoal: httpx.AsyncClient, field: str) -> None:
    """A break, or a character that turns or clears a terminal, in a rater's name or a label is refused; of a partial batch the
    item alone."""
    for odd in ("a\nb", "a\u001b[2Jb", "a\u202eb"):
        body = {**INLINE, "rating": 1, field: [odd] if field == "labels" else odd}
        told = await post(shoal, body, 422)
        assert "which cannot be shown as what it is" in told["error"]["message"]
        partial = await post(shoal, {"items": [{**INLINE, "rating": 1}, body], "partial": True}, 201)
        assert (partial["accepted"], partial["refused"]) == (1, 1)
    await post(shoal, {**INLINE, "rating": 1, field: ["größer 好"] if field == "labels" else "größer 好"}, 201)


async def test_a_key_that_was_made_is_told_though_redis_goes(
    shoal: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis answers the write and then no more: the answer still has the token, which is nowhere else, and it opens."""
    with monkeypatch.context() as gone:

        def look(self: Keyring) -> None:
            raise RegistryDown("gone")

        gone.setattr(Keyring, "look", look)
        made = await shoal.post("/api/keys", json={"name": "app", "scopes": ["feedback"]})
        assert made.status_code == 201, made.text
    other = await shoal.post("/api/keys", json={"name": "other", "scopes": ["feedback"]})
    assert other.status_code == 201
    headers = {"authorization": f"Bearer {made.json()['token']}"}
    kept = await shoal.post("/api/feedback", json={**INLINE, "rating": 1}, headers=headers)
    assert kept.status_code == 201, kept.text


async def test_the_schema_of_a_body_is_told(shoal: httpx.AsyncClient) -> None:
    """The page of the API names the fields of feedback, though its body is read by hand."""
    schema = (await shoal.get("/openapi.json")).json()
    (content,) = schema["paths"]["/api/feedback"]["post"]["requestBody"]["content"].values()
    names = {one["$ref"].rpartition("/")[2] for one in content["schema"]["anyOf"]}
    assert names == {"FeedbackBody", "Batch", "PartialBatch"}
    place = schema
    for part in content["schema"]["anyOf"][0]["$ref"].removeprefix("#/").split("/"):
        place = place[part.replace("~1", "/")]
    assert "stars" in place["properties"]


async def test_a_policy_that_names_no_installed_redactor_is_refused(shoal: httpx.AsyncClient) -> None:
    """Else nothing of the adapter could be stored; a policy without one is taken."""
    asked = {"policy": {"recording": {"mode": "sampled", "rate": 0.5, "redact": "never-installed"}}}
    refused = await shoal.put("/api/adapters/bot/policy", json=asked)
    assert (refused.status_code, refused.json()["error"]["details"]["field"]) == (422, "recording.redact")
    del asked["policy"]["recording"]["redact"]
    taken = await shoal.put("/api/adapters/bot/policy", json=asked)
    assert taken.json()["policy"]["recording"]["rate"] == 0.5
