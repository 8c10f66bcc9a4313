"""Controls with gradients: LoRA fine-tuning on the search items themselves, and the data merge of the paper.

An item's pass through a training step costs three item-generations (forward and backward) and comes out of the same
budget as everybody's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.grow import ITEM_GENERATIONS_A_STEP
from swarm_worker.baselines.contender import Single
from swarm_worker.baselines.setting import Found, Setting
from swarm_worker.fine_tuning import fine_tune
from swarm_worker.scoring.engine import BASE, AdapterFolder, Scored
from swarm_worker.search.optimizer import UTILITY_DECIMALS
from swarm_worker.utilities import Item, Utility
from swarm_worker.utilities.right_answer import with_right_answer

BATCH = 8
RANK = 8  # of a fresh adapter, or ``max_rank`` where that is less
HELD_OUT = 0.2  # of the search items, to choose rate and epochs on
EPOCHS = (1, 3, 10, 30)
RATES = (3e-4, 1e-4, 1e-3)
FRESH_RATES = (1e-3, 3e-4, 3e-3)


@dataclass(frozen=True)
class Plan:
    """Which trainings are tried, and what all of it costs in item-generations."""

    rates: tuple[float, ...]
    epochs: tuple[int, ...]
    cost: int


def fine_tuning(setting: Setting) -> Found:
    """LoRA fine-tuning on the search items from the best expert; choosing that costs an evaluation an expert."""
    best, _ = setting.ranking()[0]
    start = AdapterFolder(setting.folders[best])
    return _fine_tuned(setting, start, RATES, setting.n_experts, f"from {setting.names[best]}")


def fine_tuning_base(setting: Setting) -> Found:
    """LoRA fine-tuning of a fresh adapter on the search items."""
    return _fine_tuned(setting, BASE, FRESH_RATES, 0, "from the base")


def data_merge(setting: Setting) -> Found:
    """One fresh LoRA trained on all the experts' data. The rate is chosen on the search items; epochs are as many as the
    budget pays for, three at most. Raises ``ValueError`` where no training data is given."""
    if not setting.training:
        raise ValueError("data_merge needs the experts' training data (training), and none is given")
    a_rate = setting.item_generations // len(FRESH_RATES) - len(setting.items)
    passes = min(a_rate // ITEM_GENERATIONS_A_STEP, 3 * len(setting.training))
    if passes < BATCH:
        raise ValueError(f"evaluations must pay for a training step of {BATCH} items, {setting.evaluations} do not")
    # Training data say themselves what was trained on; only a choice needs somebody who asks it.
    utility = setting.scorer.utility if any(item.choices is not None for item in setting.training) else None
    trained = [
        _train(setting, None, setting.training, passes // BATCH, rate, f"data_merge-{rate:g}", utility)
        for rate in FRESH_RATES
    ]
    utilities = setting.utilities(trained)
    best = max(range(len(trained)), key=lambda i: utilities[i])
    spent = len(trained) * (passes // BATCH * BATCH * ITEM_GENERATIONS_A_STEP + len(setting.items))
    note = f"{passes // BATCH} steps on {len(setting.training)} items of training data, rate {FRESH_RATES[best]:g}"
    return Found(Single(trained[best]), spent, f"{note}, {utilities[best]:.4f} on the search items")


def _fine_tuned(setting: Setting, start: Scored, rates: tuple[float, ...], spent: int, note: str) -> Found:
    """Rate and epochs are chosen on a held-out part of the items, then the training is repeated on all of them. Where
    nothing is better than the start there, the start it is."""
    usable, reason = with_right_answer(setting.scorer.utility, setting.items)
    if len(usable) < 5:
        refusal = f"fine-tuning needs 5 search items with a good answer or more, not {len(usable)}"
        raise ValueError(f"{refusal}: {reason}" if reason else refusal)
    shuffled = random.Random(f"held out/{setting.seed}").sample(usable, len(usable))
    held_out = sorted(shuffled[: max(1, round(HELD_OUT * len(usable)))])
    kept = [setting.items[i] for i in usable if i not in held_out]
    plan = _plan(
        setting.item_generations - spent * len(setting.items), len(kept), len(usable), len(setting.items), rates
    )
    utility, chosen = _utility_on(setting, start, held_out), (0, rates[0])
    for rate in plan.rates:
        for epochs in plan.epochs:
            name = f"fine_tuning-{epochs}-{rate:g}"
            trained = _train(setting, start, kept, epochs * _steps(len(kept)), rate, name, setting.scorer.utility)
            score = _utility_on(setting, trained, held_out)
            if score > utility:
                utility, chosen = score, (epochs, rate)
    epochs, rate = chosen
    found, cost = start, plan.cost - _passes(max(plan.epochs) - epochs, len(usable))
    if epochs:
        items = [setting.items[i] for i in usable]
        found = _train(setting, start, items, epochs * _steps(len(usable)), rate, "fine_tuning", setting.scorer.utility)
    note = f"{note}: {epochs} epochs of {len(usable)} items, rate {rate:g}, {utility:.4f} on {len(held_out)} held out"
    return Found(Single(found), spent * len(setting.items) + cost, note)


def _plan(budget: int, kept: int, usable: int, scored: int, rates: tuple[float, ...]) -> Plan:
    """The widest choice that the budget pays for, at least one epoch with one rate: more epochs before more rates. Every
    training tried is scored on all ``scored`` items, though only the held-out ones decide, and so is the start."""
    for longest in range(len(EPOCHS), 0, -1):
        for tried in range(len(rates), 0, -1):
            epochs = EPOCHS[:longest]
            trials = tried * sum(_passes(n, kept) + scored for n in epochs)
            cost = scored + trials + _passes(max(epochs), usable)
            if cost <= budget:
                return Plan(rates[:tried], epochs, cost)
    raise ValueError(f"evaluations must pay for fine-tuning: one epoch and its trial cost {cost} item-generations")


def _steps(items: int) -> int:
    return math.ceil(items / BATCH)


def _passes(epochs: int, items: int) -> int:
    """Item-generations of so many epochs."""
    return ITEM_GENERATIONS_A_STEP * epochs * _steps(items) * BATCH


def _utility_on(setting: Setting, scored: Scored, held_out: Sequence[int]) -> float:
    values = setting.scorer.scores([scored])[0].values
    items = [setting.items[i] for i in held_out]
    return round(setting.scorer.utility.combine(items, [values[i] for i in held_out]), UTILITY_DECIMALS)


def _train(
    setting: Setting,
    start: Scored | None,
    items: Sequence[Item],
    steps: int,
    rate: float,
    name: str,
    utility: Utility | None,
) -> AdapterFolder:
    folder = setting.folder(name)
    begun: Path | None = start.folder if isinstance(start, AdapterFolder) else None
    fine_tune(
        setting.base,
        begun,
        items,
        steps=steps,
        rate=rate,
        batch=BATCH,
        seed=setting.seed,
        folder=folder,
        rank=RANK if setting.max_rank is None else min(RANK, setting.max_rank),
        utility=utility,
    )
    return AdapterFolder(folder)
