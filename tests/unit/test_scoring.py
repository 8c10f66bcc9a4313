"""The transformers engine's parts: packs and batches, merging that does not drift, stacking that leaves nothing behind,
greedy answers whose batch shrinks. What every engine promises is in tests/contract/test_scoring_engine.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

from swarm_worker.hull import HullOptions
from swarm_worker.scoring import forward as forward_file
from swarm_worker.scoring.batches import batches
from swarm_worker.scoring.chat import Chat, TokenisedPair
from swarm_worker.scoring.engine import BASE, AdapterFolder, Asked, Candidate, Question, answers_of
from swarm_worker.scoring.forward import Limits, likelihoods, reads_trees
from swarm_worker.scoring.greedy import greedy
from swarm_worker.scoring.merging import MergedModel
from swarm_worker.scoring.packs import PACK, Rectangle, packs
from swarm_worker.scoring.transformers import Mode, TransformersEngine
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import load_base, make_expert

MIX = Candidate((0.8, -0.3))
PROMPTS = [[{"role": "user", "content": "tell me " + "more " * n}] for n in range(12)]
ASKED = Asked(
    likelihoods=tuple(Question(prompt, "yes" + "!" * (7 * n % 11)) for n, prompt in enumerate(PROMPTS)),
    answers=tuple(PROMPTS),
    max_tokens=12,
)


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


@pytest.fixture(scope="module")
def model(base: Path) -> MergedModel:
    return MergedModel(load_base(base))


def pair(prompt: str, answer: str) -> TokenisedPair:
    return TokenisedPair(*(tuple(ord(letter) - 30 for letter in text) for text in (prompt, answer)))


def totals(engine: TransformersEngine, *scored: Candidate) -> list[list[float]]:
    return [[one.total for one in told.likelihoods] for told in engine.ask(list(scored), ASKED)]


def test_an_answer_ends_with_the_end_of_a_turn(engine: TransformersEngine) -> None:
    """The end token is scored too: a model that cannot stop is not a good one. An option of a choice has none."""
    assert engine.tokenise(PROMPTS[0], "yes").answer[-1] == 2
    assert len(engine.tokenise(PROMPTS[0], "yes").answer) == 4
    assert len(engine.tokenise(PROMPTS[0], "yes", closed=False).answer) == 3


def test_a_completion_is_the_plain_prompt(engine: TransformersEngine) -> None:
    """A prompt that is text is not rendered as a chat."""
    assert engine.tokenise("ab", "c").prompt != engine.tokenise([{"role": "user", "content": "ab"}], "c").prompt
    assert len(engine.tokenise("ab", "c").prompt) == 2
    assert len(answers_of(engine, BASE, ["ab"], max_tokens=3)) == 1


@pytest.mark.parametrize("limits", [Limits(100, 2**26, 128), Limits(2_048, 5_000, 128), Limits(2_048, 2**26, 5)])
@pytest.mark.parametrize("mode", ["merged", "stacked"])
def test_small_batches_say_the_same(base: Path, experts: list[Path], engine, limits: Limits, mode) -> None:
    """The bounds of a batch, in tokens, logits and rows, change nothing."""
    bounded = TransformersEngine.load(base, experts, mode=mode)
    bounded.limits = limits
    expected, told = (one.ask([MIX, BASE], ASKED) for one in (engine, bounded))
    for left, right in zip(told, expected, strict=True):
        assert left.answers == right.answers
        assert [a.total for a in left.likelihoods] == pytest.approx([b.total for b in right.likelihoods], abs=1e-3)


def test_nothing_drifts(engine: TransformersEngine) -> None:
    """After a hundred other candidates the base and a candidate score bit by bit as before."""
    before = engine.ask([BASE, MIX], ASKED)
    for n in range(100):
        other = Candidate((n / 50, -n / 70), "factors" if n % 2 else "delta")
        engine.ask([other], Asked(likelihoods=ASKED.likelihoods[:1]))
    assert engine.ask([BASE, MIX], ASKED) == before


def test_stacking_leaves_the_model_as_it_was(base: Path, experts: list[Path]) -> None:
    """No hook outlives its question, not even one that fails; merging after it starts from the base."""
    stacked = TransformersEngine.load(base, experts, mode="stacked")
    before = stacked.ask([BASE], ASKED)
    stacked.ask([MIX, Candidate((0.1, 2.0), "factors"), BASE], ASKED)
    with pytest.raises(ValueError, match="1 coefficients"):
        stacked.ask([MIX, Candidate((1.0,))], ASKED)
    assert not any(module._forward_hooks for module in stacked._model.modules())
    stacked.ask([AdapterFolder(experts[0]), MIX], ASKED)
    assert stacked.ask([BASE], ASKED) == before


@pytest.mark.parametrize("space", ["delta", "factors"])
def test_layer_groups_and_copies_stack_as_they_merge(base: Path, experts: list[Path], space) -> None:
    """Every option of the hull means the same in both modes: groups, sparse copies, the base as a column."""
    options = HullOptions(include_base=True, sparse_copies=1, layer_groups=2)
    slope = Candidate(tuple(n / 7 - 0.5 for n in range(options.dimensions(2))), space)
    level = Candidate((0.5,) * options.dimensions(2), space)
    told = []
    for mode in ("merged", "stacked"):
        made = TransformersEngine.load(base, mode=mode)
        made.set_experts(experts, options)
        told.append(totals(made, slope, level))
    assert told[1][0] == pytest.approx(told[0][0], abs=1e-3)
    assert told[1][1] == pytest.approx(told[0][1], abs=1e-3)
    assert told[0][0] != pytest.approx(told[0][1], abs=1e-2)


def test_experts_change_scores(engine: TransformersEngine) -> None:
    """A candidate, each expert and the base all differ: no merge is silently without effect."""
    scores = totals(engine, *(Candidate(c) for c in ((1.0, 0.0), (0.0, 1.0), (0.8, -0.3), (0.0, 0.0))))
    assert len({tuple(round(s, 3) for s in row) for row in scores}) == 4
    base = [one.total for one in engine.ask([BASE], ASKED)[0].likelihoods]
    assert scores[3] == pytest.approx(base, abs=1e-6)


def test_another_adapter_in_the_same_folder_is_another_adapter(
    base: Path, engine: TransformersEngine, tmp_path: Path
) -> None:
    """What was read from a folder is not kept beyond the file."""
    told = []
    for seed in (5, 6):
        make_expert(base, tmp_path / "adapter", seed=seed)
        told.append(engine.ask([AdapterFolder(tmp_path / "adapter")], ASKED)[0])
    assert told[0] != told[1]


def test_modes_are_named(base: Path) -> None:
    """An unknown mode is refused; engines that differ have different identities."""
    with pytest.raises(ValueError, match="merged, stacked"):
        TransformersEngine.load(base, mode="parallel")  # type: ignore[arg-type]
    kinds = [
        TransformersEngine.load(base, mode=mode, dtype=dtype)
        for mode, dtype in (("merged", None), ("stacked", None), ("merged", torch.bfloat16))
    ]
    assert len({kind.identity for kind in kinds}) == 3


def test_bfloat16_is_float32_roughly(base: Path, experts: list[Path], engine: TransformersEngine) -> None:
    """The dtype of a GPU, in both modes: the same scores to its precision."""
    expected = totals(engine, MIX)[0]
    for mode in ("merged", "stacked"):
        rough = TransformersEngine.load(base, experts, dtype=torch.bfloat16, mode=mode)
        assert totals(rough, MIX)[0] == pytest.approx(expected, rel=0.05, abs=0.5)


def test_what_is_shared_is_read_once() -> None:
    """Options of an item, and items with one instruction, share their beginnings; nobody else's."""
    options = [pair("a question of some length: ", answer) for answer in ("one", "two", "three")]
    nodes = packs(options, share=True)
    assert len(nodes) == 1
    assert len(nodes[0]) < len(options[0].prompt) + sum(len(option.answer) for option in options)
    assert sum(len(one) for one in packs(options, share=False)) == sum(len(option) - 1 for option in options)
    assert nodes[0].speaking <= 1 + sum(len(option.answer) - 1 for option in options)


