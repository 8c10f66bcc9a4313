"""Bring feedback that is there already into a Shoal: a file of JSON lines, of any length, once however often it is sent."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from shoal.client import Client
from shoal.errors import ApiError, Unreachable
from shoal.feedback_formats import NotFeedback, bodies, score_name

BATCH = 500
PATIENCE_SECONDS = 60.0  # how long a service that is away is waited for
_FOR_ITS_CONTENT = {413, 422}
"""Too large for the service, or for this key; or no JSON to it, such as a line that is nested too deeply."""
_Numbered = tuple[int, dict[str, Any]]


@dataclass
class Imported:
    """What became of a file: ``refused`` has each line that is not kept, with the reason; ``left_out`` counts Langfuse scores
    of other names. ``spooled``: on the service's disk, until its Redis is back."""

    lines: int = 0
    accepted: int = 0
    repeated: int = 0
    spooled: int = 0
    left_out: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


def import_feedback(
    client: Client,
    adapter: str,
    lines: Iterable[str],
    *,
    score: str | None = None,
    stars: bool = False,
    tell: Callable[[Imported], None] = lambda so_far: None,
    patience: float = PATIENCE_SECONDS,
) -> Imported:
    """Send every line that is feedback, in batches; ``tell`` hears of each. A line that is none, or that the service refuses,
    keeps back no other.

    Of Langfuse scores only those named ``score`` are taken, or, where none is given, one name only: two kinds of scores of one
    rater would replace each other. Unreachable, ApiError: the file may be sent again, what is kept counts once.
    """
    done = Imported()
    waiting = _read(lines, adapter, score, stars, done)
    while batch := list(itertools.islice(waiting, BATCH)):
        _keep(client, batch, patience, done)
        tell(done)
    done.refused.sort()
    return done


def _read(lines: Iterable[str], adapter: str, score: str | None, stars: bool, done: Imported) -> Iterator[_Numbered]:
    """The bodies, each with the number of its line; what is none is noted."""
    first: str | None = None
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        done.lines += 1
        try:
            line = json.loads(text)
            if (name := score_name(line)) is not None:
                first = first if first is not None else name
                if score is not None and name != score:
                    done.left_out += 1
                    continue
                if score is None and name != first:
                    raise NotFeedback(
                        f"it is a score of '{name}', those before it are of '{first}': choose with --score"
                    )
            yield from ((number, body) for body in bodies(line, adapter, stars=stars))
        except NotFeedback as error:
            done.refused.append((number, str(error)))
        except (ValueError, RecursionError) as error:
            done.refused.append((number, f"it is not JSON ({error})"))


def _keep(client: Client, batch: list[_Numbered], patience: float, done: Imported) -> None:
    """Send a batch, and note what became of it. One that is refused as a whole for what is in it goes in halves, down to the
    line that is to blame."""
    try:
        answer = _sent(client, [body for _, body in batch], patience)
    except ApiError as error:
        if error.status not in _FOR_ITS_CONTENT:
            raise
        middle = len(batch) // 2
        if not middle:
            done.refused.append((batch[0][0], error.message))
            return
        for half in (batch[:middle], batch[middle:]):
            _keep(client, half, patience, done)
        return
    done.accepted += answer.get("accepted", 0)
    done.repeated += answer.get("repeated", 0)
    done.spooled += answer.get("spooled", 0)
    for (number, _), told in zip(batch, answer["items"], strict=True):
        if "error" in told:
            done.refused.append((number, str(told["error"]["message"])))


def _sent(client: Client, batch: list[dict[str, Any]], patience: float) -> dict[str, Any]:
    """One batch, again and again while the service is away: every body has its id, so it counts once."""
    until = time.monotonic() + patience
    while True:
        try:
            return client.send_partial(batch)
        except (Unreachable, ApiError) as error:
            passing = isinstance(error, Unreachable) or error.status >= httpx.codes.INTERNAL_SERVER_ERROR
            passing = passing or (isinstance(error, ApiError) and error.status == httpx.codes.TOO_MANY_REQUESTS)
            if not passing or time.monotonic() > until:
                raise
            time.sleep(min(0.5, patience))
