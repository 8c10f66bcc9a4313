"""The promises of the ScoringEngine protocol, checked on every engine: transformers always, vLLM and an endpoint where
e2e runs.

What an engine must say is computed here, item by item, on a plain model with the mix added to its weights. One engine
serves the whole module, as in life: what one question leaves behind would be found by the next.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from swarm_worker.hull import ExpertStack
from swarm_worker.scoring.chat import Chat
from swarm_worker.scoring.engine import BASE, AdapterFolder, Asked, Candidate, Question, Scored, ScoringEngine, Told
from swarm_worker.scoring.transformers import TransformersEngine
from tests.contract.tiny_model import CONTEXT, make_base
from tests.unit.tiny_experts import load_base, make_expert

RANK = 8  # max_lora_rank: what a mix of both experts needs exactly
TOLERANCE = 2e-3  # nats of an answer of up to a dozen tokens, float32

MIXES = [Candidate((0.8, -0.3)), Candidate((1.0, 0.0)), Candidate((0.3, 0.7)), Candidate((0.5, 0.5), "factors")]
EVERYONE: list[Scored] = [*MIXES, BASE]
PROMPTS = [[{"role": "user", "content": "tell me " + "more " * n}] for n in range(6)]
QUESTIONS = (
    *(Question(prompt, "yes" + "!" * (7 * n % 11)) for n, prompt in enumerate(PROMPTS)),
    *(Question(PROMPTS[4], option, closed=False) for option in ("a", "ab", "because", "no")),
    Question("plain text, ", "and more"),
)
ASKED = Asked(likelihoods=QUESTIONS, answers=(*PROMPTS, "abc"), max_tokens=10)

# vLLM's own warnings (deprecations inside torch and transformers) are not ours to fix.
E2E = [pytest.mark.e2e, pytest.mark.filterwarnings("default")]
ENGINES = [
    "merged",
    "stacked",
    pytest.param("vllm", marks=E2E),
    pytest.param("openai", marks=E2E),
]


@dataclass(frozen=True)
class Bench:
    """An engine, and the folders that it was made from."""

    engine: ScoringEngine
    base: Path
    experts: list[Path]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def experts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root, modules = tmp_path_factory.mktemp("experts"), ["q_proj", "k_proj", "down_proj"]
    return [
        make_expert(base, root / "one", seed=1, target_modules=modules),
        make_expert(base, root / "two", seed=2, target_modules=modules[:2]),
    ]


@pytest.fixture(scope="module", params=ENGINES)
def started(request: pytest.FixtureRequest, base: Path, experts: list[Path]) -> Iterator[Bench]:
    with contextlib.ExitStack() as exits:
        if request.param in ("merged", "stacked"):
            engine: ScoringEngine = TransformersEngine.load(base, mode=request.param)
        elif request.param == "vllm":
            from swarm_worker.scoring.vllm import VllmEngine

            # Two places for four mixes: they come in turns.
            vllm = VllmEngine.load(
                base, dtype="float32", max_loras=2, max_lora_rank=RANK, kv_cache_gib=0.25, max_model_len=CONTEXT
            )
            exits.callback(vllm.close)
            engine = vllm
        else:
            from swarm_worker.scoring.openai import OpenAIEngine

            url = exits.enter_context(_vllm_server(base))
            engine = OpenAIEngine.load(base, url=url, model="base", max_loras=2, max_lora_rank=RANK)
        with pytest.raises(ValueError, match="set_experts"):
            engine.ask([MIXES[0]], ASKED)
        engine.set_experts(experts)
        yield Bench(engine, base, experts)


@pytest.fixture
def engine(started: Bench) -> ScoringEngine:
    return started.engine


@contextlib.contextmanager
def _vllm_server(base: Path) -> Iterator[str]:
    """A real vLLM server that may load adapters while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = ["-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(base), "--served-model-name", "base"]
    line += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", str(CONTEXT)]
    line += ["--enable-lora", "--max-loras", "3", "--max-cpu-loras", "3", "--max-lora-rank", str(RANK)]
    line += ["--lora-target-modules", "q_proj", "k_proj", "down_proj"]
    line += ["--kv-cache-memory-bytes", str(2**28), "--enforce-eager"]
    more = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    server = subprocess.Popen([sys.executable, *line], env={**os.environ, **more})
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5):
                    break
            except OSError:
                assert server.poll() is None, "the vLLM server ended while it was starting"
                assert time.monotonic() < deadline, "the vLLM server did not start within 240 s"
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def expected(base: Path, experts: list[Path]) -> list[Told]:
    """What each of EVERYONE says, from the definition: no batch, no cache, no adapter code but the hull's."""
    chat, stack, told = Chat.load(base), ExpertStack.load(experts), []
    for one in EVERYONE:
        model = load_base(base)
        if isinstance(one, Candidate):
            for name in stack.modules:
                with torch.no_grad():
                    model.get_submodule(name).weight += stack.update(name, one.coefficients, one.space)
        tokenised = chat.tokenise_all(ASKED, CONTEXT)
        totals = [_total(model, pair.prompt, pair.answer) for pair in tokenised.pairs]
        answers = [chat.text_of(_greedy(model, prompt, ASKED.max_tokens)) for prompt in tokenised.prompts]
        told.append(tokenised.told(totals, answers))
    return told


