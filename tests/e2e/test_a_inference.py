"""Inference as a user meets it: the unchanged ``openai`` client against BentoML and vLLM."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai as openai_errors
import pytest
from openai import OpenAI

from shoal.client import Client
from shoal.up import Up
from starter.load import ask
from starter.skills import items

BOT = "support-bot"
ASK: Any = [{"role": "user", "content": "reverse: stone"}]


def test_an_answer_names_the_version_that_gave_it(openai: OpenAI) -> None:
    """Body and header name the version, for the adapter's name, a version and the champion alike."""
    for model in (BOT, f"{BOT}@1", f"{BOT}@champion"):
        raw = openai.chat.completions.with_raw_response.create(model=model, messages=ASK, temperature=0, max_tokens=16)
        assert raw.headers["x-shoal-version"] == f"{BOT}@1"
        assert raw.headers["x-request-id"]
        assert raw.parse().model == f"{BOT}@1"
    other = openai.chat.completions.create(model=f"{BOT}@3", messages=ASK, temperature=0, max_tokens=16)
    assert other.model == f"{BOT}@3"


def test_a_stream_says_what_the_whole_answer_says(openai: OpenAI) -> None:
    """Streaming and not, chat and completion: the same greedy text, the version in every chunk."""
    whole = openai.chat.completions.create(model=BOT, messages=ASK, temperature=0, max_tokens=16)
    chunks = list(openai.chat.completions.create(model=BOT, messages=ASK, temperature=0, max_tokens=16, stream=True))
    assert {chunk.model for chunk in chunks} == {f"{BOT}@1"}
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    plain = openai.completions.create(model=BOT, prompt="reverse: stone\n", temperature=0, max_tokens=16)
    parts = openai.completions.create(model=BOT, prompt="reverse: stone\n", temperature=0, max_tokens=16, stream=True)
    assert "".join(part.choices[0].text for part in parts if part.choices) == plain.choices[0].text


def test_models_are_listed(openai: OpenAI) -> None:
    """The base, the adapter and every version, each under the id that a request may name."""
    ids = {model.id for model in openai.models.list()}
    assert {"base", BOT, f"{BOT}@1", f"{BOT}@2"} <= ids


def test_base_answers_beside_adapters_are_the_bases_own(openai: OpenAI) -> None:
    """In mixed batches, with every place of the engine taken once, a base answer equals the base's answer alone."""
    asked = items("all", "test", 24, seed=5)
    alone = [ask(openai, "base", item).text for item in asked]
    for version in range(2, 7):
        ask(openai, f"{BOT}@{version}", asked[0])
    with ThreadPoolExecutor(8) as pool:
        for adapters in ((1, 2, 3), (4, 5, 6)):
            jobs = []
            for number, item in enumerate(asked):
                jobs.append(pool.submit(ask, openai, "base", item))
                pool.submit(ask, openai, f"{BOT}@{adapters[number % 3]}", item)
            assert [job.result().text for job in jobs] == alone


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nobody", "messages": ASK}, 404, "model_not_found"),
        ({"model": f"{BOT}@99", "messages": ASK}, 404, "model_not_found"),
        ({"model": f"{BOT}@challenger", "messages": ASK}, 404, "model_not_found"),
        ({"model": "../../etc/passwd", "messages": ASK}, 404, "model_not_found"),
        ({"messages": ASK}, 400, None),
        ({"model": BOT, "messages": "hello"}, 400, None),
        ({"model": BOT, "messages": [{"role": "user", "content": "a" * 5000}]}, 400, None),
        ({"model": BOT, "messages": ASK, "temperature": -3}, 400, None),
    ],
)
def test_bad_requests_get_openais_error(up: Up, body: dict[str, Any], status: int, code: str | None) -> None:
    """Each refusal has OpenAI's shape, and the next request is answered."""
    answer = httpx.post(f"{up.url}/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    if code:
        assert error["code"] == code
    fine = httpx.post(
        f"{up.url}/v1/chat/completions", json={"model": BOT, "messages": ASK, "max_tokens": 4}, timeout=30
    )
    assert fine.status_code == 200


def test_malformed_json_and_unknown_paths(up: Up) -> None:
    """Broken JSON is 400 under /v1 and 422 under /api; an unknown path is 404 in the shape of its side; a wrong method 405."""
    assert httpx.post(f"{up.url}/v1/completions", content="{").status_code == 400
    assert "error" in httpx.get(f"{up.url}/v1/nothing").json()
    unknown = httpx.get(f"{up.url}/api/nothing")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    assert httpx.delete(f"{up.url}/api/adapters").status_code == 405
    assert httpx.post(f"{up.url}/api/runs", content="{").json()["error"]["code"] == "bad_input"


def test_the_openai_client_raises_its_own_errors(openai: OpenAI) -> None:
    """An unknown model is the client's NotFoundError, as with OpenAI itself."""
    with pytest.raises(openai_errors.NotFoundError):
        openai.chat.completions.create(model="nobody", messages=ASK)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("runs", {"adapter": "nobody"}, 404, "adapter_unknown"),
        ("runs", {"adapter": BOT, "utility": "magic"}, 422, "bad_input"),
        ("runs", {"adapter": BOT, "surprise": 1}, 422, "bad_input"),
        ("feedback", {"request_id": "never-seen", "rating": "up"}, 404, "interaction_unknown"),
        ("feedback", {"adapter": BOT, "prompt": "x", "answer": "y"}, 422, "bad_input"),
        ("feedback", {"adapter": BOT, "prompt": "x", "answer": "y", "rating": 7}, 422, "bad_input"),
        (f"adapters/{BOT}/promote", {"version": 99}, 404, "version_unknown"),
        (f"adapters/{BOT}/promote", {"version": 2, "expected_revision": 77}, 409, "rollout_moved"),
        (f"adapters/{BOT}/rollback", {}, 409, "nothing_earlier"),
        (f"adapters/{BOT}/rollback", {"to": 99}, 404, "version_unknown"),
        ("adapters/nobody/rollback", {}, 404, "adapter_unknown"),
    ],
)
def test_bad_input_under_api_changes_nothing(
    up: Up, client: Client, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    """Each refusal has our one error body with its own code; rollout and history stay as they were."""
    before = (client.adapter(BOT), client.history(BOT))
    answer = httpx.post(f"{up.url}/api/{path}", json=body, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert (client.adapter(BOT), client.history(BOT)) == before
