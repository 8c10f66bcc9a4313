"""Baselines: what each must be by construction."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from swarm_worker import fine_tuning
from swarm_worker.baselines import BASELINES, Ensemble, Found, Setting, Single
from swarm_worker.baselines.cbtm import TEMPERATURES as CLUSTER_TEMPERATURES
from swarm_worker.baselines.cbtm import ByCluster, text_of
from swarm_worker.baselines.contender import Equal, fuse, shares_of
from swarm_worker.baselines.dare_ties import merged, ties
from swarm_worker.baselines.format_fix import FewShot, with_examples
from swarm_worker.baselines.gradient import EPOCHS, RATES, _plan
from swarm_worker.baselines.model_stock import ratio
from swarm_worker.baselines.pack_of_llms import ByPerplexity, _Perplexities
from swarm_worker.baselines.slerp import interpolate
from swarm_worker.hull import HullOptions
from swarm_worker.scorer import Scorer
from swarm_worker.scoring.chat import Chat, TokenisedPair
from swarm_worker.scoring.engine import (
    BASE,
    AdapterFolder,
    Asked,
    Candidate,
    Likelihood,
    Prompt,
    Question,
    Scored,
    Told,
)
from swarm_worker.utilities import UTILITIES, Item, Utility
from swarm_worker.utilities import make as make_utility
from swarm_worker.utilities.right_answer import right_answer
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

CHOICES = [
    Item(prompt=question, choices=dict(zip("AB", options, strict=True)), good=good, task=task)
    for question, options, good, task in (
        ("hue of grass", ("green", "pink"), "A", "text"),
        ("hue of coal", ("white", "black"), "B", "letter"),
        ("hue of snow", ("ivory", "brown"), "A", "letter"),
        ("hue of blood", ("blue", "red"), "B", "text"),
        ("hue of ash", ("gray", "lime"), "A", "letter"),
    )
]
CHAT_CHOICES = [dataclasses.replace(item, prompt=None, messages=chat(str(item.prompt)), digest="") for item in CHOICES]
WAYS: dict[str, Utility] = {
    "text": make_utility("multiple_choice"),
    "answer": make_utility("multiple_choice", mode="answer"),
    "abstain": make_utility("abstain"),
    "likelihood": make_utility("likelihood"),
    "multi": make_utility(
        "multi", tasks={"text": "multiple_choice", "letter": {"name": "multiple_choice", "mode": "answer"}}
    ),
}


class Recording:
    """An engine without a model: what it was asked last, and a liking for prompts with examples."""

    identity, context = "recording", 10_000

    def __init__(self) -> None:
        self.seen = Asked()

    def set_experts(self, folders: Sequence[Path], options: HullOptions = HullOptions()) -> None:  # noqa: B008
        pass

    def length(self, prompt: Prompt, answer: str) -> int:
        return len(text_of(prompt) + answer)

    def ask(self, scored: Sequence[Scored], asked: Asked) -> list[Told]:
        self.seen = asked
        right = {item.right_text for item in CHOICES}
        totals = [
            5.0 * ("\n\n" in text_of(question.prompt) and question.answer.strip() in right) - 9.0
            for question in asked.likelihoods
        ]
        return [Told(tuple(Likelihood(total, 1) for total in totals), ("",) * len(asked.answers)) for _ in scored]


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
    shot = Question([system, *chat("one")], "1")
    assert with_examples([system, *chat("two")], [shot]) == [
        system,
        *chat("one"),
        {"role": "assistant", "content": "1"},
        *chat("two"),
    ]
    assert with_examples("2 = ", [Question("1 = ", "one")]) == "1 = one\n\n2 = "


def test_a_question_is_never_shown_its_own_answer(setting: Setting) -> None:
    """Scored on the search items, an example that is the question itself is left out: as without it."""
    utility = setting.scorer.utility
    shown = FewShot.of(BASE, utility, ITEMS[:2])
    other = FewShot.of(BASE, utility, ITEMS[1:2])
    asked = Asked(likelihoods=(Question(ITEMS[0].question, "one"),))
    engine = setting.scorer.engine
    assert shown.told(engine, asked) == other.told(engine, asked)
    assert shown.told(engine, asked) != Single(BASE).told(engine, asked)


def is_letter(way: str, item: Item) -> bool:
    """Whether this way of asking wants a label."""
    return way in ("answer", "abstain") or (way == "multi" and item.task == "letter")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("items", [CHOICES, CHAT_CHOICES], ids=["completion", "chat"])
def test_a_choice_is_shown_the_others_answers_but_never_its_own(way: str, items: list[Item]) -> None:
    """However options are asked: each prompt comes last and as the utility asks it, after the other questions in the same form
    with their right answers, and its own question is nowhere else in it."""
    utility, engine = WAYS[way], Recording()
    asked = utility.asks(items)
    FewShot.of(BASE, utility, items).told(engine, asked)
    before = [*(question.prompt for question in asked.likelihoods), *asked.answers]
    after = [*(question.prompt for question in engine.seen.likelihoods), *engine.seen.answers]
    assert [question.answer for question in engine.seen.likelihoods] == [q.answer for q in asked.likelihoods]
    for prompt, shown in zip(before, after, strict=True):
        own = next(item for item in items if text_of(item.question) in text_of(prompt))
        others = [right_answer(utility, item) for item in items if item is not own]
        assert shown == with_examples(prompt, others)
        assert json.dumps(shown).count(text_of(own.question)) == 1
        for item, other in zip([item for item in items if item is not own], others, strict=True):
            assert json.dumps(shown).count(text_of(item.question)) == 1
            assert other.answer.strip() == (item.right if is_letter(way, item) else item.right_text)


def test_examples_have_the_form_that_users_ask_in(pack, engine: Counting, tmp_path: Path) -> None:
    """Chosen by how likely the right option is, but asked for a letter by users: then letters are what examples show."""
    setting = make_setting(engine, *pack, tmp_path / "scratch")
    letters, likely = WAYS["answer"], make_utility("multiple_choice", smooth=True)
    scorer = Scorer(Recording(), likely, CHOICES)
    found = BASELINES["format_fix"](dataclasses.replace(setting, scorer=scorer, utility=letters)).contender
    assert isinstance(found, FewShot)
    assert set(found.shots) <= {right_answer(letters, item) for item in CHOICES}


@pytest.mark.parametrize("name", ["format_fix", "fine_tuning", "fine_tuning_base"])
def test_what_rates_answers_has_none_to_show_or_train_on(name: str, pack, engine: Counting, tmp_path: Path) -> None:
    """A judge says how good an answer is, not which is right: who needs one is refused with that reason."""
    setting = make_setting(engine, *pack, tmp_path / "scratch")
    scorer = Scorer(engine, make_utility("judge", base_url="http://nowhere.invalid/v1", model="none"), ITEMS)
    ranked = [(0, 0.5), (1, 0.4), (2, 0.3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setting, "ranking", lambda self: ranked)  # there is no judge to rank them
        with pytest.raises(ValueError, match=r"good answer.*judge rates answers and knows no right one"):
            BASELINES[name](dataclasses.replace(setting, scorer=scorer))


def test_examples_that_do_not_fit_the_context_are_left_out(setting: Setting) -> None:
    """A question is answered with as many examples as fit, rather than refused."""
    long = tuple(Question(chat(f"say {letter * 100}"), letter) for letter in "abcd")
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


@pytest.mark.parametrize("way", ["text", "multi"])
@pytest.mark.parametrize("name", ["fine_tuning", "data_merge"])
def test_choices_are_trained_on_as_the_utility_asks_them(
    name: str, way: str, pack, engine: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever trains gives the utility along with the items, whose own question and label nobody scores."""
    trained: list[TokenisedPair] = []

    def keep(model, pairs, *others) -> None:
        trained.extend(pairs)
        train(model, pairs, *others)

    train = fine_tuning._train
    monkeypatch.setattr(fine_tuning, "_train", keep)
    setting = make_setting(engine, *pack, tmp_path / "scratch", evaluations=32)
    scorer = Scorer(engine, WAYS[way], CHOICES)
    BASELINES[name](dataclasses.replace(setting, scorer=scorer, training=tuple(CHOICES)))
    tokenise = Chat.load(pack[0]).tokenise
    scored = {tokenise(*right_answer(WAYS[way], item)) for item in CHOICES}
    assert trained
    assert set(trained) <= scored


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
