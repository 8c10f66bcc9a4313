"""What a search found, for people: ``report.md``; and for programs: ``run.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swarm_worker.gate import LEVEL, MIN_ITEMS
from swarm_worker.offline import plots
from swarm_worker.offline.journal import write_json, write_text

RUN = "run.json"


def read(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run; None where it is not finished."""
    file = folder / RUN
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def write(folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Plots and report first, ``run.json`` last: where it is, everything is. What ``read`` will say."""
    result: dict[str, Any] = json.loads(json.dumps(found))
    plots.utility_by_generation(result, folder / "utility.png")
    plots.coefficients(result, folder / "coefficients.png")
    write_text(folder / "report.md", text(result))
    write_json(folder / RUN, result)
    return result


def text(result: dict[str, Any]) -> str:
    """The report as Markdown."""
    searched, adapter = result["search"], result["adapter"]
    confirm = result["confirm"]["evidence"]
    lines = [
        "# What the search found",
        "",
        f"`{result['formula']}`",
        "",
        f"{'Better' if result['passed'] else 'Not shown to be better'} than `{result['rival']}`"
        f"{' (the best expert on the search items)' if result['rival'] == result['best_expert'] else ''}"
        f" on items that the search never saw: {confirm['reason']}.",
        "",
        *_table(result),
        "",
        f"The search utility ({searched['utility']:.4g}, by `{result['score']}`) is the best of {searched['evaluations']} noisy "
        "scores and flatters; the columns above are of items that it never saw.",
        *_warnings(result),
        "",
        "| | |",
        "|---|---|",
        f"| adapter | `adapter/`, rank {adapter['rank']}, {adapter['retained_energy']:.2%} of the update's squared norm kept, "
        f"`{adapter['digest']}` |",
        f"| utility | `{result['utility']}` |",
        f"| search | {searched['optimizer']}, {result['space']} space, seed {result['seed']}, {searched['evaluations']} "
        f"evaluations, {searched['item_generations']:,} item-generations in {result['seconds']['search']:.0f} s |",
        f"| stopped | {searched['stopped']} |",
        f"| items | {', '.join(f'{n} {name}' for name, n in result['items'].items())} |",
        f"| experts | {', '.join(f'{name} `{digest[:19]}`' for name, digest in result['experts'].items())} |",
        f"| versions | {', '.join(f'{name} {number}' for name, number in result['versions'].items())} |",
        "",
        "![best utility by generation](utility.png)",
        "![coefficients](coefficients.png)",
        "",
    ]
    return "\n".join(lines)


def rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: who scored what on confirm and on test items."""
    parts = {name: result[name] for name in ("confirm", "test") if result[name] is not None}
    header = ["", *(f"{name} ({result['items'][name]} items)" for name in parts), "no proper answer"]
    body = []
    for who in result["confirm"]["scores"]:
        cells = [part["scores"][who] for part in parts.values()]
        shown = [f"{cell['utility']:.4g} ± {cell['standard_error']:.2g}" for cell in cells]
        answers = sum(len(cell["values"]) for cell in cells)
        body.append([_called(who, result), *shown, f"{sum(cell['malformed'] for cell in cells) / answers:.1%}"])
    gains = [part["evidence"] for part in parts.values()]
    shown = [f"{gain['gain']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]" for gain in gains]
    body.append([f"found minus {result['rival']} [{LEVEL:.0%}]", *shown, ""])
    return header, body


def _table(result: dict[str, Any]) -> list[str]:
    header, body = rows(result)
    lines = [header, ["---"] * len(header), *body]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _called(who: str, result: dict[str, Any]) -> str:
    roles = {result["best_expert"]: " (best expert)", "found": ", as delivered"}
    return f"{who}{roles.get(who, '')}"


def _warnings(result: dict[str, Any]) -> list[str]:
    """What the numbers cannot carry."""
    told = [""]
    for name in ("confirm", "test"):
        if result[name] is not None:
            n, error = result["items"][name], result[name]["scores"]["found"]["standard_error"]
            told.append(
                f"- At {n} {name} items one standard error of the found one's score is {100 * error:.1f} points."
            )
    if result["items"]["confirm"] < MIN_ITEMS:
        told.append(f"- The gate decides on {MIN_ITEMS} items or more; these are too few.")
    unjudged = sum(
        s["unjudged"] for part in ("confirm", "test") if result[part] for s in result[part]["scores"].values()
    )
    if unjudged:
        told.append(f"- {unjudged} answers could not be judged; they count for nobody.")
    if result["test"] is None:
        told.append("- There are no test items: the gate's own items are not a fresh measurement of what passed it.")
    return told
