"""The transformers engine: real masks, real positions, no drift, and no item that depends on its neighbours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swarm_worker.hull import ExpertStack
from swarm_worker.scoring import transformers as engine_file
from swarm_worker.scoring.batches import batches
from swarm_worker.scoring.engine import BASE, AdapterFolder, Candidate, TokenisedPair
from swarm_worker.scoring.transformers import TransformersEngine
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import load_base, make_expert

MIX = Candidate((0.8, -0.3))
QUESTIONS = [[{"role": "user", "content": "tell me " + "more " * n}] for n in range(12)]
ANSWERS = ["yes" + "!" * (7 * n % 11) for n in range(12)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def experts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("experts")
    return [make_expert(base, root / "one", seed=1), make_expert(base, root / "two", seed=2, target_modules=["k_proj"])]


@pytest.fixture(scope="module")
def engine(base: Path, experts: list[Path]) -> TransformersEngine:
    return TransformersEngine.load(base, experts)


@pytest.fixture
def pairs(engine: TransformersEngine) -> list[TokenisedPair]:
    return [engine.tokenise(question, answer) for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]


def test_a_likelihood_is_the_mean_over_the_answers_tokens(base: Path, engine, pairs) -> None:
    """The score is what the definition says, item by item, end token included, prompt excluded."""
    model = load_base(base)
    for pair, score in zip(pairs, engine.log_likelihoods(BASE, pairs), strict=True):
        tokens = torch.tensor([pair.prompt + pair.answer])
        with torch.no_grad():
            log_p = model(input_ids=tokens).logits.log_softmax(-1)[0]
        expected = [float(log_p[len(pair.prompt) + i - 1, token]) for i, token in enumerate(pair.answer)]
        assert score == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_an_answer_ends_with_the_end_of_a_turn(engine) -> None:
    """The end token is scored too: a model that cannot stop is not a good one."""
    pair = engine.tokenise(QUESTIONS[0], "yes")
    assert pair.answer[-1] == 2
    assert len(pair.answer) == 4


@pytest.mark.parametrize("order", [[3], [11, 3], [3, *range(11, -1, -1)]])
def test_a_score_does_not_depend_on_its_neighbours(engine, pairs, order: list[int]) -> None:
    """Alone, beside a longer item, or last of many: an item scores the same."""
    expected = engine.log_likelihoods(MIX, pairs)
    for row, score in zip(order, engine.log_likelihoods(MIX, [pairs[row] for row in order]), strict=True):
        assert score == pytest.approx(expected[row], abs=1e-4)


def test_small_batches_score_the_same(engine, pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of a batch, in tokens and in logits, change nothing."""
    expected = engine.log_likelihoods(MIX, pairs)
    for bound, value in (("BATCH_TOKENS", 100), ("BATCH_LOGITS", 5_000)):
        with monkeypatch.context() as patch:
            patch.setattr(engine_file, bound, value)
            assert engine.log_likelihoods(MIX, pairs) == pytest.approx(expected, abs=1e-4)


