"""Server-sent events, read from lines: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def server_events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """``(event, data)`` for each event that the lines hold; an event cut off before its blank line is dropped.

    Comments (heartbeats) and the fields ``id`` and ``retry`` are skipped.
    """
    event, held = "message", list[str]()
    for line in lines:
        if line == "":
            if held:
                yield event, "\n".join(held)
            event, held = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            held.append(value)
