"""Everybody at one budget, on the same test items: presets, optimisers, the paper's baselines, controls; `shoal compare`.

The folder of a comparison::

    compare.json, compare.md   the table, with intervals
    cells/METHOD.SEED.json     what one method came to with one seed; a second call computes only what is missing
    state.json, cache.jsonl    as in a search; the cache is shared, and what is cached costs as much as what is computed
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from swarm_worker.baselines import BASELINES, Baseline, Contender, Found, Setting, Single
from swarm_worker.formula import describe
from swarm_worker.gate import LEVEL
from swarm_worker.offline.config import OptimizerConfig, PresetName
from swarm_worker.offline.evidence import weigh
from swarm_worker.offline.journal import DiskCache, Journal, write_json, write_text
from swarm_worker.offline.scene import Scene, versions
from swarm_worker.offline.search import Progress, Watch, summary
from swarm_worker.scorer import climb
from swarm_worker.scoring.engine import BASE
from swarm_worker.search import OPTIMIZERS
from swarm_worker.statistics import spread
from swarm_worker.utilities import Scores, reference_of
from swarm_worker.utilities.utility import scores_of

REFERENCE = "best_expert"
"""Whom every row is compared with."""

Method = Callable[[Scene, int, DiskCache, Path], Found]


def methods() -> dict[str, Method]:
    """Everybody who can be compared, by name, in the order of the table."""
    found: dict[str, Method] = {"base": _base}
    found |= {name: _baseline(baseline) for name, baseline in BASELINES.items()}
    found |= {name: _optimizer(name) for name in OPTIMIZERS if name not in BASELINES}
    found |= {name: _preset(name) for name in get_args(PresetName)}
    return found


def chosen(names: str | None) -> list[str]:
    """``a,b,c`` or ``all``, in the table's order; the best expert is always among them. Raises ``ValueError``."""
    known = methods()
    wanted = list(known) if names in (None, "all") else [name.strip() for name in str(names).split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"--methods: there is no {unknown[0]!r}; there are all, {', '.join(known)}")
    return [name for name in known if name in {*wanted, REFERENCE}]


def run(
    scene: Scene, folder: Path, names: Sequence[str], seeds: Sequence[int], watch: Watch = lambda progress: None
) -> dict[str, Any]:
    """Every method with every seed; what ``compare.json`` says. What an earlier call finished is not done again.

    A method that cannot run here (no training data, a budget too small for it) is a row with the reason.
    """
    if scene.budget is None:
        raise ValueError("budget: a comparison needs one, for all the same: budget: {evaluations: 200}, say")
    if not scene.items.test:
        raise ValueError("data.test: a comparison is measured on test items, and there are none left")
    journal = Journal(folder, scene.identity())
    journal.save()
    (folder / "cells").mkdir(exist_ok=True)
    known, cells = methods(), {}
    for done, (name, seed) in enumerate(wanted := [(name, seed) for name in names for seed in seeds]):
        watch(Progress(f"{name}, seed {seed}", share=done / len(wanted)))
        cells[name, seed] = _cell(scene, folder, journal.cache, known[name], name, seed)
    result = _table(scene, names, seeds, cells)
    write_text(folder / "compare.md", text(result))
    write_json(folder / "compare.json", result)
    return result


def _cell(scene: Scene, folder: Path, cache: DiskCache, method: Method, name: str, seed: int) -> dict[str, Any]:
    file = folder / "cells" / f"{name}.{seed}.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    with _scratch(folder, f"{name}.{seed}") as scratch:
        began = time.monotonic()
        try:
            found = method(scene, seed, cache, scratch)
        except ValueError as error:
            return {"refused": str(error)}  # not kept: what is lacking may be there next time
        seconds = time.monotonic() - began
        scores = tested(scene, found.contender)
    cell = {"note": found.note, "item_generations": found.item_generations, "seconds": round(seconds, 3)}
    write_json(file, cell | summary(scores))
    return cell | summary(scores)


@contextmanager
def _scratch(folder: Path, name: str) -> Iterator[Path]:
    """A path of its own, for engines know an adapter by its folder; nothing of it stays, whatever happens."""
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)  # a killed call's
    (scratch / name).mkdir(parents=True)
    try:
        yield scratch / name
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def tested(scene: Scene, contender: Contender) -> Scores:
    """What users would get from ``contender``: its scores on the test items."""
    scene.engine.set_experts(scene.folders, scene.hull)  # a baseline may have looked at other experts
    items, utility = scene.items.test, scene.utility
    reference = reference_of(utility, scene.engine, scene.reference, items)
    return scores_of(utility, items, contender.told(scene.engine, utility.asks(items)), reference)


def _base(scene: Scene, seed: int, cache: DiskCache, scratch: Path) -> Found:
    return Found(Single(BASE), 0, "the base model alone")


def _setting(scene: Scene, seed: int, cache: DiskCache, scratch: Path) -> Setting:
    return Setting(
        scorer=scene.scorer(cache),
        folders=scene.folders,
        names=scene.names,
        evaluations=(scene.budget or 0) // len(scene.items.search),
        seed=seed,
        scratch=scratch,
        max_rank=scene.config.hull.max_rank,
        base=Path(scene.config.base),
        training=scene.items.training,
        hull=scene.hull,
        utility=scene.utility,
    )


