"""Trials on a real Shoal: ``shoal up`` with the starter pack on vLLM, its own workers and beat, and users who rate over HTTP.

Each version answers as it does; whether its users like that is drawn by lot with its true rate, for what is tested is the
decision and not the pack. The run that delivers a version is written as one whose gate has passed; from there on everything is
Shoal's.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp

from bench.canary import POINTS, POLICY, QUICK, RATES
from bench.streams import session
from bench.trial_stage import Ended, verdict_of
from bench.versions import sums_of_two
from registry.policy import Policy
from registry.records import Run, RunSpec, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from shoal.client import Client
from shoal.ports import free_port
from shoal.settings import UpSettings
from shoal.starter_pack import StarterPack
from shoal.up import Up
from starter.skills import SKILLS, items

ADAPTER, USERS = "support-bot", 8
MOST = 12_000  # answers of a trial
EARLIER = QUICK.model_copy(update={"early_ratings": 170})  # between two ticks a quarter of all answers is not few
Figures = dict[str, Any]


@dataclass
class Crowd:
    """Users that ask and rate without a pause. ``rates``: by version, how often it is rated up."""

    url: str
    rng: random.Random
    rates: dict[str, float] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    async def ask_on(self, asking: aiohttp.ClientSession, prompts: tuple[str, ...], user: int) -> None:
        """Until cancelled. Every question is another user's, so each is drawn anew who answers it."""
        for turn in itertools.count():
            name = f"user-{user}-{turn}"
            body = {"model": ADAPTER, "prompt": self.rng.choice(prompts), "max_tokens": 2, "user": name}
            async with asking.post(f"{self.url}/v1/completions", json=body) as answer:
                version, request = answer.headers.get("x-shoal-version", ""), answer.headers.get("x-request-id", "")
                if answer.status != 200:
                    self.failed += 1
                    continue
                await answer.read()
            self.answers[version] += 1
            said = {"request_id": request, "rating": float(self.rng.random() < self.rates[version]), "rater": name}
            async with asking.post(f"{self.url}/api/feedback", json=said) as kept:
                self.failed += kept.status not in (200, 201)


async def on_vllm(home: Path, *, quick: bool, seed: int) -> Figures:
    """Two worse and two better versions, one after the other (one worse one when quick)."""
    pack, policy = StarterPack.found(), EARLIER if quick else POLICY
    plan = [("bad", -POINTS)] if quick else [("bad", -POINTS), ("good", POINTS), ("bad", -POINTS), ("good", POINTS)]
    settings = UpSettings.load(home=home, port=free_port(), import_starter=False)
    ended: dict[str, list[Ended]] = {}
    # A tick a second: a share of 5% of what vLLM answers on a CPU in five seconds is some answers more than need be.
    with patch.dict(os.environ, {"SHOAL_TICK_SECONDS": "1"}), Up(settings) as up, Client(up.url) as client:
        await asyncio.to_thread(up.wait_ready, 300)
        folders = [*pack.experts, *sums_of_two(pack.experts, 3, home / "made")][: len(plan) + 1]
        for folder in folders:
            await asyncio.to_thread(client.import_version, ADAPTER, folder, label=folder.name)
        registry = Registry.open(
            RegistrySettings(
                redis_url=up.redis_url, artifacts_url=str(home / "artifacts"), cache_dir=str(home / "read")
            )
        )
        registry.set_policy(ADAPTER, Policy(canary=policy), by="bench")
        crowd = Crowd(up.url, random.Random(seed))
        async with session() as asking:
            prompts = tuple(item.prompt for skill in sorted(SKILLS) for item in items(skill, "test", 50, seed=seed))
            for number, (kind, points) in enumerate(plan):
                found = await _trial(registry, crowd, asking, prompts, number + 2, RATES[1 + number % 2], points)
                print(f"{kind}: {found.verdict}, {found.own} of {found.all}. {found.reason}", flush=True)
                ended.setdefault(kind, []).append(found)
        registry.close()
    return _counted(ended, crowd, policy.model_dump(mode="json"))


async def _trial(
    registry: Registry,
    crowd: Crowd,
    asking: aiohttp.ClientSession,
    prompts: tuple[str, ...],
    version: int,
    rate: float,
    points: float,
) -> Ended:
    champion = registry.rollout(ADAPTER).champion
    crowd.rates = {f"{ADAPTER}@{champion}": rate, f"{ADAPTER}@{version}": rate + points}
    crowd.answers.clear()
    run = Run(
        id=f"run-bench-{version}",
        spec=RunSpec(adapter=ADAPTER),
        status="promoting",
        version=version,
        created_at=now(),
        created_by="bench",
        rollout_revision=registry.rollout(ADAPTER).revision,
    )
    registry.runs.create(run)
    users = [asyncio.create_task(crowd.ask_on(asking, prompts, 1000 * version + user)) for user in range(USERS)]
    try:
        while run.going and crowd.answers.total() < MOST:
            await asyncio.sleep(0.5)
            run = await asyncio.to_thread(registry.runs.get, run.id)
            if broken := next((user for user in users if user.done()), None):
                broken.result()
    finally:
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)
    events = await asyncio.to_thread(registry.history, ADAPTER)
    verdict = verdict_of(next(event for event in events if "trial" in event.details))
    return Ended(verdict, crowd.answers[f"{ADAPTER}@{version}"], crowd.answers.total(), run.outcome, run)


def _counted(ended: dict[str, list[Ended]], crowd: Crowd, policy: dict[str, Any]) -> Figures:
    bad, good = ended.get("bad", []), ended.get("good", [])
    return {
        "bad": len(bad),
        "bad_rolled_back": sum(found.verdict != "promoted" and not found.run.going for found in bad),
        "bad_kept_back": sum(found.verdict == "worse" for found in bad),
        "answers_by_bad_max": max(found.own for found in bad),
        "good": len(good),
        "good_promoted": sum(found.verdict == "promoted" for found in good),
        "answers": sum(found.all for found in [*bad, *good]),
        "failed": crowd.failed,
        "policy": policy,
    }
