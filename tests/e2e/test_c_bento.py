"""The built Bento serves: what ``bentoml build`` packs is enough to answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from shoal.ports import free_port
from shoal.up import Up
from starter.pack import load_pack

ROOT = Path(__file__).parents[2]


def test_the_built_bento_answers(up: Up, tmp_path: Path) -> None:
    """Built into an empty store, served from another folder, beside a Shoal whose registry it shares."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "SHOAL_REDIS_URL": up.redis_url,
        "SHOAL_ARTIFACTS_URL": str(up.settings.home / "artifacts"),
        "SHOAL_CACHE_DIR": str(tmp_path / "cache"),
        "SHOAL_HOME": str(tmp_path),
        "SHOAL_BASE": str(load_pack().base),
        "SHOAL_PORT": str(port),
    }
    bentoml = (sys.executable, "-m", "bentoml")
    built = subprocess.run(
        [*bentoml, "build"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    command = [*bentoml, "serve", "shoal_service:latest", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        served = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_ready(f"http://127.0.0.1:{port}/readyz", served, tmp_path / "log")
        body = {"model": "support-bot", "messages": [{"role": "user", "content": "reverse: stone"}], "max_tokens": 8}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-shoal-version"].startswith("support-bot@")
    finally:
        served.send_signal(signal.SIGTERM)
        try:
            served.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(served.pid, signal.SIGKILL)
            served.wait(10)


def wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"not ready: {log.read_text()[-3000:]}")