@torch.no_grad()
def _total(model: PreTrainedModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    log_p = model(input_ids=torch.tensor([prompt + answer])).logits.log_softmax(-1)[0]
    return sum(float(log_p[len(prompt) + i - 1, token]) for i, token in enumerate(answer))


@torch.no_grad()
def _greedy(model: PreTrainedModel, prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == 2:  # </s>
            break
    return tokens[len(prompt) :]


def same(told: Told, other: Told) -> bool:
    totals, others = ([(one.total, one.tokens) for one in reply.likelihoods] for reply in (told, other))
    assert [tokens for _, tokens in totals] == [tokens for _, tokens in others]
    assert [total for total, _ in totals] == pytest.approx([total for total, _ in others], abs=TOLERANCE)
    assert told.answers == other.answers
    return True


def test_replies_are_what_the_definition_says(engine: ScoringEngine, expected: list[Told]) -> None:
    """Likelihoods summed over the answer's tokens, closed and open, chat and text; greedy answers; all in order."""
    told = engine.ask(EVERYONE, ASKED)
    assert len(told) == len(EVERYONE)
    assert all(map(same, told, expected))
    assert len({reply.answers for reply in expected}) == len(EVERYONE), "mixes that say the same would prove nothing"


def test_a_reply_does_not_depend_on_who_else_is_asked(engine: ScoringEngine, expected: list[Told]) -> None:
    """Alone, in another order, twice: every mix, and the base between them, says the same."""
    for one, told in zip(EVERYONE, expected, strict=True):
        same(engine.ask([one], ASKED)[0], told)
    backwards = engine.ask([*EVERYONE[::-1], EVERYONE[0]], ASKED)
    assert all(map(same, backwards, [*expected[::-1], expected[0]]))


def test_a_reply_does_not_depend_on_its_neighbours(engine: ScoringEngine, expected: list[Told]) -> None:
    """Questions alone, and in another order."""
    alone = [engine.ask(EVERYONE[:2], Asked(likelihoods=(question,))) for question in QUESTIONS]
    for number in range(2):
        joined = Told(tuple(told[number].likelihoods[0] for told in alone), expected[number].answers)
        same(joined, expected[number])
    turned = Asked(likelihoods=QUESTIONS[::-1], answers=ASKED.answers[::-1], max_tokens=ASKED.max_tokens)
    told = engine.ask([MIXES[0]], turned)[0]
    same(Told(told.likelihoods[::-1], told.answers[::-1]), expected[0])


def test_a_reply_does_not_depend_on_earlier_questions(engine: ScoringEngine, expected: list[Told]) -> None:
    """Thirty other positions later, mixes and base are what they were."""
    for start in range(0, 30, 10):
        others = [Candidate((n / 10, -n / 20), "factors" if n % 2 else "delta") for n in range(start, start + 10)]
        engine.ask(others, Asked(likelihoods=QUESTIONS[:1]))
    assert all(map(same, engine.ask(EVERYONE, ASKED), expected))


def test_a_written_adapter_is_the_point_it_came_from(started: Bench, expected: list[Told], tmp_path: Path) -> None:
    """What users would get says what the position said: an exact mix, and an expert's own folder; beside the base."""
    ExpertStack.load(started.experts).write(
        MIXES[0].coefficients, tmp_path / "mix", space="delta", max_rank=RANK, dtype="float32"
    )
    told = started.engine.ask([AdapterFolder(tmp_path / "mix"), BASE, AdapterFolder(started.experts[0])], ASKED)
    assert all(map(same, told, [expected[0], expected[-1], expected[1]]))


def test_other_experts_are_another_hull(started: Bench, expected: list[Told]) -> None:
    """The same coefficients mean other weights once the experts are others; a repeated call changes nothing."""
    started.engine.set_experts(started.experts[::-1])
    try:
        same(started.engine.ask([Candidate(MIXES[0].coefficients[::-1])], ASKED)[0], expected[0])
    finally:
        started.engine.set_experts(started.experts)
        started.engine.set_experts(started.experts)
    same(started.engine.ask([MIXES[0]], ASKED)[0], expected[0])


def test_nothing_asked_is_nothing_told(engine: ScoringEngine) -> None:
    assert engine.ask([], ASKED) == []
    assert engine.ask([MIXES[0], BASE], Asked()) == [Told(), Told()]


@pytest.mark.parametrize(
    ("scored", "asked", "says"),
    [
        (Candidate((1.0,)), ASKED, "1 coefficients for"),
        (MIXES[0], Asked(likelihoods=(Question("a" * CONTEXT, "b"),)), "does not fit"),
        (MIXES[0], Asked(answers=("a" * (CONTEXT - 10),), max_tokens=20), "does not fit"),
        (BASE, Asked(likelihoods=(Question("a", "", closed=False),)), "must not be empty"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    engine: ScoringEngine, expected: list[Told], scored: Scored, asked: Asked, says: str
) -> None:
    """One sentence that names what is wrong, and an engine that goes on as before."""
    with pytest.raises(ValueError, match=says):
        engine.ask([BASE, scored], asked)
    same(engine.ask([BASE], ASKED)[0], expected[-1])


def test_what_fits_exactly_is_answered(engine: ScoringEngine) -> None:
    """The context is what an engine says it is."""
    question = Question("a" * (engine.context - 3), "bcd", closed=False)
    assert engine.length(question.prompt, "bc") == engine.context
    assert engine.ask([MIXES[0]], Asked(likelihoods=(question,)))[0].likelihoods[0].tokens == 3
