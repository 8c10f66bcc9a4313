"""Which chats are the same conversation, told by their words: one goes on from an answer that the other was given. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from registry.canonical import digest
from registry.records import Message
from registry.snapshot_items import Drafted


def chat_pairs(drafts: Sequence[Drafted]) -> Iterator[tuple[int, int]]:
    """The places of two items, the second of which begins with the first's messages and one of its known answers.

    A common greeting joins nothing by itself: only an answer that was rated does.
    """
    given = {name: place for place, draft in enumerate(drafts) for name in _after(draft)}
    for place, draft in enumerate(drafts):
        for name in _before(draft):
            if name in given:
                yield given[name], place


def _after(draft: Drafted) -> set[str]:
    """The chats that may follow an item."""
    if not draft.item.messages:
        return set()
    answers = {draft.item.good, draft.item.bad, *(one.answer for one in draft.deciding)} - {None}
    return {digest([*_spelled(draft.item.messages), {"role": "assistant", "content": answer}]) for answer in answers}


def _before(draft: Drafted) -> list[str]:
    """The beginnings of an item's chat that end in an answer."""
    chat = _spelled(draft.item.messages or ())
    return [digest(chat[: end + 1]) for end, message in enumerate(chat) if message["role"] == "assistant"]


def _spelled(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [message.model_dump(mode="json") for message in messages]
