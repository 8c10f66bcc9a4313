"""A live background load: ``openai`` clients that keep asking, half of them streaming, while the champion moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from openai import OpenAI, OpenAIError

from starter.skills import Item

MAX_TOKENS = 24


@dataclass(frozen=True)
class Answered:
    """One answer as a client got it. ``version``: what the answer's body claims, e.g. ``support-bot@7``.

    ``error`` names what went wrong, then ``text`` is empty. Times are seconds since the epoch.
    """

    item: Item
    request_id: str
    version: str
    text: str
    streamed: bool
    began: float
    ended: float
    error: str = ""

    @property
    def right(self) -> bool:
        return not self.error and self.item.is_right(self.text)


class Load:
    """``clients`` threads that ask one item after the other, greedily, until stopped. Use as a context manager.

    Each client waits ``pause`` seconds after an answer, as people do. ``on_answer`` is called from the clients' threads.
    """

    def __init__(
        self,
        url: str,
        model: str,
        items: Iterator[Item],
        *,
        clients: int = 4,
        pause: float = 0.02,
        on_answer: Callable[[Answered], None] | None = None,
    ) -> None:
        self.answers: list[Answered] = []
        self.pause = pause
        self._url, self._model, self._items = url, model, items
        self._on_answer = on_answer
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_on, args=(number % 2 == 0,), name=f"client-{number}", daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop asking; answers on their way are waited for."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def since(self, moment: float) -> list[Answered]:
        """The answers whose request began after ``moment``."""
        with self._lock:
            return [answer for answer in self.answers if answer.began >= moment]

    def wait_for(self, enough: Callable[[list[Answered]], bool], timeout: float) -> bool:
        """Wait until ``enough`` says so of all answers up to now."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with self._lock:
                answers = list(self.answers)
            if enough(answers):
                return True
            time.sleep(0.05)
        return False

    def _ask_on(self, stream: bool) -> None:
        # No retries: a request that fails must be counted, not hidden.
        with OpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            while not self._stop.is_set():
                with self._lock:
                    item = next(self._items)
                answer = ask(client, self._model, item, stream=stream)
                with self._lock:
                    self.answers.append(answer)
                if self._on_answer:
                    self._on_answer(answer)
                self._stop.wait(self.pause)


def ask(client: OpenAI, model: str, item: Item, *, stream: bool = False) -> Answered:
    """Ask one item greedily; an error is an answer too, with ``error`` set."""
    began = time.time()
    version = text = request_id = ""
    try:
        messages: Any = [{"role": "user", "content": item.prompt}]
        if stream:
            with client.chat.completions.with_streaming_response.create(
                model=model, messages=messages, temperature=0, max_tokens=MAX_TOKENS, stream=True
            ) as raw:
                request_id = raw.headers.get("x-request-id", "")
                for chunk in raw.parse():
                    version = chunk.model
                    text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        else:
            answer = client.chat.completions.with_raw_response.create(
                model=model, messages=messages, temperature=0, max_tokens=MAX_TOKENS
            )
            request_id = answer.headers.get("x-request-id", "")
            body = answer.parse()
            version, text = body.model, body.choices[0].message.content or ""
    except OpenAIError as error:
        return Answered(item, request_id, version, "", stream, began, time.time(), f"{type(error).__name__}: {error}")
    return Answered(item, request_id, version, text, stream, began, time.time())
