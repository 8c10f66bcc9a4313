"""Correctness emergence: items that every initial expert fails, and the searched swarm solves (arXiv:2410.11163).

The paper counts an item as soon as one of up to 20 final particles solves it, and reports 36 to 54%. A union over many
answerers grows by itself, so that count means something beside nulls only. Two are drawn and one control is measured:

- *guessers*: each particle is replaced by an answerer as often right as it is (its own test accuracy), but independently of
  the item and of the others. The expectation is ``1 - prod(1 - a_k)``. A count below it is no evidence of anything: it
  is what the count shows for answerers that know nothing of the items.
- *further experts*: as many more answerers exchangeable with the initial experts, of whom no search knows. The share of
  experts that solve an item is Beta-distributed over items; the fit is by maximum likelihood to how many experts solve each
  (beta-binomial, Skellam 1948), drawn anew from resampled items each time. An item that n experts fail is solved by
  one of K more with ``1 - B(a, b + n + K) / B(a, b + n)``: the question of unseen species (Efron & Thisted 1976).
  A count above it says that the searched positions solve what more of the same would not.
- *unsearched mixes* (measured): as many random positions of the same hull (``random_search``, sum 1), chosen by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm_worker import search
from swarm_worker.analyses import plots
from swarm_worker.analyses.finding import Finding, central, difference
from swarm_worker.analyses.subject import Subject
from swarm_worker.search import Coefficients, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWS = 2_000
OBSERVED, GUESSERS, FURTHER, UNSEARCHED = "observed", "guessers", "further experts", "unsearched mixes"


def emergence(subject: Subject) -> Finding:
    """Raises ``ValueError`` where the test utility is not right or wrong, or where no test item is failed by all experts."""
    experts = solved(subject.tested(subject.experts))
    hard = np.logical_not(experts.any(axis=0))
    if not hard.any():
        raise ValueError("no test item is failed by every expert: nothing can emerge")
    runs = [_run(subject, seed, experts, hard) for seed in subject.seeds]
    sizes = sorted({run["particles"] for run in runs})
    any_of = f"any of {'/'.join(map(str, sizes))} final particles"
    rows = [
        {"who": who, "what": what, **dict(zip(("share", "low", "high"), _over_seeds(runs, key, what), strict=True))}
        for who, key in ((any_of, "any"), ("the chosen best", "best"))
        for what in (OBSERVED, GUESSERS, FURTHER, UNSEARCHED)
    ]
    figures = {
        "test_items": len(hard),
        "failed_by_all_experts": int(hard.sum()),
        "expert_accuracy": dict(zip(subject.names, experts.mean(axis=1).tolist(), strict=True)),
        "more_than_unsearched": {key: _gain(runs, key) for key in ("any", "best")},
        "seeds": [
            {"seed": seed, "best_accuracy": run["accuracy"]} for seed, run in zip(subject.seeds, runs, strict=True)
        ],
    }
    return Finding("emergence", rows, figures, _notes(figures))


def solved(scores: np.ndarray) -> np.ndarray:
    """Scores as right or wrong. Raises ``ValueError`` for any that is neither 1 nor 0."""
    if not np.isin(scores, (0.0, 1.0)).all():
        raise ValueError("the test utility must say right (1) or wrong (0) of every item: use exact_match or the like")
    return scores == 1.0


def guessers(accuracies: Sequence[float], items: int, rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """(draws,) shares of ``items`` that at least one of independent answerers solves, each right with its own accuracy."""
    anyone = 1.0 - np.prod(1.0 - np.asarray(accuracies, dtype=float))
    return rng.binomial(items, anyone, draws) / items


def further_experts(
    solvers: np.ndarray, experts: int, more: int, rng: np.random.Generator, draws: int = DRAWS
) -> np.ndarray:
    """(draws,) shares, of the items that none of ``experts`` solves, that at least one of ``more`` like them solves.

    ``solvers``: (items,) how many experts solve each item. Both the fit's uncertainty (items are resampled) and the
    chance of the answers themselves are in the spread of the draws.
    """
    counts = np.bincount(solvers, minlength=experts + 1)
    alpha, beta, log_likelihood = _beta_binomials(experts)
    resampled = rng.multinomial(len(solvers), counts / counts.sum(), size=draws)
    fit = (resampled @ log_likelihood.T).argmax(axis=1)
    chance = rng.beta(alpha[fit][:, None], beta[fit][:, None] + experts, size=(draws, counts[0]))
    return (rng.random(chance.shape) < 1.0 - (1.0 - chance) ** more).mean(axis=1)


def _beta_binomials(experts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid of (mean, correlation) as Beta(a, b), and the log-likelihood of s = 0..n solvers under each, but for the
    binomial coefficient, which is the same for all: (G,), (G,), (G, n + 1)."""
    mean, correlation = np.meshgrid(np.linspace(0.005, 0.995, 100), np.geomspace(0.005, 0.995, 50))
    total = (1.0 / correlation - 1.0).ravel()
    alpha, beta = mean.ravel() * total, (1.0 - mean.ravel()) * total
    rising = np.arange(experts)
    up, down, whole = (
        np.concatenate([np.zeros((len(total), 1)), np.log(start[:, None] + rising).cumsum(axis=1)], axis=1)
        for start in (alpha, beta, total)
    )
    return alpha, beta, up + down[:, ::-1] - whole[:, -1:]


