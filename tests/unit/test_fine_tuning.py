"""Gradient steps: repeatable to the byte, on the answers' tokens only, from the start's own function."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from swarm_worker import fine_tuning
from swarm_worker.fine_tuning import fine_tune
from swarm_worker.scoring.engine import BASE, AdapterFolder, Asked, Question, Scored
from swarm_worker.scoring.token_mix import TokenMixEngine
from swarm_worker.scoring.transformers import TransformersEngine
from swarm_worker.utilities import UTILITIES, Item, Utility, make, measure
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import logits_of, make_expert

ITEMS = [
    Item(messages=[{"role": "user", "content": f"say {word}"}], good=word[::-1])
    for word in ("one", "two", "three", "four", "five")
] + [Item(prompt="two plus two is ", good="four")]
QUICK = {"steps": 3, "rate": 1e-2, "batch": 4, "seed": 1}


WAYS: dict[str, Utility] = {
    "text": make("multiple_choice", normalise="sum"),
    "answer": make("multiple_choice", mode="answer", max_tokens=3),
    "multi": make(
        "multi",
        tasks={"text": "multiple_choice", "letter": {"name": "multiple_choice", "mode": "answer", "max_tokens": 3}},
    ),
}


def choices(messages: bool) -> list[Item]:
    asked = [("ice", "hot", "cold", "B", "text"), ("sun", "hot", "cold", "A", "text")]
    asked += [("sky", "blue", "red", "A", "letter"), ("lip", "blue", "red", "B", "letter")]
    return [
        Item(
            messages=[{"role": "user", "content": question}] if messages else None,
            prompt=None if messages else question,
            choices={"A": a, "B": b},
            good=good,
            task=task,
        )
        for question, a, b, good, task in asked
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def engine(base: Path) -> TransformersEngine:
    return TransformersEngine.load(base)


@pytest.fixture(scope="module")
def start(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_expert(base, tmp_path_factory.mktemp("start"), seed=3, size=0.02, lora_dropout=0.5)


def log_likelihood(engine: TransformersEngine, scored: Scored) -> float:
    """Of all good answers together, in nats."""
    asked = Asked(likelihoods=tuple(Question(item.question, item.right) for item in ITEMS))
    return sum(likelihood.total for likelihood in engine.ask([scored], asked)[0].likelihoods)


def test_the_same_call_writes_the_same_bytes(base: Path, start: Path, tmp_path: Path) -> None:
    """A training depends on its arguments only, although the start has dropout; another seed is another training."""
    torch.manual_seed(1)
    one = fine_tune(base, start, ITEMS, folder=tmp_path / "one", **QUICK)
    torch.manual_seed(2)
    same = fine_tune(base, start, ITEMS, folder=tmp_path / "same", **QUICK)
    other = fine_tune(base, start, ITEMS, folder=tmp_path / "other", **QUICK | {"seed": 2})
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (one / name).read_bytes() == (same / name).read_bytes()
    assert (one / "adapter_model.safetensors").read_bytes() != (other / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("fresh", [True, False])
def test_good_answers_become_likelier(base: Path, start: Path, engine, tmp_path: Path, fresh: bool) -> None:
    """From an adapter and from nothing, steps raise the likelihood of the good answers."""
    begun: Scored = BASE if fresh else AdapterFolder(start)
    folder = fine_tune(
        base, None if fresh else start, ITEMS, steps=20, rate=1e-2, batch=6, seed=1, folder=tmp_path / "tuned", rank=2
    )
    assert log_likelihood(engine, AdapterFolder(folder)) > log_likelihood(engine, begun) + 10


@pytest.mark.parametrize(("name", "messages"), [("text", False), ("answer", True), ("multi", False)])
def test_what_is_trained_on_is_what_the_utility_scores(
    base: Path, engine: TransformersEngine, tmp_path: Path, name: str, messages: bool
) -> None:
    """Trained on choices as a utility asks them, a fresh adapter gets all of them right by that utility; the base does not."""
    utility, items = WAYS[name], choices(messages)
    folder = fine_tune(
        base, None, items, steps=30, rate=2e-2, batch=4, seed=1, folder=tmp_path / "tuned", utility=utility
    )
    before, after = measure(utility, engine, [BASE, AdapterFolder(folder)], items)
    assert before.utility < 1.0
    assert after.utility == 1.0


def test_a_choice_needs_somebody_who_asks_it(base: Path, tmp_path: Path) -> None:
    """An item does not say whether it is asked for a letter or for words, and a toxicity has no right answer."""
    with pytest.raises(ValueError, match="has choices: utility must say how they are asked"):
        fine_tune(base, None, choices(False), folder=tmp_path / "tuned", **QUICK)
    with pytest.raises(ValueError, match="toxicity rates answers and knows no right one"):
        fine_tune(base, None, ITEMS, folder=tmp_path / "tuned", utility=UTILITIES["toxicity"], **QUICK)


def test_a_pickled_base_is_loaded_by_nobody(base: Path, tmp_path: Path) -> None:
    """Unpickling runs whatever code a file holds: a base without safetensors is an error."""
    pickled = tmp_path / "pickled"
    shutil.copytree(base, pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    loaders: list[Callable[[], object]] = [
        lambda: TransformersEngine.load(pickled),
        lambda: TokenMixEngine.load(pickled),
        lambda: TokenMixEngine.load(base, [pickled]),
        lambda: fine_tune(pickled, None, ITEMS, folder=tmp_path / "tuned", **QUICK),
    ]
    for load in loaders:
        with pytest.raises(OSError, match="safetensors"):
            load()


def test_the_loss_is_of_the_answers_tokens_only(base: Path, start: Path, engine) -> None:
    """What a step goes down is minus the log-likelihood that a scoring engine tells of the same answers."""
    model, chat = fine_tuning._load(base, start, 8)
    pairs = [chat.tokenise(item.question, item.right) for item in ITEMS]
    loss = float(fine_tuning._loss(model, pairs).detach())
    assert loss == pytest.approx(-log_likelihood(engine, AdapterFolder(start)), rel=1e-5)


def test_a_training_begins_at_its_start(base: Path, start: Path, tmp_path: Path) -> None:
    """With a rate of almost nothing the written adapter is the start: its scaling (alpha / r = 2 here) is kept."""
    folder = fine_tune(base, start, ITEMS, folder=tmp_path / "still", **QUICK | {"rate": 1e-12})
    torch.testing.assert_close(logits_of(base, folder), logits_of(base, start), atol=1e-4, rtol=1e-4)


def test_a_batch_may_take_several_passes(
    base: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch too large for one pass gives the same gradients in several."""
    whole = fine_tune(base, start, ITEMS, folder=tmp_path / "whole", **QUICK)
    monkeypatch.setattr(fine_tuning, "BATCH_TOKENS", 1)
    parts = fine_tune(base, start, ITEMS, folder=tmp_path / "parts", **QUICK)
    torch.testing.assert_close(logits_of(base, parts), logits_of(base, whole), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("items", "batch"), [(5, 2), (4, 8), (1, 1)])
