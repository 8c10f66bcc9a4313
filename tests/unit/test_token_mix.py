"""Token swarms: positions that mix next-token distributions of models with one tokenizer."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from swarm_worker import search
from swarm_worker.hull import HullOptions
from swarm_worker.scorer import Scorer, climb
from swarm_worker.scoring.engine import BASE, AdapterFolder, Asked, Candidate, Question
from swarm_worker.scoring.token_mix import TokenMixEngine
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.utilities import UTILITIES, Item
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import load_base, make_expert

QUESTIONS = tuple(
    Question([{"role": "user", "content": "say " + "it " * n}], answer)
    for n in range(3)
    for answer in ("yes", "no", "yesterday")
)
ASKED = Asked(likelihoods=QUESTIONS, answers=tuple(question.prompt for question in QUESTIONS[::3]), max_tokens=8)
TINY = math.log(torch.finfo(torch.float32).tiny)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two Llamas of one family, and a GPT-2: three sets of weights, two architectures, one tokenizer."""
    root = tmp_path_factory.mktemp("models")
    first, second, third = make_base(root / "first"), root / "second", root / "third"
    shutil.copytree(first, second)
    other, random = load_base(first), torch.Generator().manual_seed(3)
    for parameter in other.parameters():
        parameter.data += torch.randn(parameter.shape, generator=random) * 0.1
    other.save_pretrained(second)
    shutil.copytree(
        first, third, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "generation_config.json")
    )
    torch.manual_seed(5)
    size = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 200, "initializer_range": 0.3}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=load_base(first).config.vocab_size, **size, **ends)).save_pretrained(third)
    return [first, second, third]


@pytest.fixture(scope="module")
def engine(models: list[Path]) -> TokenMixEngine:
    return TokenMixEngine.load(models[0], models)


def hand_computed(models: list[Path], coefficients: tuple[float, ...], question: Question) -> float:
    """The log-likelihood from the formula, token by token, each model read whole and alone."""
    pair = TransformersEngine.load(models[0]).tokenise(*question)
    tokens = torch.tensor([pair.prompt + pair.answer])
    with torch.no_grad():
        told = [load_base(folder)(input_ids=tokens).logits[0].softmax(-1) for folder in models]
    total = 0.0
    for place, token in enumerate(pair.answer, start=len(pair.prompt) - 1):
        p = [
            max(0.0, sum(c * float(t[place, other]) for c, t in zip(coefficients, told, strict=True)))
            for other in range(told[0].shape[1])
        ]
        total += math.log(p[token] / sum(p)) if p[token] > 0 else TINY
    return total


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_one_hot_position_is_that_model(engine: TokenMixEngine, models: list[Path], number: int) -> None:
    """Likelihoods and greedy answers, for each model; the base is the first."""
    one_hot = Candidate(tuple(float(other == number) for other in range(3)))
    alone = TransformersEngine.load(models[number]).ask([BASE], ASKED)[0]
    told = engine.ask([one_hot], ASKED)[0]
    assert [one.total for one in told.likelihoods] == pytest.approx([one.total for one in alone.likelihoods], abs=1e-3)
    assert told.answers == alone.answers
    assert number != 0 or engine.ask([BASE], ASKED)[0] == told


@pytest.mark.parametrize("coefficients", [(0.5, 0.3, 0.2), (1.4, -0.4, 0.0), (2.0, 3.0, 1.0), (-1.0, 0.8, 0.4)])
def test_a_mix_is_the_formula(engine: TokenMixEngine, models: list[Path], coefficients: tuple[float, ...]) -> None:
    """p = sum_i c_i p_i, clipped at 0, divided by its sum: also outside the simplex."""
    told = engine.ask([Candidate(coefficients)], Asked(likelihoods=QUESTIONS[:4]))[0]
    expected = [hand_computed(models, coefficients, question) for question in QUESTIONS[:4]]
    assert [one.total for one in told.likelihoods] == pytest.approx(expected, abs=2e-3)


