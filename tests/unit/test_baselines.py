"""Baselines: what each must be by construction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from swarm_worker.baselines import BASELINES, Ensemble, Found, Setting, Single
from swarm_worker.baselines.cbtm import TEMPERATURES as CLUSTER_TEMPERATURES
from swarm_worker.baselines.cbtm import ByCluster
from swarm_worker.baselines.contender import Equal, fuse, shares_of
from swarm_worker.baselines.dare_ties import merged, ties
from swarm_worker.baselines.format_fix import FewShot, with_examples
from swarm_worker.baselines.gradient import EPOCHS, RATES, _plan
from swarm_worker.baselines.model_stock import ratio
from swarm_worker.baselines.pack_of_llms import ByPerplexity, _Perplexities
from swarm_worker.baselines.slerp import interpolate
from swarm_worker.hull import HullOptions
from swarm_worker.scorer import Scorer
from swarm_worker.scoring.engine import (
    BASE,
    AdapterFolder,
    Asked,
    Candidate,
    Likelihood,
    Question,
    Told,
)
from swarm_worker.utilities import UTILITIES, Item
from swarm_worker.utilities import make as make_utility
from tests.unit.tiny_setting import (
    ITEMS,
    NAMES,
    PROBE,
    TRAINING,
    Counting,
    N,
    chat,
    load_engine,
    make_pack,
    make_setting,
    utility_of,
)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, ...]]:
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="module")
def engine(pack) -> Counting:
    return load_engine(pack[0])


@pytest.fixture
def setting(pack, engine: Counting, tmp_path: Path) -> Setting:
    return make_setting(engine, pack[0], pack[1], tmp_path)


def best_expert_utility(setting: Setting) -> float:
    return setting.ranking()[0][1]


@pytest.mark.parametrize("name", ["random_in_hull", "lorahub", "scale_only", "uniform_soup", "prediction_merge"])
def test_a_hull_of_more_columns_and_groups_will_do(name: str, pack, engine: Counting, tmp_path: Path) -> None:
    """Baselines work where the hull has the base, sparse copies and layer groups beside the experts."""
    hull = HullOptions(include_base=True, sparse_copies=1, layer_groups=2)
    setting = make_setting(engine, *pack, tmp_path / "scratch", hull=hull)
    found = BASELINES[name](setting)
    assert found.item_generations <= setting.item_generations
    assert math.isfinite(utility_of(setting, found))


def test_what_is_served_fits_the_service(pack, engine: Counting, tmp_path: Path) -> None:
    """With ``max_rank`` a point of the hull comes as the cut adapter, without as the point."""
    cut = BASELINES["uniform_soup"](make_setting(engine, *pack, tmp_path / "cut", max_rank=2)).contender
    whole = BASELINES["uniform_soup"](make_setting(engine, *pack, tmp_path / "whole")).contender
    assert isinstance(cut, Single)
    assert isinstance(cut.scored, AdapterFolder)
    assert whole == Single(Candidate((1 / 3,) * 3))


# Experts and soups


def test_best_expert_is_the_highest_on_the_search_items(setting: Setting) -> None:
    """It is one of the folders, and none scores higher."""
    found = BASELINES["best_expert"](setting)
    utilities = setting.utilities([AdapterFolder(folder) for folder in setting.folders])
    assert found.contender == Single(AdapterFolder(setting.folders[utilities.index(max(utilities))]))
    assert found.item_generations == N * len(ITEMS)


@pytest.mark.parametrize(
    "name", ["greedy_soup", "slerp", "scale_only", "format_fix", "random_in_hull", "lorahub", "evolmerge"]
)
def test_whoever_knows_the_best_expert_is_not_below_it(name: str, setting: Setting) -> None:
    """On the search items: the best expert is among what each of these chooses from."""
    found = BASELINES[name](setting)
    assert utility_of(setting, found) >= best_expert_utility(setting) - 1e-4


@pytest.mark.parametrize("space", ["delta", "factors"])
def test_a_scale_is_of_the_update_in_both_spaces(space: str, pack, engine: Counting, tmp_path: Path) -> None:
    """Scaled by s an expert's dW is s times its own, also where an update weighs its coefficient squared."""
    setting = make_setting(engine, *pack, tmp_path / "scratch", space=space)
    stack = setting.stack()
    module = next(iter(stack.modules))
    scaled = stack.update(module, setting.scaled(1, 0.5).coefficients, space)
    torch.testing.assert_close(scaled, 0.5 * stack.update(module, setting.expert(1).coefficients, space))