def test_every_item_comes_before_any_comes_again(items: int, batch: int) -> None:
    """Whatever the batch, an epoch is each item once."""
    batches = list(itertools.islice(fine_tuning._orders(items, batch, seed=1), 10))
    assert all(len(rows) == batch for rows in batches)
    flat = [row for rows in batches for row in rows]
    epochs = [flat[begin : begin + items] for begin in range(0, len(flat) - items + 1, items)]
    assert all(sorted(epoch) == list(range(items)) for epoch in epochs)


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    """A tenth of the steps up to the peak, then down; a single step has the whole rate."""
    shares = [fine_tuning._share_of_rate(step, 50) for step in range(50)]
    assert max(shares) == 1.0
    assert shares.index(1.0) == 4
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert shares[-1] == pytest.approx(0.1)
    assert fine_tuning._share_of_rate(0, 1) == 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"rate": float("nan")}, "rate must be a number above 0"),
        ({"rate": 1e30, "steps": 5}, "diverged at step .* of 5"),
        ({"items": []}, "items must be one or more"),
        ({"items": [Item(prompt="a", bad="b")]}, "no good answer"),
        ({"items": [Item(prompt="a", good="b" * 300)]}, "300|301|302"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(
    base: Path, start: Path, tmp_path, wrong, message
) -> None:
    """Each refusal names what was wrong, and there is no folder after it."""
    arguments = {"items": ITEMS, **QUICK, **wrong}
    with pytest.raises(ValueError, match=message):
        fine_tune(base, start, arguments.pop("items"), folder=tmp_path / "tuned", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_kept(base: Path, start: Path, tmp_path: Path) -> None:
    """Nothing is written over."""
    with pytest.raises(FileExistsError):
        fine_tune(base, start, ITEMS, folder=tmp_path, **QUICK)