def test_a_pack_is_a_tree_of_its_questions() -> None:
    """A node sees its ancestors, itself and nobody else, at its own depth."""
    questions = [pair("ab", "cd"), pair("ab", "ce"), pair("ab", "x"), pair("abc", "d")]
    (pack,) = packs(questions, share=True)
    for row, question in enumerate(questions):
        path = question.prompt + question.answer
        for node, target in zip(pack.nodes[pack.rows == row], pack.targets[pack.rows == row], strict=True):
            at = len(pack) - pack.speaking + node
            seen = np.flatnonzero(pack.sees[at])
            before = [int(token) for _, token in sorted(zip(pack.depths[seen], pack.tokens[seen], strict=True))]
            assert tuple(before) == path[: pack.depths[at] + 1]
            assert path[pack.depths[at] + 1] == target


@pytest.mark.parametrize("share", [False, True])
def test_packs_hold_every_question_within_bounds(share: bool) -> None:
    """Each question is in one pack, whole; packs are no longer than they may be."""
    random = np.random.default_rng(3)
    questions = [
        pair("x" * random.integers(1, 40) + "y" * random.integers(0, 9), "z" * random.integers(1, 9)) for _ in range(60)
    ]
    made = packs(questions, share=share)
    rows = np.concatenate([one.rows for one in made])
    assert {row: int((rows == row).sum()) for row in range(60)} == {
        row: len(question.answer) for row, question in enumerate(questions)
    }
    assert max(len(one) for one in made) <= max(PACK, 2 * max(len(question) for question in questions))
    assert made == sorted(made, key=len)