def test_random_in_hull_spends_exactly_the_budget(setting: Setting) -> None:
    """Not a position more or less, whether or not the draws divide evenly."""
    for evaluations in (20, 21, 23):
        found = BASELINES["random_in_hull"](dataclasses.replace(setting, evaluations=evaluations))
        assert found.item_generations == evaluations * len(ITEMS)


# Merges


def test_slerp_ends_at_its_experts_and_keeps_the_norm() -> None:
    """Share 0 and 1 are the two updates; between equal norms the norm stays, which a straight line loses."""
    one, other = torch.eye(4), torch.eye(4).roll(1, 0)
    torch.testing.assert_close(interpolate(one, other, 0.0), one)
    torch.testing.assert_close(interpolate(one, other, 1.0), other)
    assert float(interpolate(one, other, 0.5).norm()) == pytest.approx(float(one.norm()))
    torch.testing.assert_close(interpolate(one, 3 * one, 0.5), 2 * one)
    torch.testing.assert_close(interpolate(one, 0 * one, 0.5), 0.5 * one)


def test_ties_elects_the_sign_and_averages_who_agrees() -> None:
    """By hand: [3, 1, -2] elects plus, its mean is of 3 and 1; [1, -1] elects nothing; a zero does not count."""
    updates = torch.tensor([[3.0, 1.0, 4.0], [1.0, -1.0, 0.0], [-2.0, 0.0, 0.0]]).view(3, 1, 3)
    agreed, weight = ties(updates, [1.0, 1.0, 1.0])
    assert agreed.tolist() == [[4.0, 0.0, 4.0]]
    assert weight.tolist() == [[2.0, 0.0, 1.0]]


def test_ties_of_identical_experts_is_that_expert() -> None:
    """With density 1 and scale 1, whatever their number."""
    update = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    merge = merged([1.0] * 3, [1.0] * 3, seed=1, scale=1.0)
    torch.testing.assert_close(merge("q_proj", update.expand(3, 5, 7)), update)


def test_dare_drops_the_same_entries_at_every_call() -> None:
    """Equal parameters are an equal merge; another seed, module or density is another."""
    updates = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(1))
    merge = merged([1.0, 1.0], [0.5, 0.5], seed=1)
    assert torch.equal(merge("q_proj", updates), merge("q_proj", updates))
    assert not torch.equal(merge("q_proj", updates), merge("k_proj", updates))
    assert not torch.equal(merge("q_proj", updates), merged([1.0, 1.0], [0.5, 0.5], seed=2)("q_proj", updates))
    alone = merged([1.0, 0.0], [0.5, 1.0], seed=1)("q_proj", updates)
    assert 0.4 < float((alone != 0).float().mean()) < 0.6
    kept = alone != 0
    torch.testing.assert_close(alone[kept], 2 * updates[0][kept])


def test_model_stock_ratio_is_the_papers() -> None:
    """Identical experts: 1, the average; at right angles: 0, the base; two at 60 degrees: 2 * .5 / 1.5."""
    one = torch.tensor([[1.0, 0.0]])
    assert ratio(torch.stack([one, one, 2 * one])) == pytest.approx(1.0)
    assert ratio(torch.stack([one, torch.tensor([[0.0, 1.0]])])) == pytest.approx(0.0)
    assert ratio(torch.stack([one, torch.tensor([[0.5, 0.75**0.5]])])) == pytest.approx(2 / 3)
    assert ratio(torch.stack([one, -one])) == 0.0
    assert ratio(torch.stack([one, 0 * one])) == 1.0


@pytest.mark.parametrize("name", ["model_stock", "uniform_soup", "prediction_merge", "slerp", "pack_of_llms", "cbtm"])
def test_identical_experts_give_that_expert(name: str, pack, engine: Counting, tmp_path: Path) -> None:
    """Whatever a method makes of n times the same expert answers as it does."""
    base, folders = pack
    setting = make_setting(engine, base, (folders[0],) * N, tmp_path / "scratch")
    actual = BASELINES[name](setting).contender.told(engine, PROBE)
    expected = Single(AdapterFolder(folders[0])).told(engine, PROBE)
    assert actual.answers == expected.answers
    totals = [[likelihood.total for likelihood in told.likelihoods] for told in (actual, expected)]
    assert totals[0] == pytest.approx(totals[1], abs=1e-3)


# Ensembles


