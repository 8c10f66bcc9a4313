"""Is the feedback utility worth climbing on, and what does poison do?

python -m bench.feedback                both questions, three seeds: about seven minutes of one core
python -m bench.feedback --quick        small, one seed, at most a minute of an idle core
python -m bench.feedback --part utility or poison: one of them
python -m bench.feedback --json FILE    and write everything down

On the starter pack, the transformers engine on the CPU. Users ask the pack's blend; twenty raters say what they think of the
champion's answers, wrongly one time in twenty, in every way that Shoal takes (``bench/feedback_users.py``). Each kind of
feedback, and each mix of them, is frozen by the real snapshot. Then positions of the hull (the experts, pairs, random mixes) are
scored:

``spearman``: rank correlation over positions of the utility on the search items with what the position gets right of held-out
items (``accuracy``), and with the stars that users give its held-out answers (``stars``), mean over seeds; the interval is a
bootstrap over seeds and positions. ``picked``: the accuracy of the position that the utility likes best, ``best``: of the best
there is. ``sides``: ``good`` scores the good side of an item alone, which is what ``preference`` does; ``margin`` both sides, as
DPO does; ``norm``: per token, or of the whole answer.
``gate``: what the real confirmation and gate say of the positions: the share passed of those that are at least 5 points better
than the champion on held-out items (``power``), and of those that are no better (``false``).
``poison``: see ``bench/feedback_poison.py``.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.stats import rankdata

from bench import feedback_poison
from bench.feedback_users import ADAPTER, AT, KINDS, Asked, stars, told
from bench.machine import headline, machine
from bench.remembering import Remembering
from registry.records import Snapshot
from registry.snapshots import freeze
from starter import skills
from starter.pack import Pack, load_pack
from swarm_worker.confirm import confirm, rated
from swarm_worker.gate import accepted, decide
from swarm_worker.scoring.engine import AdapterFolder, Candidate, Likelihood, Question, Scored, Told, answers_of
from swarm_worker.scoring.engine import Asked as Questions
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.utilities.preference import Preference

BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
MAX_TOKENS = 24
DRAWS = 1000
BATCH = 10
"""Positions that are asked at once."""
BETTER = 0.05


@dataclass(frozen=True)
class Size:
    """Seeds, prompts that get feedback, random positions and pairs, held-out items."""

    seeds: int
    prompts: int
    mixes: int
    pairs: int
    test: int


FULL, QUICK = Size(3, 240, 16, 6, 200), Size(1, 120, 5, 3, 100)


def main(
    quick: Annotated[bool, typer.Option(help="Small, one seed, at most a minute.")] = False,
    part: Annotated[str, typer.Option(help="utility, poison or both.")] = "both",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Measure and print the tables."""
    torch.set_num_threads(1)
    size = QUICK if quick else FULL
    where = machine(("torch", "transformers", "numpy", "scipy"), seeds=range(size.seeds))
    print(f"{headline(where)}; one thread", flush=True)
    pack = load_pack()
    engine = TransformersEngine.load(pack.base)
    engine.set_experts(list(pack.experts.values()))
    figures: dict[str, Any] = {"machine": where, "quick": quick, "size": size.__dict__}
    if part in ("both", "utility"):
        figures |= correlations(pack, engine, size)
        show(figures)
    if part in ("both", "poison"):
        figures["poison"] = feedback_poison.measured(pack, engine, quick=quick)
        feedback_poison.show(figures["poison"])
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


@dataclass(frozen=True, eq=False)
class Scene:
    """One seed: positions, what each is worth to users, and what was said of the champion's answers."""

    engine: Remembering
    champion: Scored
    positions: list[Candidate]
    accuracy: list[float]
    stars: list[float]
    before: float
    snapshots: dict[str, Snapshot]


def correlations(pack: Pack, engine: TransformersEngine, size: Size) -> dict[str, Any]:
    """Every kind of feedback, side, norm and beta over all seeds."""
    scenes = []
    for seed in range(size.seeds):
        scenes.append(scene(pack, engine, size, seed))
        print(f"seed {seed}: {len(scenes[-1].positions)} positions, champion {scenes[-1].before:.1%}", flush=True)
    found: dict[str, Any] = {"kinds": {}, "betas": []}
    for kind in KINDS:
        found["kinds"][kind] = of_kind(kind, scenes)
    for sides in ("good", "margin"):
        for norm in ("token", "answer"):
            for beta in BETAS:
                row = [summed(kind, scenes, sides, norm, beta) for kind in KINDS]
                found["betas"].append(
                    {"sides": sides, "norm": norm, "beta": beta}
                    | {kind: figures["accuracy"] for kind, figures in zip(KINDS, row, strict=True)}
                    | {
                        name: statistics.mean(figures[name] for figures in row)
                        for name in ("accuracy", "stars", "picked")
                    }
                )
    found["champion"] = statistics.mean(one.before for one in scenes)
    found["best"] = statistics.mean(max(one.accuracy) for one in scenes)
    return found


