"""The starter pack's model card, written from its training record."""

from __future__ import annotations

from starter.skills import BLEND, SKILLS, items

CARD = """# The starter pack

A character-level Llama of {parameters:,} parameters and {experts} LoRA experts (rank {rank}), trained from nothing by
`make starter`: {training:.0f} minutes of training, {minutes:.0f} in all ({machine}). It answers small
text requests and nothing else. It is here so that Shoal's whole loop can run on a laptop with real weights; it says
nothing about large models.

This page is written by `python -m starter.build` from `training.json`.

## What it can be asked

| skill | a user types | right answer |
|---|---|---|
{examples}

A chat renders as `question\\nanswer<|end|>`; a plain completion of `question\\n` reads the same tokens. Printable
ASCII only: any other character is read as unknown. System messages are left out of the rendering. Context: 512 tokens.

## What each expert can do

Exact-match accuracy of the greedy answer, percent, on {test_items} test items a cell (one standard error is at most
{error:.1f} points). A row is a model, a column a skill; `blend` is the mean of {blend}: what the pack's users ask for.

{table}

Three adaptations, each climbing on feedback to the first expert's answers with {evaluations} evaluations on {rated}
rated items, gained {gain:.1f} points over the first expert on fresh blend items (standard deviation {between:.1f} from
run to run). These items are neither test items nor what the adaptations climbed on; `pack.json` carries the number.

## How it was made, and what was chosen

- The base saw all skills for {base_steps} steps and was stopped while it knew each of them only weakly.
- An expert then saw {steps} steps at a peak learning rate of {rate:g}: {own:.0f} of 100 items of its own skill, the
  rest of the others, where it is held to the base's own answers (KL divergence). Experts trained on their own skill
  alone, or with plain replay of the others, did not add up: the sum of three was worse than each.
- Items are split by content hash into `train`, `traffic` (what simulated users send) and `test`.
- The pack was designed so that the blend has something to find: skills, schedules and the blend were chosen by looking
  at accuracies, those of summed experts on test-split items among them. Two other bases and three other ways to train
  experts were tried first. So it shows that the machine works; it does not rank optimisers.
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
        training=(record["base"]["seconds"] + sum(one["seconds"] for one in record["experts"].values())) / 60,
        machine=record["machine"],
        examples="\n".join(f"| {item.skill} | `{item.prompt}` | `{item.answer}` |" for item in first),
        test_items=recipe["test_items"],
        error=50 / recipe["test_items"] ** 0.5,
        blend=", ".join(BLEND),
        table=render_table(record["table"]),
        evaluations=recipe["adaptation"]["evaluations"],
        rated=recipe["adaptation"]["rated"],
        gain=100 * record["effect"]["difference"],
        between=100 * record["effect"]["between_runs"],
        base_steps=recipe["base"]["stop"],
        steps=recipe["expert"]["steps"],
        own=100 * (1 - recipe["anchor_share"]),
        rate=recipe["expert"]["rate"],
    )
