"""A search without a server: what it writes, and that an interruption changes nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from registry.artifacts import digest_of_folder
from swarm_worker.hull import ExpertStack
from swarm_worker.offline import report
from swarm_worker.offline import search as offline
from swarm_worker.offline.base import base_digest
from swarm_worker.offline.config import DataConfig, RunConfig
from swarm_worker.offline.items import draw
from swarm_worker.offline.journal import DiskCache, Journal, OtherRun, differences, write_json
from swarm_worker.offline.scene import Scene
from swarm_worker.offline.search import best_expert, finalists
from swarm_worker.splits import LeakedItems
from swarm_worker.utilities import Item
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import make_expert
from tests.unit.toy_engine import ToyEngine
from tests.unit.toy_scene import make_scene


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """A result without its times."""
    return {key: value for key, value in result.items() if key != "seconds"}


@pytest.mark.parametrize("changes", [{}, {"racing": True}, {"preset": "paper", "finalists": 3}])
def test_a_search_that_was_interrupted_ends_as_one_that_was_not(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Ctrl-C in the middle of a generation, however often: the next call goes on after the last whole one, and run.json is
    the same but for its times, as are the adapter's bytes and the bill."""
    undisturbed = offline.run(make_scene(tmp_path, **changes), tmp_path / "whole")
    calls, dies_after = 0, 2
    while True:
        calls += 1
        try:
            engine = ToyEngine(noise=0.2, dies_after=dies_after)
            again = offline.run(make_scene(tmp_path, engine, **changes), tmp_path / "broken")
            break
        except KeyboardInterrupt:
            # Confirming and testing are not saved in between: at the end somebody must let it through.
            dies_after += 1
    assert calls > 1
    assert lasting(again) == lasting(undisturbed)
    assert digest_of_folder(tmp_path / "broken/adapter") == undisturbed["adapter"]["digest"]


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    """The same call gives the same answer, and asks no model."""
    result = offline.run(make_scene(tmp_path), tmp_path / "out")
    assert offline.run(make_scene(tmp_path, ToyEngine(dies_after=0)), tmp_path / "out") == result


def test_another_run_does_not_go_on_from_this_one(tmp_path: Path) -> None:
    """Another seed, another expert's bytes, other items: the folder says what changed and what to do."""
    offline.run(make_scene(tmp_path), tmp_path / "out")
    other = make_scene(tmp_path, seed=9)
    other = dataclasses.replace(other, digests=("sha256:other", *other.digests[1:]))
    with pytest.raises(OtherRun, match=r"experts\.one, seed changed since\. Give another --out, or delete"):
        offline.run(other, tmp_path / "out")


def test_another_base_at_the_same_path_is_another_run(tmp_path: Path) -> None:
    """Any file that a model is loaded from counts, and only those; a copy elsewhere is the same base; an id is itself."""
    for name in ("base", "copy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"tensors")
    first = base_digest(str(tmp_path / "base"))
    (tmp_path / "base/README.md").write_text("a base")
    assert first == base_digest(str(tmp_path / "base")) == base_digest(str(tmp_path / "copy"))
    scene = dataclasses.replace(make_scene(tmp_path), base=first)
    offline.run(scene, tmp_path / "out")
    (tmp_path / "base/model.safetensors").write_bytes(b"TENSORS")
    other = dataclasses.replace(scene, base=base_digest(str(tmp_path / "base")))
    with pytest.raises(OtherRun, match="base changed since"):
        offline.run(other, tmp_path / "out")
    cache: dict[str, Any] = {}
    position = tuple(np.eye(3)[0].tolist())
    for one in (scene, other, scene):
        one.scorer(cache)(position)
    assert len(cache) == 2
    assert base_digest("google/gemma-3-270m") == "google/gemma-3-270m"


def test_what_is_delivered_is_what_was_confirmed(tmp_path: Path) -> None:
    """adapter/ is the found position, cut to max_rank, with its digest in run.json; and nothing unfinished is left."""
    result = offline.run(make_scene(tmp_path), tmp_path / "out")
    stack = ExpertStack.load(list(make_scene(tmp_path).folders))
    cut = stack.write(tuple(result["coefficients"]), tmp_path / "expected", space="delta", max_rank=2)
    assert result["adapter"]["digest"] == digest_of_folder(tmp_path / "expected")
    assert result["adapter"]["digest"] == digest_of_folder(tmp_path / "out/adapter")
    assert (result["adapter"]["rank"], result["adapter"]["retained_energy"]) == (cut.rank, cut.retained_energy)
    assert result["adapter"]["retained_energy"] < 1
    with safe_open(tmp_path / "out/adapter/adapter_model.safetensors", "pt") as tensors:
        assert all(min(tensors.get_tensor(name).shape) <= 2 for name in tensors.keys())  # noqa: SIM118 - not a dict
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"adapter", "run.json", "report.md", "utility.png", "coefficients.png", "state.json", "cache.jsonl"}
    assert json.loads((tmp_path / "out/run.json").read_text()) == result


