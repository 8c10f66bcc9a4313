"""Streaming clients that ask without a pause, and what each answer said, claimed and took. aiohttp: the clients must not
be what is measured."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True, slots=True)
class Streamed:
    """One answer. ``versions``: every one that a chunk of it claimed. Times in seconds of ``time.perf_counter``.

    ``error`` says what went wrong, and is empty where the stream came to its end.
    """

    prompt: str
    versions: frozenset[str]
    text: str
    began: float
    first: float
    ended: float
    error: str = ""


async def ask(session: aiohttp.ClientSession, url: str, model: str, prompt: str, **sampling: Any) -> Streamed:
    """One greedy streamed completion; whatever goes wrong is in ``error``."""
    began = time.perf_counter()
    first, text, error, done = 0.0, "", "", False
    versions: set[str] = set()
    body = {"model": model, "prompt": prompt, "stream": True, "temperature": 0, **sampling}
    try:
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            if answer.status != 200:
                error = f"{answer.status}: {(await answer.text())[:300]}"
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    done = done or line.startswith(b"data: [DONE]")
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    error = str(event["error"])
                    continue
                first = first or time.perf_counter()
                versions.add(event["model"])
                text += "".join(choice["text"] for choice in event["choices"])
    except (aiohttp.ClientError, OSError, TimeoutError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    error = error or ("" if done else "the stream broke off")
    return Streamed(prompt, frozenset(versions), text, began, first, time.perf_counter(), error)


async def timed(session: aiohttp.ClientSession, url: str, model: str, prompt: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first token and to the end of a streamed answer of exactly ``tokens``; chunks are counted, not read."""
    body = {
        "model": model,
        "prompt": prompt,
        "stream": True,
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    began = time.perf_counter()
    first, chunks = 0.0, 0
    async with session.post(f"{url}/v1/completions", json=body) as answer:
        async for line in answer.content:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - began
                chunks += 1
    if answer.status != 200 or not chunks:
        raise SystemExit(f"{url} answered {answer.status} and {chunks} chunks.")
    return first, time.perf_counter() - began


class Clients:
    """``count`` clients, each with one question after the other, from ``__aenter__`` until ``__aexit__``.

    The body's other fields are ``sampling``. ``answers`` grows; ``on_answer`` hears of each.
    """

    def __init__(
        self,
        url: str,
        model: str,
        prompts: tuple[str, ...],
        *,
        count: int,
        on_answer: Callable[[Streamed], None] | None = None,
        **sampling: Any,
    ) -> None:
        self.answers: list[Streamed] = []
        self._url, self._model, self._prompts, self._count = url, model, prompts, count
        self._on_answer, self._sampling = on_answer, sampling
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Clients:
        self._session = session()
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(self._count)]
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Answers on their way are waited for."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._session.close()

    async def _ask_on(self, number: int) -> None:
        place = number
        while not self._stopping:
            prompt = self._prompts[place % len(self._prompts)]
            place += self._count + 1  # so that no client keeps to the same few prompts
            answer = await ask(self._session, self._url, self._model, prompt, **self._sampling)
            self.answers.append(answer)
            if self._on_answer:
                self._on_answer(answer)


def session() -> aiohttp.ClientSession:
    """Connections without a limit, and two minutes for an answer."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120), read_bufsize=1 << 18
    )
