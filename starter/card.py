"""The starter pack's model card, written from its training record."""

from __future__ import annotations

from starter.skills import BLEND, SKILLS, items

CARD = """# The starter pack

A character-level Llama of {parameters:,} parameters and {experts} LoRA experts (rank {rank}), trained from nothing by
`make starter` in {minutes:.0f} minutes on {machine}. It answers small text requests and nothing else; it is here so that Shoal's whole
loop can run on a laptop with real weights. It says nothing about large models.

This page is written by `python -m starter.build` from `training.json`.

## What it can be asked

| skill | a user types | right answer |
|---|---|---|
{examples}

A chat renders as `question\\nanswer<|end|>`; a plain completion of `question\\n` reads the same tokens. Printable ASCII only: any other
character is read as unknown. System messages are left out of the rendering. Context: 512 tokens.

## What each expert can do

Exact-match accuracy of the greedy answer, percent, on {test_items} test items a cell (one standard error is at most {error:.1f} points). A
row is a model, a column a skill; `blend` is the mean of {blend}, what the pack's users ask for.

{table}

## How it was made, and what was chosen

- The base saw all skills for {base_steps} steps and was stopped while it knew each of them only weakly.
- An expert then saw {steps} steps at a peak learning rate of {rate:g}: {own:.0f} of 100 items of its own skill, the rest
  of the others, where it is held to the base's own answers (KL divergence). Experts trained on their own skill alone, or with the others
  as plain replay, did not add up: the sum of three was worse than each.
- Items are split by content hash into `train`, `traffic` (what simulated users send: a search sees only these) and `test`.
- The pack was designed so that the blend has something to find: skills, schedules and the blend were chosen by looking at what searches reach
  on it. Compare optimisers here to see that the machine works, not to rank optimisers.
- Weights are stored in bf16 and meant to be run in float32.
"""


def render_table(table: dict[str, dict[str, float]]) -> str:
    """The expert x skill table as Markdown, each expert's own skill in bold."""
    names = list(SKILLS)
    lines = ["| | " + " | ".join([*names, "blend"]) + " |", "|---" * (len(names) + 2) + "|"]
    for model, row in table.items():
        cells = [f"**{row[name]:.1f}**" if name == model else f"{row[name]:.1f}" for name in names]
        blend = sum(row[name] for name in BLEND) / len(BLEND)
        lines.append(f"| {model} | " + " | ".join([*cells, f"{blend:.1f}"]) + " |")
    return "\n".join(lines)


def render_card(record: dict, manifest: dict) -> str:
    """The whole README of a pack, from its training record and its manifest."""
    recipe = record["recipe"]
    first = [items(skill, "test", 1, 0)[0] for skill in SKILLS]
    return CARD.format(
        parameters=record["base"]["parameters"],
        experts=len(manifest["experts"]),
        rank=recipe["rank"],
        minutes=record["seconds"] / 60,
        machine=record["machine"],
        examples="\n".join(f"| {item.skill} | `{item.prompt}` | `{item.answer}` |" for item in first),
        test_items=recipe["test_items"],
        error=50 / recipe["test_items"] ** 0.5,
        blend=", ".join(BLEND),
        table=render_table(record["table"]),
        base_steps=recipe["base"]["stop"],
        steps=recipe["expert"]["steps"],
        own=100 * (1 - recipe["anchor_share"]),
        rate=recipe["expert"]["rate"],
    )
