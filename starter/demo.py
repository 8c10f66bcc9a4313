"""`shoal demo`: the whole story on real parts, told while it happens.

traffic -> ratings and corrections computed from the true answers -> a run with progress -> gate -> promotion -> answers
improve -> rollback -> the old answers again; then the table of what everybody gets right of items that nobody saw.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from openai import OpenAI
from rich.console import Console

from registry.records import Event, Run
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.snapshots import read
from shoal.client import Client
from shoal.settings import UpSettings
from shoal.up import Up
from starter import comparison, report
from starter.load import Answered, Load, ask
from starter.mixing import MixCheck, check_mixing
from starter.pack import Pack, load_pack
from starter.skills import Item, check_disjoint, items
from swarm_worker.gate import power

app = typer.Typer(add_completion=False)

TRAFFIC_ITEMS = 6000
KEPT = {"SHOAL_REDIS_URL", "SHOAL_DTYPE", "SHOAL_SCORING_THREADS"}
"""Variables that the demo heeds."""
LOOK = 300
"""Answers per phase that "answers improve" is read from; one standard error of such a share is about 3 points."""


@dataclass
class Story:
    """What has happened so far. ``moves``: the moments at which the champion moved, by the registry's clock."""

    pack: Pack
    seed: int
    began: float = field(default_factory=time.time)
    run: Run | None = None
    moves: list[float] = field(default_factory=list)
    live: dict[str, float] = field(default_factory=dict)
    swap_ms: float = 0.0
    rollback_ms: float = 0.0
    requests: dict[str, int] = field(default_factory=dict)
    mix: MixCheck = field(default_factory=MixCheck)
    table: comparison.Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures that ``--json`` writes."""
        if self.run is None or self.table is None:
            raise ValueError("the story is not told yet")
        gain = self.table.over_champion
        return {
            "seed": self.seed,
            "requests": self.requests
            | {"checked": self.mix.checked, "near_a_move": self.mix.near, "mixed": self.mix.mixed},
            "live": self.live,
            "test": {"n": self.table.n, **self.table.right, "ci_low": gain.low, "ci_high": gain.high}
            | {"ci_low_vs_best_expert": self.table.over_best_expert.low},
            "swap_ms": self.swap_ms,
            "rollback_ms": self.rollback_ms,
            "search": {
                "generations": self.run.generation + 1,
                "item_generations": self.run.item_generations,
                "seconds": self.run.search_seconds,
            },
            "gate": self.run.decision,
            "formula": self.run.formula,
            "coefficients": dict(
                zip([expert.name for expert in self.run.experts], self.run.coefficients or (), strict=True)
            ),
            "wall_s": time.time() - self.began,
        }


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Redraws traffic, ratings, snapshot, search, confirm and test items.")] = 0,
    feedback: Annotated[int, typer.Option(min=120, help="How many rated answers to collect before the run.")] = 500,
    test_items: Annotated[
        int, typer.Option(min=100, help="Held-out items that the final table is measured on.")
    ] = 2000,
    clients: Annotated[int, typer.Option(min=2, help="Concurrent openai clients, half of them streaming.")] = 4,
    home: Annotated[Path, typer.Option(help="Where the demo keeps its state; emptied first.")] = Path(".shoal/demo"),
    port: Annotated[int, typer.Option(help="Port of the service.")] = 3000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Watch a LoRA endpoint get better from feedback while it keeps answering, then go back with one call."""
    console = Console()
    _own_settings()
    story = Story(load_pack(), seed)
    traffic = items("blend", "traffic", TRAFFIC_ITEMS, seed)
    held_out = items("blend", "test", test_items, seed)
    check_disjoint(traffic, held_out)
    _empty(home)
    with tempfile.TemporaryDirectory(prefix="shoal-demo-") as scratch:
        with Up(UpSettings(home=home, port=port)) as up:
            _say(console, 1, "Starting Redis, workers and the service (vLLM takes about twenty seconds)")
            up.wait_ready(timeout=300)
            _tell(console, story, up, traffic, feedback=feedback, clients=clients)
            prepared = _collect(story, up, Path(scratch))
        _say(console, 8, f"The honest table: {test_items} items that neither search, confirm nor gate saw")
        story.table = _measure(story, prepared, held_out, Path(scratch))
    figures = story.to_json()
    report.show(console, figures)
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    if story.requests["failed"] or story.mix.mixed or not (story.run and story.run.promoted):
        sys.exit(1)