def test_likelihoods_of_trees_are_those_of_rows(model: MergedModel) -> None:
    """Shared beginnings, answers that are beginnings of others, one token or many: read together as read alone."""
    questions = [pair("tell ", a) for a in ("me", "m", "more", "x")] + [pair("tell m", "e"), pair("q", "zz")]
    for limits in (forward_file.ON_CPU, Limits(10, 300, 1)):
        alone = [likelihoods(model, packs([q], share=False), 1, 1, limits)[0, 0] for q in questions]
        together = likelihoods(model, packs(questions, share=True), 1, len(questions), limits)[0]
        assert together == pytest.approx(alone, abs=1e-3)


def test_a_model_that_cannot_read_trees_is_noticed(model: MergedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes no mask of its own gets rows, and no wrong score."""
    assert reads_trees(model, 256)

    class OrdinaryMasksOnly(MergedModel):
        def __call__(self, owners, **inputs):
            if inputs["attention_mask"].ndim != 2:
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])  # as if nobody had said anything
            return super().__call__(owners, **inputs)

    assert not reads_trees(OrdinaryMasksOnly(model.model), 256)
    monkeypatch.setattr(model.model.config, "sliding_window", 8, raising=False)
    assert not model.may_share([pair("longer than", " eight")])
    assert model.may_share([pair("short", "er")])


def test_sliding_attention_reads_trees_within_its_window() -> None:
    """Gemma 3: layers that see a window, and layers that see all. What fits the window is shared; what does not is not;
    both score as each question alone."""
    torch.manual_seed(2)
    config = Gemma3TextConfig(
        vocab_size=98, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=16, max_position_embeddings=64, initializer_range=0.3,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    gemma = MergedModel(Gemma3ForCausalLM(config).eval().requires_grad_(False))
    for prompt, shared in (("ten tokens", True), ("a prompt of more than sixteen", False)):
        questions = [pair(prompt, answer) for answer in ("me", "more", "x")]
        assert gemma.may_share(questions) == shared
        alone = [likelihoods(gemma, packs([q], share=False), 1, 1, forward_file.ON_CPU)[0, 0] for q in questions]
        together = likelihoods(gemma, packs(questions, share=shared), 1, 3, forward_file.ON_CPU)[0]
        assert together == pytest.approx(alone, abs=1e-3)
        whole = torch.tensor([questions[1].prompt + questions[1].answer])
        with torch.no_grad():
            log_p = gemma.model(input_ids=whole).logits[0].log_softmax(-1)
        expected = sum(float(log_p[len(prompt) + i - 1, token]) for i, token in enumerate(questions[1].answer))
        assert together[1] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("mode", ["merged", "stacked"])
def test_each_pass_of_the_model_is_told_and_may_be_the_last(base: Path, experts: list[Path], mode: Mode) -> None:
    """The replies are those of an engine that nobody watches; what is raised before a pass ends the question, and the next one
    is answered as ever."""
    engine, passes = TransformersEngine.load(base, experts, mode=mode), []
    unwatched = engine.ask([MIX, BASE], ASKED)

    def watch() -> None:
        passes.append(1)
        if len(passes) == limit:
            raise InterruptedError

    limit, engine.on_pass = 0, watch
    assert engine.ask([MIX, BASE], ASKED) == unwatched
    assert len(passes) > ASKED.max_tokens / 2
    for limit in range(1, len(passes), 5):
        passes.clear()
        with pytest.raises(InterruptedError):
            engine.ask([MIX, BASE], ASKED)
        assert len(passes) == limit
    engine.on_pass = lambda: None
    assert engine.ask([MIX, BASE], ASKED) == unwatched


def test_a_model_that_mixes_rows_cannot_be_stacked(base: Path, experts: list[Path]) -> None:
    """Where a linear module does not see the rows of the batch, the refusal names the mode that can."""
    stacked = TransformersEngine.load(base, experts, mode="stacked")
    assert stacked._stacked is not None
    with stacked._stacked.at([MIX.coefficients], "delta"), pytest.raises(ValueError, match="mode='merged'"):
        stacked._stacked.model.get_submodule("model.layers.0.self_attn.q_proj")(torch.zeros(6, 128))


def test_only_linear_modules_that_are_there_are_adapted(base: Path, experts: list[Path]) -> None:
    """Experts of another architecture are refused by module name, and the base stays intact."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    other = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64))
    with pytest.raises(ValueError, match="has no module"):
        TransformersEngine(other, tokenizer, mode="stacked").set_experts(experts)
    merged = TransformersEngine(other, tokenizer)
    merged.set_experts(experts)
    with pytest.raises(ValueError, match="has no module"):
        merged.ask([MIX], Asked(likelihoods=(Question("a", "b"),)))
    assert merged.ask([BASE], Asked(likelihoods=(Question("a", "b"),)))


def test_rows_that_ended_make_room(base: Path, model: MergedModel) -> None:
    """Rows leave a batch when they end, and the others go on as if nothing had happened."""
    chat, sizes = Chat.load(base), []

    class Counting(MergedModel):
        def __call__(self, owners, **inputs):
            sizes.append(len(owners))
            return super().__call__(owners, **inputs)

    prompts = [chat.prompt_tokens(prompt) for prompt in PROMPTS]
    # Many tokens at which an answer ends: rows end at different steps.
    stops = list(range(2, 60))
    together = greedy(Counting(model.model), prompts, [0] * len(prompts), 12, stops)
    assert together == [greedy(model, [prompt], [0], 12, stops)[0] for prompt in prompts]
    assert sizes[-1] < sizes[0] == len(prompts)
    assert len({len(answer) for answer in together}) > 1
    assert all(token not in stops for answer in together for token in answer[:-1])


def test_batches_are_rectangles_within_bounds() -> None:
    """Every row is in one batch; a batch holds like lengths and stays within its bounds; a giant is alone."""
    lengths = [5, 900, 3, 5, 40, 41, 4]
    made = batches(lengths, max_tokens=100, max_rows=3)
    assert sorted(row for batch in made for row in batch) == list(range(7))
    assert all(len(b) * max(lengths[row] for row in b) <= 100 or len(b) == 1 for b in made)
    assert max(len(batch) for batch in made) <= 3
    assert made[0] == [2, 6, 0]
    assert batches([], max_tokens=10) == []


def test_a_rectangle_pads_first() -> None:
    """Rows end together, so that one number says which logits are needed."""
    rectangle = Rectangle(packs([pair("abc", "de"), pair("x", "y")], share=False), [0, 0])
    inputs = rectangle.inputs(torch.float32)
    assert inputs["attention_mask"].tolist() == [[0, 0, 0, 1], [1, 1, 1, 1]]
    assert inputs["position_ids"].tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]
    assert rectangle.speaking == 2