def test_the_budget_is_kept_and_counted(tmp_path: Path) -> None:
    """Item-generations, starting scores included, never above the budget; the bill is positions times items."""
    searched = offline.run(make_scene(tmp_path), tmp_path / "out")["search"]
    assert searched["item_generations"] == searched["evaluations"] * 30 <= 44 * 30
    assert searched["evaluations"] == sum(len(one["positions"]) for one in searched["generations"])
    assert searched["stopped"] == "1320 of 1320 item-generations are spent"


def test_racing_is_billed_for_what_it_spent(tmp_path: Path) -> None:
    """Positions that stopped early cost less, so the same budget brings more generations."""
    plain = offline.run(make_scene(tmp_path), tmp_path / "plain")["search"]
    raced = offline.run(make_scene(tmp_path, racing=True), tmp_path / "raced")["search"]
    assert raced["positions_stopped_early"] > 0
    assert raced["item_generations"] <= 1320
    assert raced["evaluations"] > plain["evaluations"]


def test_several_finalists_are_chosen_on_one_half_and_decided_on_the_other(tmp_path: Path) -> None:
    """The gate never sees the items that chose among them."""
    result = offline.run(make_scene(tmp_path, finalists=3), tmp_path / "out")
    assert result["choice"]["items"] == 20
    assert len(result["choice"]["utilities"]) == 3
    assert result["choice"]["utilities"][result["choice"]["chosen"]] == max(result["choice"]["utilities"])
    assert result["items"]["confirm"] == result["confirm"]["evidence"]["n"] == 20


