"""Replicas that are asked without a pause, so that a test sees by which version each of them answers at any moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx


@contextmanager
def asked_without_pause(body: dict[str, Any], *urls: str) -> Iterator[list[tuple[str, float, str]]]:
    """Every answer until the end of the context: who gave it, when it was asked for (``time.monotonic``), and by which version,
    or what it says where none did."""
    seen: list[tuple[str, float, str]] = []
    done = threading.Event()

    def keep_asking(url: str) -> None:
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                began = time.monotonic()
                answer = client.post(f"{url}/v1/completions", json=body)
                seen.append((url, began, answer.headers.get("x-shoal-version", answer.text)))
                time.sleep(0.02)

    askers = [threading.Thread(target=keep_asking, args=(url,)) for url in urls]
    for asker in askers:
        asker.start()
    try:
        yield seen
    finally:
        done.set()
        for asker in askers:
            asker.join()