def _baseline(baseline: Baseline) -> Method:
    return lambda scene, seed, cache, scratch: baseline(_setting(scene, seed, cache, scratch))


def _optimizer(name: str) -> Method:
    def method(scene: Scene, seed: int, cache: DiskCache, scratch: Path) -> Found:
        return _searched(scene, OptimizerConfig(name=name), seed, cache, scratch)

    return method


def _preset(preset: PresetName) -> Method:
    def method(scene: Scene, seed: int, cache: DiskCache, scratch: Path) -> Found:
        return _searched(scene.under(preset), None, seed, cache, scratch)

    return method


def _searched(scene: Scene, optimizer: OptimizerConfig | None, seed: int, cache: DiskCache, scratch: Path) -> Found:
    """A search's own selected position, cut as users would get it."""
    scorer = scene.search_scorer(cache)
    best = climb(scene.optimizer(optimizer, seed), scorer, item_generations=scene.budget)
    formula = describe(scene.hull.dimension_names(scene.names), best.coefficients)
    contender = _setting(scene, seed, cache, scratch).served(best.coefficients, "found")
    return Found(contender, scorer.item_generations, f"{formula}; {best.utility:.4f} on the search items")


def _table(
    scene: Scene, names: Sequence[str], seeds: Sequence[int], cells: dict[tuple[str, int], dict[str, Any]]
) -> dict[str, Any]:
    reference = _over_seeds([cells[REFERENCE, seed] for seed in seeds])
    rows = []
    for name in names:
        mine = [cells[name, seed] for seed in seeds]
        if refused := [cell["refused"] for cell in mine if "refused" in cell]:
            rows.append({"method": name, "refused": refused[0]})
            continue
        utilities = spread([cell["utility"] for cell in mine])
        evidence = weigh(scene.utility, scene.items.test, reference, _over_seeds(mine), seed=scene.config.seed)
        rows.append(
            {
                "method": name,
                "test": utilities.mean,
                "spread": utilities.deviation,
                "difference": evidence.gain.mean,
                "ci_low": evidence.gain.low,
                "ci_high": evidence.gain.high,
                "malformed": sum(cell["malformed"] for cell in mine) / (len(mine) * len(scene.items.test)),
                "item_generations": round(sum(cell["item_generations"] for cell in mine) / len(mine)),
                "seconds": round(sum(cell["seconds"] for cell in mine) / len(mine), 3),
                "notes": [cell["note"] for cell in mine],
            }
        )
    return {
        "identity": scene.identity(),
        "utility": repr(scene.utility),
        "score": repr(scene.score),
        "reference": REFERENCE,
        "budget": scene.budget,
        "seeds": list(seeds),
        "items": {name: len(part) for name, part in scene.items.parts().items()},
        "rows": rows,
        "versions": versions(),
    }


def _over_seeds(cells: Sequence[dict[str, Any]]) -> list[float | None]:
    """Each item's mean score over seeds; None where no seed has one."""
    if any("refused" in cell for cell in cells):
        raise ValueError(f"{REFERENCE} is what everybody is compared with: {cells[0].get('refused')}")
    means: list[float | None] = []
    for values in zip(*(cell["values"] for cell in cells), strict=True):
        known = [value for value in values if value is not None]
        means.append(sum(known) / len(known) if known else None)
    return means


def columns(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, best first, of those that ran."""
    header = ["method", f"test ({result['items']['test']} items)", "over seeds", f"minus {REFERENCE} [{LEVEL:.0%}]"]
    header += ["no proper answer", "item-generations", "seconds"]
    ran = sorted((row for row in result["rows"] if "refused" not in row), key=lambda row: -row["test"])
    body = [
        [
            row["method"],
            f"{row['test']:.4f}",
            f"± {row['spread']:.4f}" if len(result["seeds"]) > 1 else "one seed",
            f"{row['difference']:+.4f} [{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]",
            f"{row['malformed']:.1%}",
            f"{row['item_generations']:,}",
            f"{row['seconds']:.1f}",
        ]
        for row in ran
    ]
    return header, body


def refusals(result: dict[str, Any]) -> list[str]:
    """Who could not run here, and why."""
    return [f"{row['method']} did not run: {row['refused']}" for row in result["rows"] if "refused" in row]


def text(result: dict[str, Any]) -> str:
    """The table as Markdown, and how to read it."""
    header, body = columns(result)
    table = ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *body)]
    seeds = ", ".join(map(str, result["seeds"]))
    lines = [
        "# Comparison",
        "",
        f"Utility `{result['utility']}`; searches climb on `{result['score']}`, the paper preset on the utility. "
        f"At most {result['budget']:,} item-generations each, starting scores included; seeds {seeds}.",
        "",
        *table,
        "",
        "Intervals are paired: of the test items, each item's score averaged over seeds. How much a method moves from seed to "
        "seed is the column *over seeds* (standard deviation).",
        "",
        *(f"- {line}" for line in refusals(result)),
        *(f"- {row['method']}: {'; '.join(dict.fromkeys(row['notes']))}" for row in result["rows"] if "notes" in row),
        "",
    ]
    return "\n".join(lines)
