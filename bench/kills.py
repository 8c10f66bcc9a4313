"""A real Shoal whose service is killed in the middle of a swap, again and again: what is there afterwards?"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from openai import OpenAI, OpenAIError

from shoal import leftovers
from shoal.client import Client
from shoal.errors import ShoalError
from shoal.settings import UpSettings
from shoal.up import Up

ADAPTER = "support-bot"
READY_SECONDS = 180.0
ENGINE = "VLLM::"  # how vLLM names its processes


def kill_during_swaps(home: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """``between``: kills after which the state was neither the one before the move nor the one after it, or another version
    answered than the rollout says. ``orphans``: engine processes that no service holds."""
    before_count = after_count = between = orphans = 0
    slowest = 0.0
    with Up(UpSettings.load(home=home, port=_free_port())) as up, Client(up.url) as client:
        up.wait_ready(timeout=READY_SECONDS)
        typical = _timed_promotion(client, _other(client, rng))
        for _ in range(kills):
            before, target = client.adapter(ADAPTER)["rollout"], _other(client, rng)
            killed_at = _kill_while_promoting(up, target, rng.uniform(0, 1.5 * typical), rng)
            answering = _first_answer(up.url)
            slowest = max(slowest, time.monotonic() - killed_at)
            after = client.adapter(ADAPTER)["rollout"]
            unmoved = after == before
            moved = (after["revision"], after["champion"]) == (before["revision"] + 1, target)
            told = client.history(ADAPTER, limit=1)[0]
            whole = told["revision"] == after["revision"] and answering == f"{ADAPTER}@{after['champion']}"
            # The service may have died after the move and before it could say so: then the rollout stands after it.
            before_count, after_count = before_count + unmoved, after_count + moved
            between += not ((unmoved or moved) and whole)
            orphans += len(_orphans(up))
            print(f"killed: {'before' if unmoved else 'after' if moved else 'BETWEEN'}", flush=True)
    return {
        "kills": kills,
        "between": between,
        "before": before_count,
        "after": after_count,
        "orphans": orphans,
        "slowest_recovery_s": round(slowest, 1),
    }


def _kill_while_promoting(up: Up, target: int, moment: float, rng: random.Random) -> float:
    """Kill the service's supervisor or its worker ``moment`` seconds into a promotion; answers when, in monotonic seconds."""

    def promote() -> None:
        with contextlib.suppress(ShoalError), Client(up.url) as client:
            client.promote(ADAPTER, target, reason="bench")

    threading.Thread(target=promote, daemon=True).start()
    time.sleep(moment)
    parent = psutil.Process(up.processes["service"])
    workers = [child for child in parent.children() if "_bentoml_impl.worker" in " ".join(child.cmdline())]
    victim = rng.choice([parent, *workers[:1]])
    victim.kill()
    psutil.wait_procs([victim], timeout=5)
    return time.monotonic()


def _first_answer(url: str) -> str:
    """Which version answers, as soon as one does: whoever was killed answers no more."""
    until = time.monotonic() + READY_SECONDS
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=5) as openai:
        messages: Any = [{"role": "user", "content": "reverse: stone"}]
        while True:
            try:
                return openai.chat.completions.create(model=ADAPTER, messages=messages, max_tokens=1).model
            except OpenAIError as error:
                if time.monotonic() > until:
                    raise SystemExit(f"The service did not come back within {READY_SECONDS:.0f} s: {error}") from error
                time.sleep(0.2)


def _timed_promotion(client: Client, target: int) -> float:
    began = time.monotonic()
    client.promote(ADAPTER, target, reason="bench")
    return time.monotonic() - began


def _other(client: Client, rng: random.Random) -> int:
    champion = client.adapter(ADAPTER)["rollout"]["champion"]
    return rng.choice([version["version"] for version in client.versions(ADAPTER) if version["version"] != champion])


def _orphans(up: Up) -> list[int]:
    """Engine processes of this Shoal that are not below the service that runs now."""
    held = {child.pid for child in psutil.Process(up.processes["service"]).children(recursive=True)}
    mark = json.loads((up.settings.home / "up.json").read_text())["id"]
    engines = {pid for pid in leftovers.marked(mark) if _title(pid).startswith(ENGINE)}
    if not engines & held:
        raise SystemExit(
            "The engine that answers was not found, so none that is left over would be. Nothing is measured."
        )
    return sorted(engines - held)


def _title(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def _free_port() -> int:
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])