def test_a_greedy_answer_does_not_depend_on_its_neighbours(engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and among longer prompts: the same answer, in the order of the prompts."""
    together = engine.generate(MIX, QUESTIONS, max_tokens=12)
    assert [engine.generate(MIX, [question], max_tokens=12)[0] for question in QUESTIONS] == together
    monkeypatch.setattr(engine_file, "GENERATE_ROWS", 5)
    assert engine.generate(MIX, QUESTIONS, max_tokens=12) == together
    assert len(set(together)) > 1


def test_a_greedy_answer_takes_the_likeliest_token_each_time(base: Path, engine) -> None:
    """Generation is the argmax of the same model that scores, token by token, without a cache."""
    model, answer = load_base(base), []
    tokens = list(engine.tokenise(QUESTIONS[2], "").prompt)
    for _ in range(10):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
        if token == 2:
            break
        tokens.append(token)
        answer.append(token)
    assert engine.generate(BASE, [QUESTIONS[2]], max_tokens=10) == [engine._chat.text_of(answer)]


def test_a_completion_is_the_plain_prompt(engine) -> None:
    """A prompt that is text is not rendered as a chat."""
    assert engine.tokenise("ab", "c").prompt != engine.tokenise([{"role": "user", "content": "ab"}], "c").prompt
    assert len(engine.tokenise("ab", "c").prompt) == 2
    assert engine.generate(BASE, ["ab"], max_tokens=3)[0] is not None


def test_nothing_drifts(engine, pairs) -> None:
    """After a hundred other candidates the base and a candidate score bit by bit as before."""
    before = engine.log_likelihoods(BASE, pairs), engine.log_likelihoods(MIX, pairs)
    for n in range(100):
        engine.log_likelihoods(Candidate((n / 50, -n / 70), "factors" if n % 2 else "delta"), pairs[:1])
    assert (engine.log_likelihoods(BASE, pairs), engine.log_likelihoods(MIX, pairs)) == before


def test_experts_change_scores(engine, pairs) -> None:
    """A candidate, each expert and the base all differ: no merge is silently without effect."""
    scores = [
        engine.log_likelihoods(Candidate(c), pairs[:3]) for c in ((1.0, 0.0), (0.0, 1.0), (0.8, -0.3), (0.0, 0.0))
    ]
    assert len({tuple(round(s, 4) for s in row) for row in scores}) == 4
    assert scores[3] == pytest.approx(engine.log_likelihoods(BASE, pairs[:3]), abs=1e-6)


def test_a_written_adapter_scores_as_the_point_it_came_from(engine, experts, pairs, tmp_path: Path) -> None:
    """The folder that users get, exact or one expert's own, scores what the candidate scored."""
    ExpertStack.load(experts).write(MIX.coefficients, tmp_path / "mix", space="delta", max_rank=16, dtype="float32")
    for folder, candidate in ((tmp_path / "mix", MIX), (experts[1], Candidate((0.0, 1.0)))):
        assert engine.log_likelihoods(AdapterFolder(folder), pairs) == pytest.approx(
            engine.log_likelihoods(candidate, pairs), abs=1e-4
        )


def test_other_experts_replace_the_stack(base: Path, experts, pairs) -> None:
    """The same coefficients mean other weights once the experts are others."""
    engine = TransformersEngine.load(base, experts)
    before = engine.log_likelihoods(MIX, pairs)
    engine.set_experts(experts[::-1])
    swapped = engine.log_likelihoods(Candidate(MIX.coefficients[::-1]), pairs)
    assert swapped == pytest.approx(before, abs=1e-5)
    assert engine.log_likelihoods(MIX, pairs) != pytest.approx(before, abs=1e-3)


def test_what_cannot_be_scored_says_so(base: Path, experts, engine, tmp_path: Path) -> None:
    """No experts, too long an item, a module that is not there: one sentence each, and the base stays intact."""
    with pytest.raises(ValueError, match="set_experts"):
        TransformersEngine.load(base).log_likelihoods(MIX, [engine.tokenise("a", "b")])
    with pytest.raises(ValueError, match="context of 256"):
        engine.log_likelihoods(BASE, [engine.tokenise("a" * 300, "b")])
    with pytest.raises(ValueError, match="2 experts"):
        engine.log_likelihoods(Candidate((1.0,)), [engine.tokenise("a", "b")])
    assert engine.log_likelihoods(BASE, []) == []
    assert engine.generate(BASE, [], max_tokens=4) == []


def test_batches_are_rectangles_within_bounds() -> None:
    """Every row is in one batch; a batch holds like lengths and stays within its bounds; a giant is alone."""
    lengths = [5, 900, 3, 5, 40, 41, 4]
    made = batches(lengths, max_tokens=100, max_rows=3)
    assert sorted(row for batch in made for row in batch) == list(range(7))
    assert all(len(b) * max(lengths[row] for row in b) <= 100 or len(b) == 1 for b in made)
    assert max(len(batch) for batch in made) <= 3
    assert made[0] == [2, 6, 0]
    assert batches([], max_tokens=10) == []
