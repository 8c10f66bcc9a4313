"""What every baseline guarantees: repeatable, within the budget, honest about what it spends."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from swarm_worker.baselines import BASELINES, CONTROLS, RIVALS, Setting
from tests.unit.tiny_setting import ITEMS, PROBE, Counting, N, load_engine, make_pack, make_setting


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, ...]]:
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def engine(pack) -> Counting:
    return load_engine(pack[0])


@pytest.fixture
def setting(pack, engine: Counting, tmp_path: Path) -> Setting:
    return make_setting(engine, pack[0], pack[1], tmp_path)


def test_the_table_has_the_papers_twelve_and_the_controls() -> None:
    """By name, each in one of two tables."""
    assert len(RIVALS) == 12
    assert not set(RIVALS) & set(CONTROLS)
    assert list(BASELINES) == [*RIVALS, *CONTROLS]


@pytest.mark.parametrize("name", BASELINES)
def test_repeatable_and_within_the_budget(name: str, pack, engine: Counting, tmp_path: Path) -> None:
    """From one seed everybody comes to the same model for the same price, the price is within the budget, and it is no less
    than what the engine was really asked."""
    found, replies = [], []
    for attempt in ("one", "two"):
        setting = make_setting(engine, *pack, tmp_path / attempt, max_rank=2)
        found.append(BASELINES[name](setting))
        asked = engine.asked
        assert asked <= found[-1].item_generations <= setting.item_generations
        replies.append(found[-1].contender.told(engine, PROBE))
    assert found[0].item_generations == found[1].item_generations
    assert found[0].note == found[1].note
    assert replies[0] == replies[1]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("evaluations", [1, N, N + 2])
def test_a_small_budget_is_kept_or_refused(name: str, evaluations: int, setting: Setting) -> None:
    """Whoever cannot do with the budget says how much it needs; nobody takes more."""
    small = dataclasses.replace(setting, evaluations=evaluations)
    try:
        found = BASELINES[name](small)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert found.item_generations <= evaluations * len(ITEMS)
    assert not refusal or "evaluations must" in refusal