def _run(subject: Subject, seed: int, experts: np.ndarray, hard: np.ndarray) -> dict[str, Any]:
    """One search: by who is asked and by null, (items,) hits of what was measured, (draws,) shares of what was drawn."""
    climbed = subject.climb(seed)
    final = solved(subject.tested(climbed.final))
    best = solved(subject.tested([climbed.best]))
    unsearched = solved(subject.tested(_unsearched(len(subject.names), len(final), seed)))
    rng, solvers = np.random.default_rng(seed), experts.sum(axis=0)
    return {
        "particles": len(final),
        "accuracy": float(best.mean()),
        "any": {
            OBSERVED: final[:, hard].any(axis=0),
            GUESSERS: guessers(list(final.mean(axis=1)), int(hard.sum()), rng),
            FURTHER: further_experts(solvers, len(experts), len(final), rng),
            UNSEARCHED: unsearched[:, hard].any(axis=0),
        },
        "best": {
            OBSERVED: best[0, hard],
            GUESSERS: guessers([float(best.mean())], int(hard.sum()), rng),
            FURTHER: further_experts(solvers, len(experts), 1, rng),
            UNSEARCHED: unsearched[:, hard].mean(axis=0),
        },
    }


def _unsearched(n_experts: int, positions: int, seed: int) -> list[Coefficients]:
    draws = {"population": positions, "max_generations": 1, "sum_to_one": True}
    control = search.make("random_search", n_experts=n_experts, seed=seed, **draws)
    control.tell([Outcome.of(move, 0.0) for move in control.ask()])  # it never looks at a score
    return [move.coefficients for move in control.ask()]


def _over_seeds(runs: list[dict[str, Any]], key: str, what: str) -> tuple[float, float, float]:
    """The mean over seeds; 95%: of seeds and items resampled for what was measured, of the draws for a null."""
    found = np.stack([run[key][what] for run in runs]).astype(float)
    if what in (GUESSERS, FURTHER):
        return central(found.mean(axis=0))
    interval = difference(np.zeros_like(found), found)
    return interval.mean, interval.low, interval.high


def _gain(runs: list[dict[str, Any]], key: str) -> dict[str, float]:
    before, after = (np.stack([run[key][what] for run in runs]).astype(float) for what in (UNSEARCHED, OBSERVED))
    interval = difference(before, after)
    return {"difference": interval.mean, "low": interval.low, "high": interval.high}


def _notes(figures: dict[str, Any]) -> list[str]:
    return [
        "Nulls: guessers are as often right as each particle but blind to the item; further experts are as many more of the "
        "initial experts' kind, which no search knows; unsearched mixes are measured, random positions of the same hull.",
        f"Shares are of the {figures['failed_by_all_experts']} of {figures['test_items']} test items that all experts fail.",
    ]


def draw(finding: Finding, axes: Axes) -> None:
    rows = [
        {**row, "label": f"{row['who']}: {row['what']}", "color": plots.BLUE if row["what"] == OBSERVED else plots.GREY}
        for row in finding.rows
    ]
    plots.intervals(axes, rows, "label", "share")
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("share of items that all experts fail")
    axes.set_title("Correctness emergence beside its nulls")