def test_a_greedy_answer_takes_the_likeliest_token_of_the_mix(engine: TokenMixEngine, models: list[Path]) -> None:
    """The mix decides every token, and all models read what it decided; not the models each for itself."""
    coefficients = (0.4, 0.3, 0.3)
    told = engine.ask([Candidate(coefficients), BASE], ASKED)
    bare = [load_base(folder) for folder in models]
    chat = TransformersEngine.load(models[0])._chat
    for prompt, answer in zip(ASKED.answers, told[0].answers, strict=True):
        tokens = list(chat.prompt_tokens(prompt))
        begin = len(tokens)
        for _ in range(ASKED.max_tokens):
            with torch.no_grad():
                p = sum(
                    c * model(input_ids=torch.tensor([tokens])).logits[0, -1].softmax(-1)
                    for c, model in zip(coefficients, bare, strict=True)
                )
            tokens.append(int(p.argmax()))
            if tokens[-1] == 2:
                break
        assert answer == chat.text_of(tokens[begin:])
    assert told[0].answers != told[1].answers


def test_a_reply_does_not_depend_on_who_else_is_asked(engine: TokenMixEngine) -> None:
    everyone = [Candidate((0.2, 0.5, 0.3)), BASE, Candidate((1.2, -0.2, 0.0))]
    together = engine.ask(everyone, ASKED)
    for one, told in zip(everyone, together, strict=True):
        alone = engine.ask([one], ASKED)[0]
        assert [a.total for a in alone.likelihoods] == pytest.approx([b.total for b in told.likelihoods], abs=1e-3)
        assert alone.answers == told.answers


def test_where_nothing_is_left_all_tokens_are_equal(engine: TokenMixEngine) -> None:
    """A position with no mass is the worst guess, not an error and not NaN: a search may step there."""
    told = [engine.ask([Candidate(position)], ASKED)[0] for position in ((-1.0, 0.0, 0.0), (0.0, 0.0, 0.0))]
    vocabulary = engine._base.vocabulary
    for reply in told:
        assert [one.mean for one in reply.likelihoods] == pytest.approx([-math.log(vocabulary)] * len(QUESTIONS))


def test_adapters_are_models_too(models: list[Path], tmp_path: Path) -> None:
    """A folder of an adapter stands for the base with it: mixing experts' tokens instead of their weights."""
    expert = make_expert(models[0], tmp_path / "expert", seed=1)
    mixed = TokenMixEngine.load(models[0])
    with pytest.raises(ValueError, match="set_experts"):
        mixed.ask([Candidate((1.0,))], ASKED)
    mixed.set_experts([expert], HullOptions(include_base=True))
    alone = TransformersEngine.load(models[0]).ask([AdapterFolder(expert), BASE], ASKED)
    told = mixed.ask([Candidate((1.0, 0.0)), Candidate((0.0, 1.0)), AdapterFolder(expert)], ASKED)
    for one, other in zip(told, [*alone, alone[0]], strict=True):
        assert [a.total for a in one.likelihoods] == pytest.approx([b.total for b in other.likelihoods], abs=1e-3)
        assert one.answers == other.answers


def test_another_tokenizer_is_refused(models: list[Path], tmp_path: Path) -> None:
    """A token must mean the same to all; so must the options, and the number of coefficients."""
    other = shutil.copytree(models[1], tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ValueError, match="another tokenizer"):
        TokenMixEngine.load(models[0], [other])
    with pytest.raises(ValueError, match="layer_groups"):
        TokenMixEngine.load(models[0]).set_experts(models, HullOptions(layer_groups=2))
    with pytest.raises(ValueError, match="2 coefficients for 3 models"):
        TokenMixEngine.load(models[0], models).ask([Candidate((1.0, 0.0))], ASKED)
    with pytest.raises(ValueError, match="context of 200"):
        TokenMixEngine.load(models[0], models).ask([BASE], Asked(likelihoods=(Question("a" * 220, "b"),)))


def test_a_published_swarm_runs_on_two_models(models: list[Path]) -> None:
    """The paper's optimiser, unchanged: it starts from the models themselves and ends no worse than the better one."""
    mixed = TokenMixEngine.load(models[0], models[:2])
    wanted = ["0000", "ab", "zz!"]
    items = [Item(prompt=f"{n}: ", good=good) for n, good in enumerate(wanted)]
    scorer = Scorer(mixed, UTILITIES["preference"], items)
    swarm = search.make("model_swarms", n_experts=2, seed=1, preset="paper", particles=4, max_generations=4)
    starts: list[tuple[float, ...]] = [tuple(move.coefficients) for move in swarm.ask()]
    assert (1.0, 0.0) in starts
    assert (0.0, 1.0) in starts
    best = climb(swarm, scorer)
    assert best.utility >= max(scorer((1.0, 0.0)), scorer((0.0, 1.0)))
