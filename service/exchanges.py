"""Exchanges: one request and what was answered, put together once the answer has been sent.

Pure. What becomes of one (a record that feedback can name, a metric, nothing) is for the gateway to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "n", "seed", "stop",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "response_format", "tool_choice",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: its text, the tool calls it makes, and why it ended (None: it was broken off)."""

    text: str
    finish_reason: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer. JSON-able by ``dataclasses.asdict``.

    ``version`` is the label that the client saw, such as ``support-bot@7``; ``model`` what it asked for. ``prompt`` is
    a list of messages for a chat, what ``prompt`` was for a completion. ``aborted``: the client left, or the engine
    broke off, before the end; ``error`` says which error the engine gave. Times in seconds, ``started`` since 1970: when
    the request came. The others count from there, so they hold the wait for the version (``seconds_to_admission``), too.
    ``chunks``: events of a stream; ``shadow``: asked on the side, no user was given it.
    """

    request_id: str
    model: str
    version: str
    session: str | None
    prompt: Any
    choices: tuple[Choice, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    streamed: bool = False
    aborted: bool = False
    error: str | None = None
    started: float = 0.0
    seconds: float = 0.0
    seconds_to_admission: float = 0.0
    seconds_to_first: float | None = None
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    chunks: int = 0
    shadow: bool = False


def sampling_of(body: dict[str, Any]) -> dict[str, Any]:
    """The sampling parameters that a body sets."""
    return {name: body[name] for name in SAMPLING if body.get(name) is not None}


def prompt_of(body: dict[str, Any]) -> Any:
    """What was asked: messages or a prompt."""
    return body.get("messages", body.get("prompt"))


def choices_of(answer: dict[str, Any]) -> tuple[Choice, ...]:
    """The choices of a whole answer, chat or completion."""
    found = []
    for choice in answer.get("choices", ()):
        message = choice.get("message") or {}
        text = message.get("content") if "message" in choice else choice.get("text")
        found.append(Choice(text or "", choice.get("finish_reason"), tuple(message.get("tool_calls") or ())))
    return tuple(found)


def read_events(events: Iterable[str]) -> tuple[tuple[Choice, ...], dict[str, Any] | None, str | None]:
    """The choices, the usage and the error message that a stream's events add up to."""
    texts: dict[int, list[str]] = {}
    reasons: dict[int, str | None] = {}
    calls: dict[int, dict[int, dict[str, Any]]] = {}
    usage: dict[str, Any] | None = None
    error: str | None = None
    for event in events:
        payload = event.removeprefix("data:").strip()
        if not payload.startswith("{"):
            continue
        chunk = json.loads(payload)
        usage = chunk.get("usage") or usage
        if "error" in chunk:
            error = str(chunk["error"].get("message"))
        for choice in chunk.get("choices", ()):
            index, delta = choice["index"], choice.get("delta") or {}
            texts.setdefault(index, []).append(delta.get("content") or choice.get("text") or "")
            reasons[index] = choice.get("finish_reason") or reasons.get(index)
            _add_calls(calls.setdefault(index, {}), delta.get("tool_calls") or ())
    choices = (
        Choice("".join(texts[index]), reasons[index], tuple(calls[index][call] for call in sorted(calls[index])))
        for index in sorted(texts)
    )
    return tuple(choices), usage, error


def _add_calls(known: dict[int, dict[str, Any]], deltas: Iterable[dict[str, Any]]) -> None:
    """Tool calls arrive in pieces: a name first, then its arguments letter by letter."""
    for delta in deltas:
        call = known.setdefault(delta.get("index", 0), {"type": "function", "function": {"name": "", "arguments": ""}})
        if delta.get("id"):
            call["id"] = delta["id"]
        function = delta.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""
