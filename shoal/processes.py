"""The processes that make a Shoal, as one table. ``shoal up`` starts it here; docker-compose.yml mirrors it."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from shoal.settings import UpSettings

MARK = "SHOAL_UP_ID"  # in the environment of every process of one `shoal up`: ID:NAME:, so that none is ever left over
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: how it is started and how it is stopped.

    ``layer``: layers start from the lowest and stop from the highest; those of one layer do both together.
    ``needs``: modules that must be installed. ``stop_seconds``: how long it may take to end by itself.
    ``probed``: it is ready when ``GET /readyz`` answers 200. ``orphan_signal``: what it gets if `shoal up` is killed.
    """

    name: str
    command: tuple[str, ...]
    layer: int = 1
    needs: tuple[str, ...] = ()
    stop_seconds: float = 10.0
    probed: bool = False
    orphan_signal: int = signal.SIGKILL


def processes(settings: UpSettings) -> list[ProcessSpec]:
    """Everything but Redis: what they are told is in ``environment``."""
    celery = (sys.executable, "-m", "celery", "-A", "swarm_worker.celery_app")
    # Nothing here listens to what workers tell each other, and asking around costs a second of every start.
    worker = (*celery, "worker", "-P", "solo", "--without-mingle", "--without-gossip", "--loglevel", settings.log_level)
    serve = (sys.executable, "-m", "bentoml", "serve", "service.app:ShoalService")
    address = ("--host", settings.host, "--port", str(settings.port))
    schedule = ("-s", str(settings.home / "beat-schedule"), "--pidfile=", "--loglevel", settings.log_level)
    return [
        ProcessSpec("control", (*worker, "-Q", "control", "-n", "control@%h"), needs=("celery", "swarm_worker")),
        ProcessSpec("score", (*worker, "-Q", "score", "-n", "score@%h"), needs=("celery", "swarm_worker")),
        ProcessSpec("beat", (*celery, "beat", *schedule), needs=("celery", "swarm_worker")),
        ProcessSpec(
            "service",
            (*serve, *address, "--timeout-graceful-shutdown", "20"),
            layer=2,
            needs=("bentoml", "service"),
            stop_seconds=25.0,  # answers in flight may finish; five seconds more than the service gives itself
            probed=True,
        ),
    ]


def environment(settings: UpSettings, *, base: str, redis_url: str) -> dict[str, str]:
    """What every process finds in its environment: the caller's own, and where everything is on this machine."""
    home = settings.home
    given = dict(os.environ) | {
        "SHOAL_HOME": str(home),
        "SHOAL_BASE": base,
        "SHOAL_REDIS_URL": redis_url,
        "SHOAL_ARTIFACTS_URL": settings.artifacts_url or str(home / "artifacts"),
        "SHOAL_CACHE_DIR": settings.cache_dir or str(home / "cache"),
        "SHOAL_HOST": settings.host,
        "SHOAL_PORT": str(settings.port),
        "SHOAL_LOG_LEVEL": settings.log_level,
        "SHOAL_LOG_FORMAT": settings.log_format,
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        # Titles of processes (vLLM's engine, Celery) are written over the environment that the kernel shows, and MARK with
        # it; setproctitle keeps to the arguments' place when this is set.
        "SPT_NOENV": "1",
    }
    # Three processes import vLLM: without bytecode on disk each start costs them half a minute more.
    given.pop("PYTHONDONTWRITEBYTECODE", None)
    if settings.api_key:
        given["SHOAL_API_KEY"] = settings.api_key.get_secret_value()
    if _ROOT.name not in ("site-packages", "dist-packages"):
        # A checkout that is not installed: its packages are found from any working directory all the same.
        given["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return given
