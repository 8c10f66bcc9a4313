"""The messages as the broker holds them."""

from __future__ import annotations

import json
from typing import Any

from celery import Celery

from registry.connection import RegistryRedis
from registry.queues import CONTROL, SCORE, SCORE_SLICE, celery_options
from swarm_worker import search
from swarm_worker.run import MOST_SLICES

LARGEST = 16 * 1024


def test_a_message_is_small(redis_url: str, namespace: str, redis_client: RegistryRedis) -> None:
    """64 particles of 32 experts: each message of a generation, as it lies in Redis, is far below 16 KiB; one that held the
    whole generation would not be."""
    app = Celery("test")
    app.conf.update(celery_options(redis_url, namespace))
    optimizer = search.make("model_swarms", n_experts=32, seed=1, particles=64)
    optimizer.tell([search.Outcome.of(move, 0.1 * move.particle) for move in optimizer.ask()])
    moves = [move.to_json() for move in optimizer.ask()]
    assert len(moves) >= 64
    assert all(len(move["coefficients"]) == 32 for move in moves)
    size = -(-len(moves) // MOST_SLICES)
    for index in range(MOST_SLICES):
        part = moves[index * size : (index + 1) * size]
        message: dict[str, Any] = {"run": "run-0123456789", "step": "search-1", "index": index, "work": {"moves": part}}
        app.send_task(SCORE_SLICE, kwargs=message)
    key = f"{namespace}:celery:{SCORE}"
    held: Any = redis_client.lrange(key, 0, -1)
    assert len(held) == MOST_SLICES
    assert max(len(message) for message in held) < LARGEST
    assert len(json.dumps(moves)) > LARGEST
    assert redis_client.llen(f"{namespace}:celery:{CONTROL}") == 0
