"""A real Shoal whose service is killed in the middle of a swap, again and again: what is there afterwards?"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from openai import OpenAI, OpenAIError

from bench.phases import Phases, service_alone
from shoal import leftovers
from shoal.client import Client
from shoal.errors import ShoalError
from shoal.ports import free_port
from shoal.processes import processes
from shoal.settings import UpSettings
from shoal.up import Up

ADAPTER = "support-bot"
READY_SECONDS = 600.0  # a start took 250 s on two cores with a load of 12
ENGINE = "VLLM::"  # how vLLM names its processes


@dataclass(frozen=True, slots=True)
class Ended:
    """What was there after one kill: ``state`` is before, after or between; ``recovery``: seconds to the first answer."""

    killed: bool
    state: str
    orphans: int
    recovery: float

    def __str__(self) -> str:
        return f"{self.state}, answering after {self.recovery:.1f} s"


def kill_during_swaps(home: Path, kills: int, rng: random.Random, *, workers: bool = True) -> dict[str, Any]:
    """``kills``: those that ended their process. ``between``: kills after which the state was neither the one before the move
    nor the one after it, or another version answered than the rollout says, or the caller was told of a move that is not
    there. ``moves``: promotions that the history has. ``orphans``: engine processes that no service holds."""
    ended, phases = list[Ended](), Phases()
    table = processes if workers else service_alone
    with Up(UpSettings.load(home=home, port=free_port()), table=table) as up, Client(up.url) as client:
        up.wait_ready(timeout=READY_SECONDS)
        phases.ended("start")
        typical = _timed_promotion(client, _other(client, rng))
        first = client.adapter(ADAPTER)["rollout"]["revision"]
        for number in range(kills):
            ended.append(_one_kill(up, client, rng.uniform(0, 1.5 * typical), rng))
            print(f"kill {number + 1}: {ended[-1]}", flush=True)
        moves = client.adapter(ADAPTER)["rollout"]["revision"] - first
        phases.ended("kills")
    phases.ended("stop")
    return summed(ended, moves) | {"seconds": phases.seconds}


def summed(ended: list[Ended], moves: int) -> dict[str, Any]:
    """The figures of all kills."""
    return {
        "kills": sum(one.killed for one in ended),
        "between": sum(one.state == "between" for one in ended),
        "before": sum(one.state == "before" for one in ended),
        "after": sum(one.state == "after" for one in ended),
        "moves": moves,
        "orphans": sum(one.orphans for one in ended),
        "slowest_recovery_s": round(max((one.recovery for one in ended), default=0.0), 1),
    }


def met(figures: dict[str, Any], wanted: int) -> bool:
    """As many kills as were asked for, each before or after its move, and no move in the history but theirs."""
    return (
        figures["kills"] == wanted == figures["before"] + figures["after"]
        and figures["moves"] == figures["after"]
        and figures["between"] == figures["orphans"] == 0
    )


def _one_kill(up: Up, client: Client, moment: float, rng: random.Random) -> Ended:
    before, target = client.adapter(ADAPTER)["rollout"], _other(client, rng)
    promotion = _Promotion(up.url, target)
    victim = _kill(up, moment, rng)
    killed_at = time.monotonic()
    answering = _first_answer(up.url)
    recovery = time.monotonic() - killed_at
    # A request that the worker had not taken yet waits in its supervisor's socket, and the next worker carries it out.
    told = promotion.told()
    after = client.adapter(ADAPTER)["rollout"]
    answering = answering if after == before else _first_answer(up.url)
    return Ended(
        killed=not victim.is_running(),
        state=state(before, after, target, told, client.history(ADAPTER, limit=1)[0]["revision"], answering),
        orphans=len(_orphans(up)),
        recovery=recovery,
    )


def state(
    before: dict[str, Any], after: dict[str, Any], target: int, told: int | None, history: int, answering: str
) -> str:
    """``before``, ``after`` or ``between``. ``told``: the revision that the caller was answered, None where it was cut off;
    ``history``: the last event's revision; ``answering``: the version that answers."""
    whole = history == after["revision"] and answering == f"{ADAPTER}@{after['champion']}"
    if whole and after == before and told is None:
        return "before"
    moved = (after["revision"], after["champion"]) == (before["revision"] + 1, target)
    return "after" if whole and moved and told in (None, after["revision"]) else "between"


class _Promotion:
    """A promotion under way in a thread."""

    def __init__(self, url: str, target: int) -> None:
        self._url, self._target = url, target
        self._revision: int | None = None
        self._thread = threading.Thread(target=self._promote, daemon=True)
        self._thread.start()

    def told(self) -> int | None:
        """The revision that the caller was answered, once it was answered; None: it was cut off or refused."""
        self._thread.join(READY_SECONDS)
        if self._thread.is_alive():
            raise SystemExit(f"A promotion was neither answered nor cut off within {READY_SECONDS:.0f} s.")
        return self._revision

    def _promote(self) -> None:
        with contextlib.suppress(ShoalError), Client(self._url) as client:
            self._revision = client.promote(ADAPTER, self._target, reason="bench")["revision"]


def _kill(up: Up, moment: float, rng: random.Random) -> psutil.Process:
    """Kill the service's supervisor or its worker ``moment`` seconds from now, and wait until it has ended."""
    time.sleep(moment)
    parent = psutil.Process(up.processes["service"])
    workers = [child for child in parent.children() if "_bentoml_impl.worker" in " ".join(child.cmdline())]
    victim = rng.choice([parent, *workers[:1]])
    victim.kill()
    psutil.wait_procs([victim], timeout=5)
    return victim


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