def vote(*answers: str, shares: Sequence[float] | None = None) -> str:
    asked = Asked(answers=("q",))
    by_prompt = {"q": np.array(shares or [1 / len(answers)] * len(answers))}
    return fuse(asked, [Told(answers=(answer,)) for answer in answers], by_prompt).answers[0]


def test_the_most_frequent_answer_wins() -> None:
    """Blanks aside; of equals the first member's; with shares the largest share. Nobody asks which is right (defect O5)."""
    assert vote("a", "b", " b ") == "b"
    assert vote("b", "a") == "b"
    assert vote("a", "b", "c", "a", "b") == "a"
    assert vote("a", "b", "b", shares=[0.6, 0.2, 0.2]) == "a"


def test_the_likelihood_of_an_ensemble_is_the_mixtures() -> None:
    """log sum_k share_k p_k, by hand; a share of 0 adds nothing."""
    asked = Asked(likelihoods=(Question("q", "a"), Question("r", "a")))
    tolds = [Told(likelihoods=(Likelihood(math.log(p), 2),) * 2) for p in (0.5, 0.1)]
    shares = {"q": np.array([0.25, 0.75]), "r": np.array([0.0, 1.0])}
    found = fuse(asked, tolds, shares).likelihoods
    assert found[0].total == pytest.approx(math.log(0.25 * 0.5 + 0.75 * 0.1))
    assert found[1].total == pytest.approx(math.log(0.1))
    assert found[0].tokens == 2


def test_prediction_merge_is_every_expert_with_equal_shares(setting: Setting) -> None:
    """It costs nothing to find."""
    found = BASELINES["prediction_merge"](setting)
    assert found.contender == Ensemble(tuple(setting.expert(i) for i in range(N)), Equal(N))
    assert found.item_generations == 0


def test_pack_of_llms_follows_the_prompts_perplexity(setting: Setting) -> None:
    """The coldest share is all of the member that finds the prompt likeliest; a prompt of one word tells nothing."""
    engine = setting.scorer.engine
    members = [setting.expert(i) for i in range(N)]
    prompts = [chat("say one two"), chat("hello")]
    shares = ByPerplexity(_Perplexities(members), 1e-4)(engine, prompts)
    told = engine.ask(members, Asked(likelihoods=(Question("say", " one two", closed=False),)))
    likeliest = max(range(N), key=lambda i: told[i].likelihoods[0].mean)
    assert shares[0, likeliest] == pytest.approx(1.0)
    assert shares[1].tolist() == pytest.approx([1 / N] * N)
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0, 1.0])


def test_cbtm_sends_a_prompt_to_the_expert_of_its_cluster(setting: Setting) -> None:
    """With training data, a prompt like an expert's own goes to it, the more so the colder; shares sum to 1."""
    found = BASELINES["cbtm"](setting).contender
    assert isinstance(found, Ensemble)
    assert isinstance(found.weigh, ByCluster)
    cold = dataclasses.replace(found.weigh, temperature=min(CLUSTER_TEMPERATURES))
    for expert, name in enumerate(NAMES):
        shares = cold(setting.scorer.engine, [chat(f"{name} xyz")])[0]
        assert int(shares.argmax()) == expert
        assert float(shares.sum()) == pytest.approx(1.0)


def test_cbtm_without_training_data_learns_from_the_search_items(pack, engine: Counting, tmp_path: Path) -> None:
    """Its clusters are then the search items', each owned by one expert; the training data's tasks must be experts."""
    setting = make_setting(engine, *pack, tmp_path / "scratch", training=())
    found = BASELINES["cbtm"](setting)
    assert "of the search items" in found.note
    owners = found.contender.weigh.clusters.owners
    assert (owners.sum(axis=1) == 1).all()
    assert set(owners.ravel()) <= {0.0, 1.0}
    with pytest.raises(ValueError, match="training must have items with the task of every expert; left has none"):
        BASELINES["cbtm"](dataclasses.replace(setting, training=TRAINING[:6]))


def test_an_ensemble_asks_for_shares_once_for_each_prompt() -> None:
    """Several questions about one prompt share its shares."""
    seen: list[int] = []

    def weigh(engine, prompts):
        seen.append(len(prompts))
        return np.full((len(prompts), 2), 0.5)

    asked = Asked(likelihoods=(Question("q", "a"), Question("q", "b")), answers=("q", "r"))
    assert set(shares_of(weigh, None, asked)) == {"q", "r"}
    assert seen == [2]


# The prompt only


