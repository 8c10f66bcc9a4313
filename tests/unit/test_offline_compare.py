"""A comparison: one budget, the same test items, nothing computed twice."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from swarm_worker.baselines import BASELINES
from swarm_worker.gate import MIN_ITEMS, paired_bootstrap
from swarm_worker.offline import compare
from swarm_worker.offline.evidence import weigh
from swarm_worker.offline.journal import OtherRun
from swarm_worker.presets import PRESETS
from swarm_worker.search import OPTIMIZERS
from swarm_worker.utilities import Item, make
from tests.unit.toy_engine import ToyEngine
from tests.unit.toy_scene import make_scene

METHODS = ["base", "best_expert", "uniform_soup", "data_merge", "random_in_hull", "cma_es", "paper"]


def test_everybody_is_measured_on_the_same_items_at_one_budget(tmp_path: Path) -> None:
    """A row a method, with test utility, a paired interval against the best expert, item-generations and seconds; nobody
    spends more than the budget; who cannot run says why."""
    result = compare.run(make_scene(tmp_path), tmp_path / "out", METHODS, [0, 1])
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == METHODS
    assert "training" in rows.pop("data_merge")["refused"]
    assert rows["best_expert"]["difference"] == rows["best_expert"]["ci_low"] == rows["best_expert"]["ci_high"] == 0
    for row in rows.values():
        assert row["item_generations"] <= result["budget"] == 44 * 30
        assert row["ci_low"] <= row["difference"] <= row["ci_high"]
        assert row["seconds"] >= 0
    assert rows["cma_es"]["item_generations"] == rows["random_in_hull"]["item_generations"] == 1320
    assert json.loads((tmp_path / "out/compare.json").read_text()) == result


def test_each_row_is_of_its_own_adapter(tmp_path: Path) -> None:
    """What is tested is what the method found: asked again from its coefficients, it scores the same. (An adapter written
    over another one's path was once mistaken for it.)"""
    scene = make_scene(tmp_path)
    compare.run(scene, tmp_path / "out", ["best_expert", "random_in_hull", "cma_es"], [0, 1])
    values = {file.name: json.loads(file.read_text())["values"] for file in (tmp_path / "out/cells").glob("[rc]*.json")}
    assert len(values) == 4
    assert len({tuple(scores) for scores in values.values()}) == 4


def test_a_second_call_computes_only_what_is_missing(tmp_path: Path) -> None:
    """By method and seed; a comparison may grow, and an engine that would die is not asked for what is known."""
    compare.run(make_scene(tmp_path), tmp_path / "out", ["best_expert", "cma_es"], [0])
    kept = (tmp_path / "out/cells/cma_es.0.json").read_bytes()
    compare.run(make_scene(tmp_path, ToyEngine(0.2, dies_after=0)), tmp_path / "out", ["best_expert", "cma_es"], [0])
    grown = compare.run(make_scene(tmp_path), tmp_path / "out", ["best_expert", "cma_es"], [0, 1])
    assert (tmp_path / "out/cells/cma_es.0.json").read_bytes() == kept
    assert grown["seeds"] == [0, 1]


def test_what_is_cached_costs_as_much_as_what_is_computed(tmp_path: Path) -> None:
    """A cell that is lost is computed again from the cache alone, and its bill is the same."""
    first = compare.run(make_scene(tmp_path), tmp_path / "out", ["best_expert", "cma_es"], [0])
    cached = (tmp_path / "out/cache.jsonl").read_bytes()
    (tmp_path / "out/cells/cma_es.0.json").unlink()
    again = compare.run(make_scene(tmp_path), tmp_path / "out", ["best_expert", "cma_es"], [0])
    assert (tmp_path / "out/cache.jsonl").read_bytes() == cached
    for before, after in zip(first["rows"], again["rows"], strict=True):
        assert (before["item_generations"], before["test"]) == (after["item_generations"], after["test"])


def test_the_paper_climbs_on_the_utility_in_its_own_space(tmp_path: Path) -> None:
    """Whatever the config's score, space, optimiser and racing are; shoal keeps the config's score."""
    scene = make_scene(tmp_path, score="perplexity", optimizer="random_search", racing=True, hull={"space": "delta"})
    paper, shoal = scene.under("paper"), scene.under("shoal")
    assert (paper.config.space, paper.score.name, paper.config.racing) == ("factors", "exact_match", None)
    assert (paper.optimizer().name, paper.optimizer().options.patience) == ("model_swarms", 10)
    chosen = PRESETS["shoal"]
    assert (shoal.config.space, shoal.score.name) == (chosen.space, "perplexity")
    assert shoal.optimizer().name == chosen.optimizer


def test_a_comparison_on_other_training_data_is_another_one(tmp_path: Path) -> None:
    """A cell of a baseline that trained on other data is never taken for this one's."""
    compare.run(scene := make_scene(tmp_path), tmp_path / "out", ["best_expert"], [0])
    trained = dataclasses.replace(scene.items, training=(Item(prompt="more", good="yes"),))
    with pytest.raises(OtherRun, match=r"items\.training changed since"):
        compare.run(dataclasses.replace(scene, items=trained), tmp_path / "out", ["best_expert"], [0])


def test_nothing_of_a_method_stays_but_its_cell(tmp_path: Path) -> None:
    """Of one that was refused, too."""
    compare.run(make_scene(tmp_path), tmp_path / "out", ["best_expert", "data_merge"], [0])
    assert not (tmp_path / "out/scratch").exists()
    assert [file.name for file in (tmp_path / "out/cells").iterdir()] == ["best_expert.0.json"]


def test_a_budget_below_the_first_generation_says_what_is_needed(tmp_path: Path) -> None:
    """The paper begins with 20 particles: its row names the evaluations, and shoal's is there."""
    scene = make_scene(tmp_path, budget={"evaluations": 19})
    rows = compare.run(scene, tmp_path / "out", ["best_expert", "shoal", "paper"], [0])["rows"]
    told = r"budget: model_swarms begins with (\d+) positions, so evaluations must be \1 or more .*, not 19"
    needed = re.fullmatch(told, rows[2]["refused"])
    assert needed is not None
    assert "refused" not in rows[1]
    enough = make_scene(tmp_path, budget={"evaluations": int(needed[1])})
    assert "refused" not in compare.run(enough, tmp_path / "enough", ["best_expert", "paper"], [0])["rows"][1]


def test_methods_are_chosen_by_name() -> None:
    """In the table's order, the best expert always among them; an unknown one is refused with those there are."""
    assert compare.chosen("shoal, cma_es") == ["best_expert", "cma_es", "shoal"]
    assert set(compare.chosen("all")) == {"base", "paper", "shoal", *BASELINES, *OPTIMIZERS}
    with pytest.raises(ValueError, match="there is no 'pso'; there are all, base"):
        compare.chosen("pso")


def test_a_comparison_needs_a_budget_and_test_items(tmp_path: Path) -> None:
    """Each refusal names the field."""
    with pytest.raises(ValueError, match="budget: a comparison needs one"):
        compare.run(make_scene(tmp_path, budget=None), tmp_path / "out", ["best_expert"], [0])


def test_evidence_speaks_of_the_items_that_both_were_scored_on() -> None:
    """Unjudged items are left out in pairs; enough items and an interval above 0 make it better."""
    items = [Item(prompt=str(i), good="yes") for i in range(MIN_ITEMS + 2)]
    before: list[float | None] = [0.0, None, *[0.0] * MIN_ITEMS]
    after: list[float | None] = [None, 1.0, *[1.0, 0.5] * (MIN_ITEMS // 2)]
    evidence = weigh(make("exact_match"), items, before, after, seed=3)
    assert (evidence.n, evidence.before, evidence.after) == (MIN_ITEMS, 0.0, 0.75)
    assert evidence.better
    assert evidence.gain == paired_bootstrap([0.0] * MIN_ITEMS, [1.0, 0.5] * (MIN_ITEMS // 2), 3)
    assert not weigh(make("exact_match"), items, [*before[:-1], None], after, seed=3).better
    with pytest.raises(ValueError, match="no item could be judged for both"):
        weigh(make("exact_match"), items[:2], before[:2], after[:2], seed=3)


def test_evidence_of_several_tasks_is_of_their_harmonic_mean() -> None:
    """A gain on one task that costs the other all is no gain."""
    items = [Item(prompt=f"{task} {i}", good="yes", task=task) for task in "ab" for i in range(20)]
    utility = make("multi", tasks={"a": "exact_match", "b": "exact_match"})
    before, after = [0.5] * 40, [1.0] * 20 + [0.1] * 20
    evidence = weigh(utility, items, before, after, seed=0)
    assert evidence.after == pytest.approx(2 / 11)
    assert evidence.gain.high < 0
    assert sum(after) > sum(before)
