"""`shoal search` and `shoal compare` on the starter pack: every example of docs/examples runs, and a killed one goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from registry.artifacts import digest_of_folder
from swarm_worker.offline import compare
from swarm_worker.offline import config as configs
from swarm_worker.offline import search as offline
from swarm_worker.offline.config import BudgetConfig, RunConfig
from swarm_worker.offline.scene import Scene
from tests.unit.tiny_classifier import make_letters, make_random

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


class Judging(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that likes long answers."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = asked["messages"][0]["content"].partition("<response>")[2].partition("</response>")[0].strip()
        rating = f"Rating: {min(10, 1 + len(answer))}/10"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": rating}}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    """The address of one that runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Judging) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


def filled(config: RunConfig, folder: Path, judge: str) -> RunConfig:
    """With a model or an endpoint where an example leaves a place for one's own."""
    name, mine = config.utility.name, dict(config.utility.options)
    if name in ("reward_model", "toxicity"):
        labels = {0: "reward"} if name == "reward_model" else {0: "clean", 1: "toxic"}
        names = {"id2label": labels, "label2id": {label: number for number, label in labels.items()}}
        mine["model"] = str(make_random(folder / "classifier", make_letters(folder / "letters"), **names))
    if name == "judge":
        mine["base_url"] = judge
    return config.model_copy(update={"utility": config.utility.model_copy(update={"options": mine})})


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda example: example.stem)
def test_every_example_runs(example: Path, tmp_path: Path, judge: str) -> None:
    """From its file to an adapter that `peft` loads, within its budget, with a report and a decision."""
    torch.set_num_threads(1)
    scene = Scene.of(filled(configs.load(example), tmp_path, judge))
    result = offline.run(scene, tmp_path / "out")
    assert 0 < result["search"]["item_generations"] <= (scene.budget or 0)
    assert result["confirm"]["evidence"]["n"] == scene.config.data.confirm
    assert result["test"]["scores"]["found"]["unjudged"] == 0
    assert result["adapter"]["digest"] == digest_of_folder(tmp_path / "out/adapter")
    assert result["formula"] in (tmp_path / "out/report.md").read_text()
    base = AutoModelForCausalLM.from_pretrained(scene.config.base)
    tokens = torch.arange(3, 11)[None]
    with torch.inference_mode():
        before = base(input_ids=tokens).logits.clone()
        after = PeftModel.from_pretrained(base, str(tmp_path / "out/adapter"))(input_ids=tokens).logits
    assert not torch.equal(before, after)


DIES = """
import os, signal
from swarm_worker.offline.journal import DiskCache
keep = DiskCache.__setitem__
def keep_and_die(cache, key, value):
    keep(cache, key, value)
    if len(cache) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
DiskCache.__setitem__ = keep_and_die
"""
"""What makes a search kill -9 itself in the middle of a generation: a ninth position is scored, no state knows of it."""


def test_a_killed_search_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """kill -9 amid its generations, then the same command: the same run.json but for times, the same adapter."""
    main = "from shoal.cli import main; main()"
    arguments = ["search", "--config", str(EXAMPLES / "exact_match.yaml"), "--json", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def shoal(out: Path, code: str = main) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments, str(out)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    def lasting(told: str) -> dict[str, Any]:
        return {key: value for key, value in json.loads(told).items() if key != "seconds"}

    undisturbed = lasting(shoal(tmp_path / "whole").stdout)
    killed = tmp_path / "killed"
    assert shoal(killed, DIES + main).returncode == -signal.SIGKILL
    assert not (killed / "run.json").exists()
    generations = json.loads((killed / "state.json").read_text())["generations"]
    assert 1 <= len(generations) < len(undisturbed["search"]["generations"])
    assert sum(len(one["positions"]) for one in generations) < 9
    assert lasting(shoal(killed).stdout) == undisturbed


def test_presets_baselines_and_controls_are_compared_on_the_starter_pack(tmp_path: Path) -> None:
    """One table; the paper's row is of its own space and score, and every contender is asked what users would ask."""
    torch.set_num_threads(1)
    example = configs.load(EXAMPLES / "multiple_choice.yaml")
    config = example.model_copy(update={"budget": BudgetConfig(evaluations=24)})  # the paper begins with 20 particles
    names = [
        "base",
        "best_expert",
        "prediction_merge",
        "uniform_soup",
        "random_in_hull",
        "scale_only",
        "paper",
        "shoal",
    ]
    result = compare.run(Scene.of(config), tmp_path, names, [0])
    assert [row["method"] for row in result["rows"]] == names
    assert not [row for row in result["rows"] if "refused" in row]
    assert all(0 <= row["test"] <= 1 for row in result["rows"])