def _tell(console: Console, story: Story, up: Up, traffic: list[Item], *, feedback: int, clients: int) -> None:
    """The story itself, under load from the first line to the last."""
    client, name = Client(up.url), story.pack.adapter
    with Load(up.url, name, itertools.cycle(traffic), clients=clients) as load:
        rated = _rate(console, story, client, load, traffic, feedback)
        story.live["before"] = _share_right(rated)
        load.pause = 0.25  # people go on asking while the search uses the machine, too
        _adapt(console, story, client)
        load.pause = 0.02
        if story.run and story.run.promoted:
            _watch_improvement(console, story, load, client)
            _go_back(console, story, up, load, client)
    failed = [answer for answer in load.answers if answer.error]
    story.requests = {"ok": len(load.answers) - len(failed), "failed": len(failed)}
    for answer in failed[:3]:
        console.print(f"   [red]failed:[/red] {answer.error}", markup=True)
    _check_mixing(console, story, up, load.answers)


def _rate(
    console: Console, story: Story, client: Client, load: Load, traffic: list[Item], wanted: int
) -> list[Answered]:
    """Users rate: an answer that is right is rated up, a wrong one is corrected. One feedback for each prompt."""
    _say(
        console,
        2,
        f"Traffic: {len(load._threads)} openai clients ask {story.pack.adapter}, users rate {wanted} answers",
    )
    load.wait_for(lambda answers: sum(not answer.error for answer in answers) >= wanted, timeout=300)
    rated = list({a.item.digest: a for a in load.since(0) if not a.error and a.request_id}.values())[:wanted]
    _send_feedback(client, rated)
    right = sum(answer.right for answer in rated)
    console.print(
        f"   {len(rated)} answers: {right} rated up, {len(rated) - right} corrected "
        f"({right / len(rated):.1%} right, by {rated[0].version})"
    )
    effect = story.pack.effect
    chance = power(effect.difference, effect.spread, len(rated) // 2)
    console.print(
        f"   The gate will decide on about {len(rated) // 2} of them: at this pack's usual gain of "
        f"{100 * effect.difference:.0f} points its power is {chance:.2f}"
    )
    return rated


def _send_feedback(client: Client, rated: list[Answered]) -> None:
    told = [
        {"request_id": answer.request_id, "id": f"demo-{answer.request_id}", "rater": "demo"}
        | ({"rating": "up"} if answer.right else {"correction": answer.item.answer})
        for answer in rated
    ]
    for start in range(0, len(told), 200):
        client.send_feedback(told[start : start + 200])


def _adapt(console: Console, story: Story, client: Client) -> None:
    """One run from trigger to promotion; its progress is drawn while the load goes on."""
    _say(console, 3, "POST /api/runs: a search over the experts' coefficients, scored by that feedback, in Celery")
    started = client.start_run(adapter=story.pack.adapter, seed=story.seed, reason="shoal demo")
    final = report.watch(console, client.run_events(started["id"]))
    story.run = Run.model_validate(final)
    console.print(f"   found: {story.run.formula}")
    _say(console, 4, "Gate: the finalist, cut to what is served, against the champion on unseen feedback")
    console.print(f"   {story.run.outcome}")


def _watch_improvement(console: Console, story: Story, load: Load, client: Client) -> None:
    moved = _last_move(client, story)
    story.moves.append(moved)
    new = f"{story.pack.adapter}@{story.run.version}" if story.run else ""
    load.wait_for(lambda answers: sum(a.version == new for a in answers) >= LOOK, timeout=120)
    after = [answer for answer in load.since(moved) if answer.version == new]
    story.live["after"] = _share_right(after)
    story.swap_ms = 1000 * (min(answer.ended for answer in after) - moved)
    _say(console, 5, f"Answers improve: {story.live['before']:.1%} right before, {story.live['after']:.1%} by {new}")
    console.print(f"   first answer of {new} {story.swap_ms:.0f} ms after the champion moved; nothing restarted")


def _go_back(console: Console, story: Story, up: Up, load: Load, client: Client) -> None:
    """One call back; the next answer comes from the earlier version."""
    name = story.pack.adapter
    began = time.time()
    client.rollback(name, reason="shoal demo: because we can")
    with OpenAI(base_url=f"{up.url}/v1", api_key="none", max_retries=0) as direct:
        first = ask(direct, name, load.answers[0].item)
    story.rollback_ms = 1000 * (first.ended - began)
    moved = _last_move(client, story)
    story.moves.append(moved)
    load.wait_for(lambda answers: sum(a.began > moved for a in answers) >= LOOK, timeout=120)
    story.live["rolled_back"] = _share_right(load.since(moved))
    _say(console, 6, f"Rollback: the next answer came from {first.version}, {story.rollback_ms:.0f} ms after the call")
    console.print(f"   {story.live['rolled_back']:.1%} right again, as before. History:")
    for event in reversed(client.history(name, limit=3)):
        console.print(f"   [dim]{event['at'][:19]}[/dim] {event['sentence']}", highlight=False, soft_wrap=True)


def _check_mixing(console: Console, story: Story, up: Up, answers: list[Answered]) -> None:
    _say(console, 7, "Did any answer mix two versions? Each is asked again of the version that it claims")
    if story.run is None or story.run.champion is None or story.run.version is None:
        return
    name = story.pack.adapter
    versions = (f"{name}@{story.run.champion.version}", f"{name}@{story.run.version}")
    with OpenAI(base_url=f"{up.url}/v1", api_key="none") as direct, ThreadPoolExecutor(8) as pool:

        def again(version: str, asked: Any) -> list[str]:
            return [answer.text for answer in pool.map(lambda item: ask(direct, version, item), asked)]

        story.mix = check_mixing(answers, versions, story.moves, again)
    console.print(
        f"   {story.requests['ok']} answers, {story.requests['failed']} failed; {story.mix.checked} checked on prompts where "
        f"the versions differ ({story.mix.near} within 2 s of a move): {story.mix.mixed} mixed"
    )
    for example in story.mix.examples:
        console.print(f"   [red]{example}[/red]", highlight=False)


@dataclass(frozen=True)
class Prepared:
    """What the table needs once the servers are gone: the run's snapshot and everybody's folders."""

    registry: Registry
    folders: list[Path]
    adapted: Path


def _collect(story: Story, up: Up, scratch: Path) -> Prepared:
    settings = RegistrySettings.load(
        redis_url=up.redis_url, artifacts_url=str(up.settings.home / "artifacts"), cache_dir=str(scratch / "cache")
    )
    registry = Registry.open(settings)
    run = story.run
    if run is None or run.version is None:
        raise typer.Exit(_give_up(story))
    adapted = registry.artifacts.fetch(registry.version(run.spec.adapter, run.version).digest)
    return Prepared(registry, [registry.artifacts.fetch(expert.digest) for expert in run.experts], adapted)


def _measure(story: Story, prepared: Prepared, held_out: list[Item], scratch: Path) -> comparison.Comparison:
    import torch

    from swarm_worker.scoring.transformers import TransformersEngine

    run = story.run
    if run is None or run.snapshot is None:
        raise typer.Exit(_give_up(story))
    snapshot = read(prepared.registry.artifacts.get_json, run.snapshot.digest)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    engine = TransformersEngine.load(story.pack.base)
    everybody = comparison.contenders(
        engine,
        story.pack.base,
        run,
        snapshot,
        prepared.folders,
        prepared.adapted,
        scratch,
        prepared.registry.settings.max_lora_rank,
    )
    return comparison.compare(engine, everybody, held_out, seed=story.seed)


def _give_up(story: Story) -> int:
    outcome = story.run.outcome if story.run else "the run did not end"
    Console(stderr=True).print(f"[red]No version was registered:[/red] {outcome}")
    return 1


def _last_move(client: Client, story: Story) -> float:
    """When the champion last moved, seconds since the epoch."""
    moves = [e for e in client.history(story.pack.adapter, limit=20) if e["kind"] in {"promoted", "rolled_back"}]
    return Event.model_validate({k: v for k, v in moves[0].items() if k != "sentence"}).at.timestamp()


def _share_right(answers: list[Answered]) -> float:
    return sum(answer.right for answer in answers) / max(1, len(answers))


def _own_settings() -> None:
    """The demo is the same whatever Shoal is set to elsewhere; on a Redis of yours it has keys of its own."""
    for name in [name for name in os.environ if name.startswith("SHOAL_") and name not in KEPT]:
        del os.environ[name]
    if "SHOAL_REDIS_URL" in os.environ:
        os.environ["SHOAL_NAMESPACE"] = f"demo-{secrets.token_hex(4)}"


def _empty(home: Path) -> None:
    """Only a home that a demo made is emptied."""
    mark = home / ".made-by-shoal-demo"
    if home.exists() and any(home.iterdir()) and not mark.exists():
        raise typer.BadParameter(f"{home} holds something else; choose an empty --home", param_hint="--home")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    mark.touch()


def _say(console: Console, number: int, sentence: str) -> None:
    console.print(f"\n[bold cyan]{number}[/bold cyan] [bold]{sentence}[/bold]", highlight=False)