def test_a_few_shot_prompt_is_a_chat_with_earlier_turns() -> None:
    """The system message stays first; examples are turns; a plain prompt gets paragraphs."""
    system = {"role": "system", "content": "be brief"}
    shot = Item(messages=[system, *chat("one")], good="1")
    assert with_examples([system, *chat("two")], [shot]) == [
        system,
        *chat("one"),
        {"role": "assistant", "content": "1"},
        *chat("two"),
    ]
    assert with_examples("2 = ", [Item(prompt="1 = ", good="one")]) == "1 = one\n\n2 = "


def test_a_question_is_never_shown_its_own_answer(setting: Setting) -> None:
    """Scored on the search items, an example that is the question itself is left out: as without it."""
    shown = FewShot(BASE, (ITEMS[0], ITEMS[1]))
    other = FewShot(BASE, (ITEMS[1],))
    asked = Asked(likelihoods=(Question(ITEMS[0].question, "one"),))
    engine = setting.scorer.engine
    assert shown.told(engine, asked) == other.told(engine, asked)
    assert shown.told(engine, asked) != Single(BASE).told(engine, asked)


def test_examples_that_do_not_fit_the_context_are_left_out(setting: Setting) -> None:
    """A question is answered with as many examples as fit, rather than refused."""
    long = tuple(Item(messages=chat(f"say {letter * 100}"), good=letter) for letter in "abcd")
    engine = setting.scorer.engine  # its context is 256 letters
    asked = Asked(likelihoods=(Question(chat("say x"), "x"),), answers=(chat("say x"),), max_tokens=8)
    assert FewShot(BASE, long).told(engine, asked) == FewShot(BASE, long[:1]).told(engine, asked)


# Gradients


def test_data_merge_needs_training_data(setting: Setting) -> None:
    """Where none is given it is refused with the reason."""
    with pytest.raises(ValueError, match="needs the experts' training data"):
        BASELINES["data_merge"](dataclasses.replace(setting, training=()))


def test_a_plan_of_trainings_widens_with_the_budget() -> None:
    """More epochs before more rates; the whole grid where the budget pays for it; the cost is what was reckoned."""
    budgets = (456, 2_000, 8_000, 40_000)
    plans = [_plan(budget, kept=48, usable=60, scored=60, rates=RATES) for budget in budgets]
    assert all(plan.cost <= budget for plan, budget in zip(plans, budgets, strict=True))
    sizes = [(len(plan.epochs), len(plan.rates)) for plan in plans]
    assert sizes == sorted(sizes)
    assert sizes[0] == (1, 1)
    assert sizes[-1] == (len(EPOCHS), len(RATES))
    # The start, one trial (48 items, 3 each, and a scoring), and the training on all 60 items in 8 batches of 8.
    assert plans[0].cost == 60 + 144 + 60 + 192
    with pytest.raises(ValueError, match="evaluations must pay for fine-tuning"):
        _plan(455, kept=48, usable=60, scored=60, rates=RATES)


def test_fine_tuning_fits_the_search_items(pack, engine: Counting, tmp_path: Path) -> None:
    """With a budget for it the base learns the items' good answers."""
    setting = make_setting(engine, *pack, tmp_path / "scratch", evaluations=320)
    found = BASELINES["fine_tuning_base"](setting)
    assert ": 0 epochs" not in found.note
    assert utility_of(setting, found) > 0.9  # 0.5 is the base


def test_items_without_a_good_answer_are_not_trained_on(pack, engine: Counting, tmp_path: Path) -> None:
    """Too few good answers are refused with the reason."""
    setting = make_setting(engine, *pack, tmp_path / "scratch")
    items = [Item(prompt=str(n), bad="x") for n in range(6)]
    scorer = Scorer(engine, UTILITIES["preference"], items)
    with pytest.raises(ValueError, match="5 search items with a good answer or more, not 0"):
        BASELINES["fine_tuning_base"](dataclasses.replace(setting, scorer=scorer))


@pytest.mark.parametrize("name", ["prediction_merge", "pack_of_llms", "cbtm", "format_fix", "greedy_soup"])
def test_generated_answers_will_do_as_well(name: str, pack, engine: Counting, tmp_path: Path) -> None:
    """Nothing depends on the utility being a likelihood."""
    utility = make_utility("exact_match", max_tokens=3)
    setting = make_setting(engine, *pack, tmp_path / "scratch", utility=utility)
    found: Callable[[Setting], Found] = BASELINES[name]
    assert 0.0 <= utility_of(setting, found(setting)) <= 1.0