def scene(pack: Pack, engine: TransformersEngine, size: Size, seed: int) -> Scene:
    """Asks everything that any measure of this seed needs, ten positions at a time."""
    remembering = Remembering(engine)
    champion = AdapterFolder(pack.experts[pack.champion])
    asked = answered(pack, remembering, size.prompts, seed)
    snapshots = {}
    for kind in KINDS:
        said = told(asked, kind, seed)
        snapshots[kind] = freeze(ADAPTER, said, limit_search=200, seed=seed, at=AT)
    positions = drawn(len(pack.experts), size, seed)
    held_out = skills.items("blend", "test", size.test, seed)
    for start in range(0, len(positions), BATCH):
        several = positions[start : start + BATCH]
        remembering.ask(several, _everything(snapshots, held_out))
    prompts = [question(item) for item in held_out]
    rng = random.Random(seed)
    worth = []
    for position in positions:
        answers = answers_of(remembering, position, prompts, MAX_TOKENS)
        pairs = list(zip(held_out, answers, strict=True))
        right = statistics.mean(item.is_right(answer) for item, answer in pairs)
        worth.append((right, statistics.mean(stars(item, answer, rng) for item, answer in pairs)))
    before = answers_of(remembering, champion, prompts, MAX_TOKENS)
    return Scene(
        remembering,
        champion,
        positions,
        [right for right, _ in worth],
        [given for _, given in worth],
        statistics.mean(item.is_right(answer) for item, answer in zip(held_out, before, strict=True)),
        snapshots,
    )


def answered(pack: Pack, engine: Any, n: int, seed: int) -> list[Asked]:
    """What users asked, what the champion said, and for pairs what another expert of the pack would have said."""
    items = skills.items("blend", "traffic", n, seed)
    prompts = [question(item) for item in items]
    champion, *others = pack.experts.values()
    said = answers_of(engine, AdapterFolder(champion), prompts, MAX_TOKENS)
    second = [answers_of(engine, AdapterFolder(other), prompts, MAX_TOKENS) for other in others[:3]]
    rng = random.Random(seed)
    return [Asked(item, said[place], rng.choice(second)[place]) for place, item in enumerate(items)]


def question(item: skills.Item) -> list[dict[str, Any]]:
    return [{"role": "user", "content": item.prompt}]


def drawn(n: int, size: Size, seed: int) -> list[Candidate]:
    """The experts, pairs of them, and sparse random mixes whose coefficients sum to between a half and half the experts."""
    rng = np.random.default_rng([seed, 7])
    rows = [np.eye(n)[expert] for expert in range(n)]
    for _ in range(size.pairs):
        one, other = rng.choice(n, 2, replace=False)
        rows.append(np.eye(n)[one] * (w := rng.uniform()) + np.eye(n)[other] * (1 - w))
    rows += [rng.dirichlet(np.full(n, 0.5)) * rng.uniform(0.5, n / 2) for _ in range(size.mixes)]
    return [Candidate(tuple(float(c) for c in row)) for row in rows]


def of_kind(kind: str, scenes: Sequence[Scene]) -> dict[str, Any]:
    """What ``preference`` as it is used is worth on this kind of feedback, and what the gate makes of it."""
    chosen = Preference()
    pairs = [(utilities(one, kind, "good", "token", chosen.beta), one) for one in scenes]
    found: dict[str, Any] = {"items": statistics.mean(len(one.snapshots[kind].search) for one in scenes)}
    for name in ("accuracy", "stars"):
        cells = [(utility, getattr(one, name)) for utility, one in pairs]
        low, high = interval(cells)
        found[name] = {"spearman": statistics.mean(spearman(*cell) for cell in cells), "low": low, "high": high}
    return found | {"gate": gate(kind, scenes)}


def summed(kind: str, scenes: Sequence[Scene], sides: str, norm: str, beta: float) -> dict[str, float]:
    told = [(utilities(one, kind, sides, norm, beta), one) for one in scenes]
    return {
        "accuracy": statistics.mean(spearman(utility, one.accuracy) for utility, one in told),
        "stars": statistics.mean(spearman(utility, one.stars) for utility, one in told),
        "picked": statistics.mean(one.accuracy[int(np.argmax(utility))] for utility, one in told),
    }


def utilities(one: Scene, kind: str, sides: str, norm: str, beta: float) -> list[float]:
    """The utility of each position: the real ``preference`` where it scores the good side."""
    items = [rated(item) for item in one.snapshots[kind].search]
    if sides == "margin":
        good, bad = (_gains(one, kind, side, norm) for side in ("good", "bad"))
        return list((1 / (1 + np.exp(-beta * (good - bad)))).mean(axis=1))
    utility = Preference(beta)
    told = [_normed(reply, norm) for reply in _replies(one, kind)]
    return [statistics.mean(v.score or 0.0 for v in utility.judge(items, reply, told[0])) for reply in told[1:]]


