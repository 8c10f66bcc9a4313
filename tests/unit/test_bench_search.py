"""The arithmetic of the search bench's bars, on cells that are made up: what is claimed follows from what was measured."""

from __future__ import annotations

from typing import Any

from bench.search import bars, budget_ratio, table

RIGHT, WRONG = 1.0, 0.0


def scores(right: int, of: int = 100) -> list[float]:
    return [RIGHT] * right + [WRONG] * (of - right)


def cell(seed: int, paper: int, way: list[tuple[int, float]], best_expert: int = 40, cbtm: int = 45) -> dict[str, Any]:
    """A cell with these right answers of 100; ``way``: (item-generations, test) of what shoal had selected."""

    def result(right: int, spent: int) -> dict[str, Any]:
        return {"test": scores(right), "item_generations": spent, "seconds": 1.0}

    steps = [{"item_generations": spent, "seconds": 1.0, "test": test} for spent, test in way]
    methods = {
        "shoal": result(60, 900) | {"way": steps},
        "paper": result(paper, 1000),
        "best_expert": result(best_expert, 90),
        "random_in_hull": result(50, 1000),
        "cbtm": result(cbtm, 90),
    }
    return {"blend": "blend", "seed": seed, "methods": methods}


def test_the_budget_ratio_is_over_the_cells_where_paper_beats_its_best_expert() -> None:
    """Two of three cells count; shoal's own selected points reach paper's mean there after 300 of its 1,000."""
    cells = [
        cell(0, paper=50, way=[(100, 0.40), (300, 0.55), (600, 0.30)]),
        cell(1, paper=50, way=[(200, 0.46), (500, 0.60)]),
        cell(2, paper=40, way=[(100, 0.10)]),
    ]
    assert budget_ratio(cells) == {
        "budget_ratio_to_paper": 0.3,
        "cells_paper_beats_its_best_expert": 2,
    }


def test_the_budget_ratio_is_null_where_it_is_not_defined() -> None:
    """Paper beats its best expert nowhere, or shoal never has what paper has: null, and null fails."""
    assert budget_ratio([cell(0, paper=40, way=[(100, 0.9)])])["budget_ratio_to_paper"] is None
    never = [cell(0, paper=50, way=[(100, 0.1)])]
    assert budget_ratio(never)["budget_ratio_to_paper"] is None
    rows = table(never, ("shoal", "paper", "best_expert", "random_in_hull", "cbtm"))
    assert not bars(never, rows, {"wall_speedup_to_paper": 20.0})["met"]


def test_a_baseline_that_is_better_fails_the_bars() -> None:
    """All bars met, then one baseline better than shoal beyond its interval: not met, and it is named."""
    names = ("shoal", "paper", "best_expert", "random_in_hull", "cbtm")

    def verdict(cbtm: int, speedup: float | None = 20.0) -> dict[str, Any]:
        cells = [cell(seed, paper=50, way=[(300, 0.55)], cbtm=cbtm) for seed in range(5)]
        return bars(cells, table(cells, names), {"wall_speedup_to_paper": speedup})

    assert verdict(cbtm=45)["met"]
    assert verdict(cbtm=45)["better_than_shoal"] == []
    assert not verdict(cbtm=90)["met"]
    assert verdict(cbtm=90)["better_than_shoal"] == ["cbtm"]
    assert not verdict(cbtm=45, speedup=9.0)["met"]
    assert not verdict(cbtm=45, speedup=None)["met"]
