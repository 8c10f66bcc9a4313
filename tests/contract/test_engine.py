"""The promises of the Engine protocol, checked on every engine: the stub always, vLLM on this machine where e2e runs.

One engine serves the whole module, as in life: what one test leaves behind would be found by the next.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.engine import AdapterRefused, Engine, EngineError, EngineFull, EngineSettings, UnknownAdapter
from service.engines import make_engine
from tests.contract.tiny_adapter import make_adapter
from tests.contract.tiny_model import make_base

ROOM = 2  # max_loras: small, so that every place is taken soon

# vLLM's own warnings (deprecations inside torch and transformers) are not ours to fix.
VLLM = pytest.param("vllm", marks=[pytest.mark.e2e, pytest.mark.filterwarnings("default")])


class Bench:
    """A started engine, its adapters on disk, and the event loop that both live in."""

    def __init__(self, engine: Engine, folder: Path, runner: asyncio.Runner) -> None:
        self.engine = engine
        self.folder = folder
        self.run = runner.run
        self._made = 0

    def adapter(self, **how: Any) -> Path:
        """A new random adapter's folder."""
        self._made += 1
        return make_adapter(self.folder / f"adapter-{self._made}", self._made, **how)

    async def ask(self, model: str | None, text: str = "hello there", tokens: int = 12) -> str:
        messages = [{"role": "user", "content": text}]
        body = {"messages": messages, "max_tokens": tokens, "temperature": 0}
        answer = await self.engine.chat(body, model, "r")
        assert isinstance(answer, dict)
        assert answer["model"] == (model or self.engine.settings.served_base_name)
        return answer["choices"][0]["message"]["content"]

    async def clear(self) -> None:
        for name in await self.engine.held():
            await self.engine.remove(name)


@pytest.fixture(scope="module", params=["stub", VLLM])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("engine")
    base = make_base(folder / "base")
    settings = EngineSettings(
        base=str(base), dtype="float32", max_loras=ROOM, max_lora_rank=8, max_model_len=256, kv_cache_gib=0.25
    )
    with asyncio.Runner() as runner:
        engine = make_engine(request.param, settings)
        runner.run(engine.start())
        try:
            yield Bench(engine, folder, runner)
        finally:
            runner.run(engine.stop())


@pytest.fixture
def bench(started: Bench) -> Iterator[Bench]:
    yield started
    started.run(started.clear())


async def chunks(stream: Any) -> list[dict[str, Any]]:
    assert isinstance(stream, AsyncIterator)
    events = [event async for event in stream]
    assert events[-1] == "data: [DONE]\n\n"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def test_what_is_added_is_held_and_what_is_removed_is_not(bench: Bench) -> None:
    path = bench.adapter()
    bench.run(bench.engine.add("a@1", path))
    bench.run(bench.engine.add("a@1", path))
    assert bench.run(bench.engine.held()) == {"a@1"}
    bench.run(bench.engine.remove("a@1"))
    bench.run(bench.engine.remove("a@1"))
    assert bench.run(bench.engine.held()) == frozenset()


def test_every_answer_names_who_gave_it_also_in_every_chunk(bench: Bench) -> None:
    bench.run(bench.engine.add("b@1", bench.adapter()))
    messages = [{"role": "user", "content": "hi"}]

    async def streams() -> None:
        for model in ("b@1", None):
            for ask, body in (
                (bench.engine.chat, {"messages": messages, "max_tokens": 3, "stream": True}),
                (bench.engine.complete, {"prompt": "hi", "max_tokens": 3, "stream": True}),
            ):
                named = {chunk["model"] for chunk in await chunks(await ask(body, model, "r"))}
                assert named == {model or "base"}

    bench.run(streams())
    assert bench.run(bench.ask("b@1"))
    done = bench.run(bench.engine.complete({"prompt": "hi", "max_tokens": 3}, "b@1", "r7"))
    assert (done["model"], done["id"]) == ("b@1", "cmpl-r7")


def test_a_name_that_is_not_held_is_an_unknown_model(bench: Bench) -> None:
    with pytest.raises(UnknownAdapter) as caught:
        bench.run(bench.ask("nobody@1"))
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    with pytest.raises(UnknownAdapter):
        bench.run(bench.engine.probe("nobody@1", 10))


@pytest.mark.parametrize(
    ("wrong", "param"),
    [({"temperature": -1}, "temperature"), ({"max_tokens": "many"}, "max_tokens"), ({"messages": "hi"}, "messages")],
)
def test_a_bad_parameter_is_refused_by_name(bench: Bench, wrong: dict[str, Any], param: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **wrong}
    with pytest.raises(EngineError) as caught:
        bench.run(bench.engine.chat(body, None, "r"))
    assert (caught.value.status, caught.value.param) == (400, param)