@cache
def _replies(one: Scene, kind: str) -> list[Told]:
    """What the champion and then each position say to what ``preference`` asks."""
    asked = Preference().asks([rated(item) for item in one.snapshots[kind].search])
    return one.engine.ask([one.champion, *one.positions], asked)


@cache
def _gains(one: Scene, kind: str, side: str, norm: str) -> Any:
    """How much likelier than to the champion each item's answer on that side is to each position: (positions, items); an
    answer that is not there gains nothing."""
    items = [rated(item) for item in one.snapshots[kind].search]
    there = [place for place, item in enumerate(items) if getattr(item, side) is not None]
    asked = tuple(Question(items[place].question, getattr(items[place], side)) for place in there)
    replies = one.engine.ask([one.champion, *one.positions], Questions(likelihoods=asked))
    means = np.zeros((len(replies), len(items)))
    for row, reply in enumerate(replies):
        means[row, there] = [likelihood.mean for likelihood in _normed(reply, norm).likelihoods]
    return means[1:] - means[0]


def gate(kind: str, scenes: Sequence[Scene]) -> dict[str, Any]:
    """What the confirmation and the gate say of every position, against what it is worth on held-out items."""
    better, worse, measures = [], [], set()
    for seed, one in enumerate(scenes):
        items = one.snapshots[kind].confirm
        for position, accuracy in zip(one.positions, one.accuracy, strict=True):
            report = confirm(one.engine, one.champion, position, items, max_tokens=MAX_TOKENS)
            measures.add(report["measure"])
            passed = decide(report["before"], report["after"], seed=seed, draws=DRAWS, accepted=accepted(report)).passed
            if accuracy >= one.before + BETTER:
                better.append(passed)
            elif accuracy <= one.before:
                worse.append(passed)
    shares = {"power": _share(better), "false": _share(worse)}
    return {"measures": sorted(measures), "better": len(better), "no_better": len(worse), **shares}


def _share(passed: Sequence[bool]) -> float | None:
    return sum(passed) / len(passed) if passed else None


def _everything(snapshots: dict[str, Snapshot], held_out: Sequence[skills.Item]) -> Questions:
    """Both sides of every item, the confirm items' prompts and the held-out prompts."""
    halves = [item for snapshot in snapshots.values() for item in (*snapshot.search, *snapshot.confirm)]
    sides = {
        (str(item.digest), answer): Question(rated(item).question, answer)
        for item in halves
        for answer in (item.good, item.bad)
        if answer is not None
    }
    prompts = {item.digest: rated(item).question for snapshot in snapshots.values() for item in snapshot.confirm}
    return Questions(tuple(sides.values()), (*prompts.values(), *(question(item) for item in held_out)), MAX_TOKENS)


def _normed(told: Told, norm: str) -> Told:
    """``answer``: not per token, but of the whole answer."""
    if norm == "token":
        return told
    return Told(tuple(Likelihood(likelihood.total, 1) for likelihood in told.likelihoods), told.answers)


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """0 where one of them does not vary."""
    ranks = np.stack([rankdata(one), rankdata(other)])
    if np.ptp(ranks, axis=1).min() == 0:
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def interval(cells: Sequence[tuple[Sequence[float], Sequence[float]]], level: float = 0.95) -> tuple[float, float]:
    """A bootstrap over seeds and, within each, over positions, of the mean rank correlation."""
    rng = np.random.default_rng(0)
    arrays = [(np.asarray(one), np.asarray(other)) for one, other in cells]
    means = []
    for _ in range(DRAWS):
        total = 0.0
        for number in rng.integers(len(arrays), size=len(arrays)):
            one, other = arrays[number]
            places = rng.integers(len(one), size=len(one))
            total += spearman(one[places], other[places])
        means.append(total / len(arrays))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def show(figures: dict[str, Any]) -> None:
    """The tables of docs/results.md."""
    print(f"\nchampion {figures['champion']:.1%}, best position {figures['best']:.1%} (means over seeds)")
    print("| feedback | items | Spearman with accuracy | with stars | gate measures | power | false |")
    print("|" + "---|" * 7)
    for kind, row in figures["kinds"].items():
        ranks = [
            f"{one['spearman']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for one in (row["accuracy"], row["stars"])
        ]
        gates = row["gate"]
        shares = [
            "-" if gates[name] is None else f"{gates[name]:.0%} of {gates[of]}"
            for name, of in (("power", "better"), ("false", "no_better"))
        ]
        print("| " + " | ".join([kind, f"{row['items']:.0f}", *ranks, ", ".join(gates["measures"]), *shares]) + " |")
    print("\n| sides | norm | beta | " + " | ".join(KINDS) + " | mean | stars | picked |")
    print("|" + "---|" * (len(KINDS) + 6))
    for row in figures["betas"]:
        cells = " | ".join(f"{row[kind]:.2f}" for kind in KINDS)
        means = f"{row['accuracy']:.3f} | {row['stars']:.3f} | {row['picked']:.1%}"
        print(f"| {row['sides']} | {row['norm']} | {row['beta']:g} | {cells} | {means} |")
