"""Real Celery workers, as ``shoal up`` starts them, for tests that need the loop to turn by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.records import Run
from registry.registry import Registry
from registry.settings import RegistrySettings
from shoal.processes import processes
from shoal.settings import UpSettings

ROOT = Path(__file__).parents[1]


@contextmanager
def worker(name: str, home: Path, registry: RegistrySettings, **environment: str) -> Iterator[Path]:
    """The process ``control``, ``score`` or ``beat``; its log's path."""
    home.mkdir(parents=True, exist_ok=True)
    command = next(each.command for each in processes(UpSettings(home=home)) if each.name == name)
    given = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SHOAL_HOME": str(home),
        "SHOAL_BASE": str(registry.base),
        "SHOAL_REDIS_URL": registry.redis_url,
        "SHOAL_NAMESPACE": registry.namespace,
        "SHOAL_ARTIFACTS_URL": registry.artifacts_url,
        "SHOAL_CACHE_DIR": registry.cache_dir,
        "SHOAL_SCORING_THREADS": "1",
        **environment,
    }
    log_path = home / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=given, stdout=log, stderr=log)
        try:
            yield log_path
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def machine(name: str, home: Path, shared: RegistrySettings) -> Iterator[Path]:
    """The same on a machine of its own: its base model, its cache, its home, with nothing in them yet; its log's path."""
    home.mkdir()
    shutil.copytree(str(shared.base), home / "base")
    own = shared.model_copy(update={"base": str(home / "base"), "cache_dir": str(home / "cache")})
    with worker(name, home, own, HOME=str(home)) as log:
        yield log


def ended(registry: Registry, run: Run, logs: list[Path], within: float = 200.0) -> Run:
    """The run once it has ended; the workers' last lines where it does not."""
    until = time.monotonic() + within
    while registry.runs.get(run.id).going:
        assert time.monotonic() < until, "\n".join(log.read_text()[-3000:] for log in logs)
        time.sleep(0.2)
    return registry.runs.get(run.id)
