"""The names under which service and workers meet: two queues, three tasks, one broker. Pure: no celery here.

Messages are small JSON values: ids, and coefficients for a slice. Weights, prompts and secrets never travel through the broker.
"""

from __future__ import annotations

from typing import Any

CONTROL, SCORE = "control", "score"
"""``control``: moves, gates, ticks; light. ``score``: one process a GPU, solo pool."""

ADVANCE = "shoal.advance"
SCORE_SLICE = "shoal.score_slice"
TICK = "shoal.tick"

ROUTES: dict[str, dict[str, str]] = {
    ADVANCE: {"queue": CONTROL},
    TICK: {"queue": CONTROL},
    SCORE_SLICE: {"queue": SCORE},
}


def celery_options(redis_url: str, namespace: str) -> dict[str, Any]:
    """The Celery configuration that producers and workers share.

    Results are not kept: a run's state lives in the registry, where it can be read, resumed and audited. The visibility
    timeout only bounds how long a message of a killed worker lies idle; nothing waits for it, the tick sends again first.
    """
    return {
        "broker_url": redis_url,
        "broker_transport_options": {
            "global_keyprefix": _prefix(namespace),
            "visibility_timeout": 3600,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "socket_timeout": 15,
            "socket_connect_timeout": 5,
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever: a worker that gave up would need somebody to start it
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": CONTROL,
        "task_routes": ROUTES,
    }


def queue_key(namespace: str, queue: str) -> str:
    """The Redis list in which the messages of a queue wait, as kombu names it."""
    return f"{_prefix(namespace)}{queue}"


def unacknowledged_key(namespace: str) -> str:
    """The Redis hash of messages that a worker was given and has not done, as kombu names it."""
    return f"{_prefix(namespace)}unacked"


def _prefix(namespace: str) -> str:
    return f"{namespace}:celery:"
