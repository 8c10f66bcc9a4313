"""What poisoned feedback does to what users get, and what the caps and the gate save.

Whole adaptations on the starter pack, without servers: feedback, the real snapshot, CMA-ES on ``preference``, the cut to
what is served, the real confirmation and gate. Twenty raters rate right answers up and wrong ones down, or correct them. Poison
is a share of their feedback that says the opposite (``flipped``), or one more rater who sends twice as much as all others
together, and corrects every answer to what another expert says, right or wrong (``flood``): one that is worse than the champion.

``found``: held-out accuracy of what the search found, which is what users would get without a gate; ``delivered``: with the
gate, which keeps the champion where it does not pass. ``caps`` off is ``max_rater_share: 1``. Where the caps take the very same
items as no caps, both rows are of one search.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.feedback_users import ADAPTER, AT, Asked, flood, told
from registry.records import Feedback, Snapshot
from registry.snapshot_filter import SnapshotFilter
from registry.snapshots import freeze
from starter import skills
from starter.pack import Pack
from swarm_worker import search
from swarm_worker.confirm import confirm, rated
from swarm_worker.gate import accepted, decide
from swarm_worker.materialise import materialise
from swarm_worker.scorer import Scorer, climb
from swarm_worker.scoring.engine import AdapterFolder, Scored, ScoringEngine, answers_of
from swarm_worker.utilities import UTILITIES

KIND = "ratings+corrections"
WANTED = "largest"
"""The expert that the flooder likes."""
SERVED_RANK, MAX_TOKENS, ENDLESS = 16, 24, 10**6
FULL: dict[str, Any] = {
    "seeds": 3,
    "prompts": 400,
    "search": 60,
    "evaluations": 100,
    "test": 300,
    "flips": (0.0, 0.1, 0.2, 0.3),
}
QUICK: dict[str, Any] = {"seeds": 1, "prompts": 160, "search": 40, "evaluations": 24, "test": 100, "flips": (0.0, 0.3)}


def measured(pack: Pack, engine: ScoringEngine, *, quick: bool) -> dict[str, Any]:
    """Every poison, with and without caps, over all seeds."""
    size = QUICK if quick else FULL
    runs = [row for seed in range(size["seeds"]) for row in _of_seed(pack, engine, size, seed)]
    rows = []
    for poison, caps in dict.fromkeys((run["poison"], run["caps"]) for run in runs):
        own = [run for run in runs if (run["poison"], run["caps"]) == (poison, caps)]
        rows.append(
            {"poison": poison, "caps": caps, "passed": sum(run["passed"] for run in own), "runs": len(own)}
            | {name: statistics.mean(run[name] for run in own) for name in ("champion", "found", "delivered")}
            | {"worst_found": min(run["found"] - run["champion"] for run in own)}
            | {"worst_delivered": min(run["delivered"] - run["champion"] for run in own)}
        )
    return {"size": {**size, "flips": list(size["flips"])}, "rows": rows, "runs": runs}


def _of_seed(pack: Pack, engine: ScoringEngine, size: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    champion = AdapterFolder(pack.experts[pack.champion])
    items = skills.items("blend", "traffic", 3 * size["prompts"], seed)
    prompts = [_question(item) for item in items]
    said = answers_of(engine, champion, prompts, MAX_TOKENS)
    wanted = answers_of(engine, AdapterFolder(pack.experts[WANTED]), prompts, MAX_TOKENS)
    asked = [Asked(item, answer, other) for item, answer, other in zip(items, said, wanted, strict=True)]
    honest, rest = asked[: size["prompts"]], asked[size["prompts"] :]
    poisons = {
        f"flipped {share:.0%}" if share else "none": told(honest, KIND, seed, flipped=share) for share in size["flips"]
    }
    flooding = flood(rest, {one.item.prompt: one.other for one in rest})
    poisons["flood"] = [*poisons["none"], *flooding]
    test = skills.items("blend", "test", size["test"], seed)
    before = _accuracy(engine, champion, test)
    found = []
    for poison, feedback in poisons.items():
        done: dict[tuple[Any, ...], dict[str, Any]] = {}
        for caps in (True, False):
            snapshot = _frozen(feedback, caps, size, seed)
            same = (snapshot.search, snapshot.confirm)
            if same not in done:
                done[same] = _adapted(pack, engine, champion, snapshot, size, seed, test)
            outcome = done[same]
            delivered = outcome["found"] if outcome["passed"] else before
            found.append(
                {"seed": seed, "poison": poison, "caps": caps, "champion": before, "delivered": delivered} | outcome
            )
            print(f"seed {seed}, {poison}, caps {'on' if caps else 'off'}: {outcome}", flush=True)
    return found


def _frozen(feedback: Sequence[Feedback], caps: bool, size: dict[str, Any], seed: int) -> Snapshot:
    chosen = SnapshotFilter() if caps else SnapshotFilter(max_rater_share=1)
    return freeze(ADAPTER, feedback, limit_search=size["search"], limit_confirm=400, seed=seed, at=AT, chosen=chosen)


def _adapted(
    pack: Pack,
    engine: ScoringEngine,
    champion: Scored,
    snapshot: Snapshot,
    size: dict[str, Any],
    seed: int,
    test: list[skills.Item],
) -> dict[str, Any]:
    """Search, cut, confirm, gate: what was found, whether it passed, and whose items it was searched on."""
    items = [rated(item) for item in snapshot.search]
    scorer = Scorer(engine, UTILITIES["preference"], items, reference=champion)
    optimizer = search.make("cma_es", n_experts=len(pack.experts), seed=seed, max_generations=ENDLESS)
    best = climb(optimizer, scorer, item_generations=size["evaluations"] * len(items))
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as scratch:
        folder = Path(scratch) / "finalist"
        materialise(list(pack.experts.values()), best.coefficients, folder, space="delta", max_rank=SERVED_RANK)
        finalist = AdapterFolder(folder)
        report = confirm(engine, champion, finalist, snapshot.confirm, max_tokens=MAX_TOKENS)
        decision = decide(report["before"], report["after"], seed=seed, accepted=accepted(report))
        right = _accuracy(engine, finalist, test)
    flooded = [
        sum(source.startswith("flood") for item in half for source in item.sources)
        for half in (snapshot.search, snapshot.confirm)
    ]
    return {
        "found": right,
        "passed": decision.passed,
        "utility": best.utility,
        "gate": decision.difference,
        "measure": report["measure"],
        "search": len(snapshot.search),
        "confirm": len(snapshot.confirm),
        "flooded": flooded,
    }


def _accuracy(engine: ScoringEngine, scored: Scored, test: list[skills.Item]) -> float:
    answers = answers_of(engine, scored, [_question(item) for item in test], MAX_TOKENS)
    return statistics.mean(item.is_right(answer) for item, answer in zip(test, answers, strict=True))


def _question(item: skills.Item) -> list[dict[str, Any]]:
    return [{"role": "user", "content": item.prompt}]


def show(figures: dict[str, Any]) -> None:
    """The table of docs/results.md; accuracies in %, worst as points from the champion, over seeds."""
    print("\n| poison | caps | champion | found (no gate) | worst | delivered (gate) | worst | passed |")
    print("|" + "---|" * 8)
    for row in figures["rows"]:
        print(
            f"| {row['poison']} | {'on' if row['caps'] else 'off'} | {row['champion']:.1%} | {row['found']:.1%} | "
            f"{100 * row['worst_found']:+.1f} | {row['delivered']:.1%} | {100 * row['worst_delivered']:+.1f} | "
            f"{row['passed']} of {row['runs']} |"
        )