def test_a_prompt_that_is_too_long_is_refused_before_a_stream_starts(bench: Bench) -> None:
    for stream in (True, False):
        with pytest.raises(EngineError) as caught:
            bench.run(bench.engine.complete({"prompt": "x " * 600, "stream": stream}, None, "r"))
        assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


def test_a_full_engine_refuses_one_more_and_keeps_what_it_has(bench: Bench) -> None:
    names = [f"full@{number}" for number in range(ROOM)]
    for name in names:
        bench.run(bench.engine.add(name, bench.adapter()))
    with pytest.raises(EngineFull):
        bench.run(bench.engine.add("full@99", bench.adapter()))
    assert bench.run(bench.engine.held()) == set(names)


def test_two_adds_at_once_do_not_share_the_last_place(bench: Bench) -> None:
    async def add_all() -> list[BaseException | None]:
        adds = (bench.engine.add(f"race@{number}", bench.adapter()) for number in range(ROOM + 2))
        return await asyncio.gather(*adds, return_exceptions=True)

    outcomes = bench.run(add_all())
    assert sum(isinstance(outcome, EngineFull) for outcome in outcomes) == 2
    assert len(bench.run(bench.engine.held())) == ROOM


def test_a_broken_adapter_is_refused_with_the_reason_and_nothing_is_left(bench: Bench) -> None:
    good = bench.adapter()
    cases = {
        "adapter_config.json is missing": bench.folder / "nowhere",
        "rank is 64": bench.adapter(rank=64),
        "NaN": bench.adapter(size=float("nan")),
        "lm_head": bench.adapter(modules=("lm_head",)),
    }
    bench.run(bench.engine.add("good@1", good))
    for number, (reason, path) in enumerate(cases.items()):
        with pytest.raises(AdapterRefused, match=reason):
            bench.run(bench.engine.add(f"bad@{number}", path))
    assert bench.run(bench.engine.held()) == {"good@1"}
    assert bench.run(bench.ask("good@1"))


def test_a_name_stands_for_one_path_for_ever(bench: Bench) -> None:
    path = bench.adapter()
    bench.run(bench.engine.add("once@1", path))
    bench.run(bench.engine.remove("once@1"))
    with pytest.raises(AdapterRefused, match="stands for"):
        bench.run(bench.engine.add("once@1", bench.adapter()))
    bench.run(bench.engine.add("once@1", path))
    assert bench.run(bench.engine.held()) == {"once@1"}


def test_the_probe_tells_an_adapter_from_one_that_does_nothing(bench: Bench) -> None:
    bench.run(bench.engine.add("real@1", bench.adapter()))
    bench.run(bench.engine.add("idle@1", bench.adapter(size=0.0)))
    real, idle = (bench.run(bench.engine.probe(name, 30)) for name in ("real@1", "idle@1"))
    assert (real.finite, real.differs) == (True, True)
    assert real.largest_difference > 0.1
    assert (idle.finite, idle.differs) == (True, False)


def test_answers_do_not_depend_on_who_else_is_in_the_batch(bench: Bench) -> None:
    """Also when every place has been filled and emptied before: vLLM's CPU LoRA op gives base-model rows of a mixed
    batch the weights of the last slot, if an adapter was ever in it."""
    rounds = 3
    for turn in range(rounds):
        names: list[str | None] = [f"mix{turn}@{number}" for number in range(ROOM)]
        for name in names:
            bench.run(bench.engine.add(str(name), bench.adapter()))
        everyone: list[str | None] = [None, *names]
        questions = [f"question {number}, please" for number in range(4)]
        alone = {(model, text): bench.run(bench.ask(model, text)) for model in everyone for text in questions}

        async def together(pairs: list[tuple[str | None, str]]) -> list[str]:
            return await asyncio.gather(*(bench.ask(model, text) for model, text in pairs))

        pairs = list(alone) * 3
        assert bench.run(together(pairs)) == [alone[pair] for pair in pairs]
        assert len({alone[model, questions[0]] for model in everyone}) == len(everyone)
        bench.run(bench.clear())


def test_a_cancelled_answer_and_a_closed_stream_leave_the_engine_answering(bench: Bench) -> None:
    async def leave() -> None:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 200}
        waiting = asyncio.create_task(bench.engine.chat({**body, "ignore_eos": True}, None, "r"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        stream = await bench.engine.chat({**body, "stream": True}, None, "r")
        await anext(aiter(stream))
        await stream.aclose()
        unstarted = await bench.engine.chat({**body, "stream": True}, None, "r")
        await unstarted.aclose()

    bench.run(leave())
    assert bench.run(bench.ask(None))
    assert bench.engine.alive