def test_the_report_says_what_was_found_in_words_and_numbers(tmp_path: Path) -> None:
    """Who is compared on which items, the interval, malformed answers, and what one standard error is."""
    result = offline.run(make_scene(tmp_path, champion="two"), tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text()
    assert result["formula"] in text
    assert f"than `two` on items that the search never saw: {result['confirm']['evidence']['reason']}" in text
    assert "At 40 confirm items one standard error of the found one's score is" in text
    assert "no proper answer" in text
    for who in {"base", result["best_expert"], "two", "found"}:
        assert f"| {who}" in text
    assert (tmp_path / "out/utility.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out/coefficients.png").read_bytes().startswith(b"\x89PNG")


def test_too_few_confirm_items_decide_nothing(tmp_path: Path) -> None:
    """Below the gate's least number the adapter is written, and not called better."""
    scene = make_scene(tmp_path)
    few = dataclasses.replace(scene.items, confirm=scene.items.confirm[:10], test=())
    result = offline.run(dataclasses.replace(scene, items=few), tmp_path / "out")
    assert not result["passed"]
    assert "too few items to decide: 10 of at least 30" in result["confirm"]["evidence"]["reason"]
    assert result["test"] is None
    assert "There are no test items" in report.text(result)


def test_finalists_are_the_best_positions_each_once() -> None:
    """Of equals the earlier; a failed one is none."""
    generations = [
        {"positions": [[1.0], [2.0], [3.0]], "utilities": [0.5, None, 0.7]},
        {"positions": [[3.0], [4.0], [5.0]], "utilities": [0.7, 0.7, 0.1]},
    ]
    assert finalists(generations, 3) == [(3.0,), (4.0,), (1.0,)]


def test_the_best_expert_is_found_among_the_starts(tmp_path: Path) -> None:
    """With other columns and several layer groups, too; a tie goes to the first, and one that failed is passed over."""
    scene = make_scene(tmp_path, hull={"include_base": True, "layer_groups": 2})
    alone = [[float(i == column) for i in range(4)] * 2 for column in range(4)]
    generation = {"positions": [*alone, [0.25] * 8], "utilities": [None, 0.4, 0.4, 0.9, 0.8]}
    assert best_expert(scene, [generation]) == "two"


def test_the_journal_survives_a_line_that_was_cut_short(tmp_path: Path) -> None:
    """What a crash left half written is dropped, and the next line is whole again."""
    cache = DiskCache(tmp_path / "cache.jsonl")
    cache["one"] = {"utility": 0.5}
    with (tmp_path / "cache.jsonl").open("a") as end:
        end.write('["two", {"utili')
    again = DiskCache(tmp_path / "cache.jsonl")
    assert dict(again) == {"one": {"utility": 0.5}}
    again["three"] = 3
    assert dict(DiskCache(tmp_path / "cache.jsonl")) == {"one": {"utility": 0.5}, "three": 3}


def test_a_state_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """A value that cannot be written leaves the old one, and nothing else behind."""
    journal = Journal(tmp_path, {"seed": 1})
    journal.save(generation=3)
    with pytest.raises(ValueError, match="Out of range float"):
        journal.save(generation=float("nan"))
    assert json.loads((tmp_path / "state.json").read_text())["generation"] == 3
    with pytest.raises(TypeError):
        write_json(tmp_path / "state.json", {"bad": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_differences_are_named_by_their_place() -> None:
    """Dotted names, for a message."""
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == ["a.c", "d", "e"]


def test_items_are_drawn_by_task_and_never_twice(tmp_path: Path) -> None:
    """Each file gives an equal part under its task's name; a file's own test split stays apart from dev."""
    for task in "ab":
        dev = [{"question": f"{task} dev {i}", "answer": "x"} for i in range(12)]
        test = [{"question": f"{task} test {i}", "answer": "x"} for i in range(4)]
        (tmp_path / f"{task}.json").write_text(json.dumps({"dev": dev, "test": test}))
    files = {task: tmp_path / f"{task}.json" for task in "ab"}
    drawn = draw(DataConfig(files=files, search=9, confirm=6, chat=True))

    def tasks(part: tuple[Item, ...]) -> list[int]:
        return [sum(item.task == task for item in part) for task in "ab"]

    assert [tasks(part) for part in drawn.parts().values()] == [[5, 4], [3, 3], [4, 4]]
    assert all("test" in str(item.messages) for item in drawn.test)
    assert drawn == draw(DataConfig(files=files, search=9, confirm=6, chat=True))
    assert drawn.search != draw(DataConfig(files=files, search=9, confirm=6, chat=True, seed=1)).search
    pool = tmp_path / "pool.jsonl"
    pool.write_text("".join(json.dumps({"prompt": f"q {i % 10}", "good": "x"}) + "\n" for i in range(12)))
    one = draw(DataConfig(file=pool, search=4, confirm=3))
    assert [len(part) for part in one.parts().values()] == [4, 3, 3]
    with pytest.raises(LeakedItems):
        draw(DataConfig(file=pool, search=4, confirm=3, training=pool))


def test_a_file_that_asks_twice_is_refused_or_deduplicated(tmp_path: Path) -> None:
    """As knowledge_crosswords, whose dev and test share items: both refusals name what mends them, and it does."""

    def asked(name: str, n: int) -> list[dict[str, str]]:
        return [{"question": f"{name} {i}", "answer": "x"} for i in range(n)]

    file = tmp_path / "twice.json"
    file.write_text(
        json.dumps({"dev": asked("dev", 6) + asked("both", 4), "test": asked("both", 4) + asked("test", 3)})
    )
    mended = r"data\.deduplicate: true .* leaves 6 questions in dev and 7 in test"
    with pytest.raises(LeakedItems, match=rf"data: twice: 4 items are in more than one list: .*; {mended}"):
        draw(DataConfig(file=file, search=5, confirm=5))
    with pytest.raises(ValueError, match=rf"data: twice: 10 different items .* are too few .*; {mended}"):
        draw(DataConfig(file=file, search=6, confirm=5))
    drawn = draw(DataConfig(file=file, search=3, confirm=3, deduplicate=True))
    assert [len(part) for part in drawn.parts().values()] == [3, 3, 7]
    with pytest.raises(ValueError, match=r"too few .*; data\.deduplicate: true has left 6 questions in dev and 7 in"):
        draw(DataConfig(file=file, search=5, confirm=5, deduplicate=True))


def test_a_scene_is_refused_before_anything_is_loaded_where_its_experts_have_no_mix(tmp_path: Path) -> None:
    """Experts of different ranks have none in factors space: neither the config's, nor a preset's."""
    base = make_base(tmp_path / "base")
    for rank, name in enumerate(("one", "two"), start=2):
        make_expert(base, tmp_path / name, rank, r=rank)
    (tmp_path / "items.jsonl").write_text(
        "".join(json.dumps({"prompt": f"q {i}", "good": "x"}) + "\n" for i in range(9))
    )
    value: dict[str, Any] = {
        "base": str(base),
        "experts": {name: tmp_path / name for name in ("one", "two")},
        "data": {"file": tmp_path / "items.jsonl", "search": 3, "confirm": 3},
        "utility": "exact_match",
    }
    scene = Scene.of(RunConfig.model_validate(value))
    assert scene.base == base_digest(str(base))
    told = "space must be 'delta', not 'factors', for experts of ranks 2, 3"
    with pytest.raises(ValueError, match=told):
        scene.under("paper")
    with pytest.raises(ValueError, match=told):
        Scene.of(RunConfig.model_validate(value | {"hull": {"space": "factors"}, "engine": "no such engine"}))
