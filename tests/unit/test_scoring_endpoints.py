"""What scoring needs of an OpenAI-compatible endpoint, told to whoever gives it one that cannot; and adapters as files."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAIError

from swarm_worker.hull import HullOptions
from swarm_worker.scoring.adapters import AdapterWriter
from swarm_worker.scoring.engine import BASE, AdapterFolder, Asked, Candidate, Question
from swarm_worker.scoring.openai import EndpointRefused, OpenAIEngine
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import make_expert

READ = Asked(likelihoods=(Question("ab", "cd", closed=False),))
WRITE = Asked(answers=("ab", [{"role": "user", "content": "hi"}]), max_tokens=3)
MODELS = {
    "object": "list",
    "data": [{"id": "base", "object": "model", "created": 0, "owned_by": "x", "max_model_len": 64}],
}


class Endpoint:
    """A server whose answers a test decides. ``replies``: by path, (status, body) or what makes one of a request's body."""

    def __init__(self) -> None:
        self.replies: dict[str, Any] = {"/v1/models": (200, MODELS)}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply({})

            def do_POST(self) -> None:
                self._reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def _reply(self, body: dict[str, Any]) -> None:
                endpoint.asked.append((self.path, body))
                reply = endpoint.replies.get(self.path, (404, {"detail": "Not Found"}))
                status, answer = reply(body) if callable(reply) else reply
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def paths(self) -> list[str]:
        return [path.removeprefix("/v1/") for path, _ in self.asked]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def experts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("experts")
    return [make_expert(base, root / str(seed), seed=seed) for seed in (1, 2)]


@pytest.fixture
def engine(base: Path, experts: list[Path], endpoint: Endpoint, tmp_path: Path) -> OpenAIEngine:
    return OpenAIEngine.load(base, experts, url=endpoint.url, model="base", shared=tmp_path, max_loras=2, retries=1)


def completion(logprobs: Any = None, text: str = "said") -> Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]:
    choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": logprobs}
    return lambda body: (
        200,
        {"id": "x", "object": "text_completion", "created": 0, "model": body["model"], "choices": [choice]},
    )


def echoed(*values: float | None) -> dict[str, Any]:
    return {"token_logprobs": list(values), "tokens": ["x"] * len(values), "text_offset": [0] * len(values)}


def test_likelihoods_are_of_the_answers_tokens(engine: OpenAIEngine, endpoint: Endpoint) -> None:
    """The prompt goes out as tokens; what is summed begins where the answer does, and ends before what was generated."""
    endpoint.replies["/v1/completions"] = completion(echoed(None, -9.0, -1.0, -0.5, -7.0))
    told = engine.ask([BASE], READ)[0]
    assert told.likelihoods == ((-1.5, 2),)
    asked = dict(endpoint.asked)["/v1/completions"]
    assert (len(asked["prompt"]), asked["echo"], asked["model"]) == (4, True, "base")


def test_candidates_are_loaded_asked_by_their_own_names_and_unloaded(
    engine: OpenAIEngine, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Two places: two at a time; a name is never used again; nothing is left, neither there nor on disk."""
    there: list[bool] = []

    def load(body: dict[str, Any]) -> tuple[int, Any]:
        there.append((Path(body["lora_path"]) / "adapter_model.safetensors").exists())
        return 200, "ok"

    endpoint.replies |= {
        "/v1/load_lora_adapter": load,
        "/v1/unload_lora_adapter": (200, "ok"),
        "/v1/completions": completion(),
        "/v1/chat/completions": lambda body: (
            200,
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": body["model"]}}
                ],
            },
        ),
    }
    told = engine.ask([Candidate((n / 2, 1.0)) for n in range(3)] * 2, WRITE)
    names = [reply.answers[1] for reply in told]
    assert len(set(names)) == 6
    assert {reply.answers[0] for reply in told} == {"said"}
    moves = [path.removesuffix("_lora_adapter") for path in endpoint.paths() if path.endswith("_lora_adapter")]
    assert moves == ["load", "load", "unload", "unload"] * 3
    assert there == [True] * 6
    assert list(tmp_path.iterdir()) == []


def test_an_endpoint_that_cannot_load_adapters_is_told_how(engine: OpenAIEngine, endpoint: Endpoint) -> None:
    with pytest.raises(EndpointRefused, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        engine.ask([Candidate((0.5, 0.5))], WRITE)


@pytest.mark.parametrize(
    "reply",
    [
        (400, {"error": {"message": "echo is not supported"}}),
        completion(None),
        completion(echoed(-1.0)),
        completion(echoed(None, None, None, None)),
    ],
)
def test_an_endpoint_without_log_probabilities_is_told_what_is_missing(
    engine: OpenAIEngine, endpoint: Endpoint, reply: Any
) -> None:
    """Refused, echoed without numbers, only the generated token's, none at all: never a wrong score."""
    endpoint.replies["/v1/completions"] = reply
    with pytest.raises(EndpointRefused, match="echo and logprobs"):
        engine.ask([BASE], READ)


def test_a_passing_failure_is_tried_again_and_a_lasting_one_is_raised(engine: OpenAIEngine, endpoint: Endpoint) -> None:
    """And what went wrong first is what is told, also where unloading fails as well."""
    replies = [(500, {}), completion(echoed(None, -9.0, -1.0, -0.5))({"model": "base"})]
    endpoint.replies["/v1/completions"] = lambda _: replies.pop(0)
    assert engine.ask([BASE], READ)[0].likelihoods == ((-1.5, 2),)
    endpoint.replies |= {"/v1/completions": (503, {}), "/v1/load_lora_adapter": (200, "ok")}
    with pytest.raises(OpenAIError, match="503"):
        engine.ask([Candidate((0.5, 0.5))], READ)
    assert endpoint.paths()[-1] == "unload_lora_adapter"


def test_an_unknown_model_and_too_long_an_item_are_named(base: Path, engine: OpenAIEngine, endpoint: Endpoint) -> None:
    assert engine.context == 63
    with pytest.raises(ValueError, match="context of 63"):
        engine.ask([BASE], Asked(answers=("a" * 62,), max_tokens=2))
    with pytest.raises(EndpointRefused, match="no model 'other'; it has base"):
        OpenAIEngine.load(base, url=endpoint.url, model="other").ask([BASE], READ)


def test_written_adapters_are_cut_checked_and_deleted(base: Path, experts: list[Path], tmp_path: Path) -> None:
    """What an engine would refuse, or apply only in part, is refused before; folders live as long as they are used."""
    writer = AdapterWriter(4, ("q_proj", "v_proj", "down_proj"), tmp_path)
    with pytest.raises(ValueError, match="set_experts"):
        writer.check(Candidate((1.0, 0.0)))
    writer.set_experts(experts, HullOptions())
    with writer.written([Candidate((0.5, 0.5)), AdapterFolder(experts[0])]) as written:
        config = json.loads((written[0].folder / "adapter_config.json").read_text())
        assert config["r"] == 4  # the exact mix has rank 8
        assert written[1].folder == experts[0]
        assert len({adapter.number for adapter in written}) == len({adapter.name for adapter in written}) == 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="rank 4, the engine's max_lora_rank is 2"):
        AdapterWriter(2, None).check(AdapterFolder(experts[0]))
    with pytest.raises(ValueError, match="adapt down_proj"):
        AdapterWriter(8, ("q_proj", "v_proj")).set_experts(experts, HullOptions())
