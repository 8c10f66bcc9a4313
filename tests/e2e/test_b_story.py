"""The main job on real parts: rate, adapt, swap, roll back, while clients keep asking. Tests run in the order of the file."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import pytest
from openai import OpenAI

from shoal.client import Client
from shoal.errors import ApiError
from shoal.up import Up
from starter.load import Answered, Load, ask
from starter.mixing import check_mixing
from starter.skills import Item, items

BOT = "support-bot"


def shoal(up: Up, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a user types it."""
    command = [sys.executable, "-c", "from shoal.cli import main; main()", *words, "--url", up.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


def test_a_champion_moves_under_load_without_a_trace(up: Up, client: Client, openai: OpenAI) -> None:
    """Thirty moves while four clients ask, half of them streaming: none fails, none mixes two versions."""
    moves: list[float] = []
    with Load(up.url, BOT, itertools.cycle(items("blend", "traffic", 500, seed=1)), clients=4, pause=0) as load:
        assert load.wait_for(lambda answers: len(answers) >= 20, timeout=120)
        for turn in range(15):
            client.promote(BOT, 2, reason=f"turn {turn}")
            moves.append(time.time())
            time.sleep(0.2)
            client.rollback(BOT)
            moves.append(time.time())
            time.sleep(0.2)
    assert [answer.error for answer in load.answers if answer.error] == []

    def again(version: str, asked: Sequence[Item]) -> list[str]:
        return [ask(openai, version, item).text for item in asked]

    check = check_mixing(load.answers, (f"{BOT}@1", f"{BOT}@2"), moves, again, at_least=60)
    assert check.checked >= 40
    assert check.mixed == 0, check.examples
    assert {answer.version for answer in load.answers} == {f"{BOT}@1", f"{BOT}@2"}

    wrong = [_relabelled(answer) for answer in load.answers]
    assert check_mixing(wrong, (f"{BOT}@1", f"{BOT}@2"), moves, again, at_least=20).mixed > 0


def _relabelled(answer: Answered) -> Answered:
    """The same answer with the other version's name on it."""
    other = {f"{BOT}@1": f"{BOT}@2", f"{BOT}@2": f"{BOT}@1"}[answer.version]
    return Answered(answer.item, answer.request_id, other, answer.text, answer.streamed, answer.began, answer.ended)


@pytest.fixture(scope="module")
def rated(up: Up) -> list[Answered]:
    """400 answers of the champion, rated up where they are right and corrected where they are not, by request id."""
    asked = items("blend", "traffic", 400, seed=2)
    with Load(up.url, BOT, itertools.cycle(asked), clients=4, pause=0) as load:
        assert load.wait_for(lambda answers: len({a.item.digest for a in answers}) >= 400, timeout=300)
    answers = list({answer.item.digest: answer for answer in load.answers}.values())
    told = [
        {"request_id": a.request_id, "id": f"e2e-{a.request_id}"}
        | ({"rating": "up"} if a.right else {"correction": a.item.answer})
        for a in answers
    ]
    with Client(up.url) as client:
        first = client.send_feedback(told)
        again = client.send_feedback(told)
    assert (first["accepted"], again["accepted"], again["repeated"]) == (len(told), 0, len(told))
    return answers


def test_feedback_is_kept_with_the_version_that_answered(client: Client, rated: list[Answered]) -> None:
    """Feedback by request id carries prompt, answer and version of the interaction that it judges."""
    kept = client.feedback(BOT, limit=1000)["feedback"]
    by_request = {record["request_id"]: record for record in kept}
    for answer in rated[:50]:
        record = by_request[answer.request_id]
        assert (f"{BOT}@{record['version']}", record["answer"]) == (answer.version, answer.text)
        assert record["messages"][0]["content"] == answer.item.prompt


def test_a_run_survives_a_killed_worker_and_ends_in_a_promotion(up: Up, client: Client, rated: list[Answered]) -> None:
    """The scoring worker is killed -9 in mid-run: the run goes on by itself, and what it finds is promoted and served."""
    run = client.start_run(adapter=BOT, seed=11, max_generations=16)
    second = shoal(up, "adapt", BOT, "--no-watch")
    assert second.returncode == 1
    assert "still going" in second.stderr
    for state in client.run_events(run["id"]):
        if state["generation"] >= 2:
            break
    up.kill("score", signal.SIGKILL)
    *_, final = client.run_events(run["id"])
    assert (final["status"], final["promoted"]) == ("done", True), final["outcome"]
    assert client.adapter(BOT)["rollout"]["champion"] == final["version"]
    lineage = json.loads(shoal(up, "lineage", f"{BOT}@{final['version']}", "--json").stdout)
    assert lineage["run_id"] == run["id"]


def test_the_promoted_version_answers_and_rollback_brings_the_old_one_back(
    up: Up, client: Client, openai: OpenAI, rated: list[Answered]
) -> None:
    """After the run the new version answers; one call later the old one, with the old answers; history tells it."""
    new = client.adapter(BOT)["rollout"]["champion"]
    assert ask(openai, BOT, rated[0].item).version == f"{BOT}@{new}"
    began = time.monotonic()
    back = shoal(up, "rollback", BOT, "--reason", "e2e")
    assert back.returncode == 0, back.stderr
    answer = ask(openai, BOT, rated[0].item)
    assert answer.version == f"{BOT}@1"
    assert time.monotonic() - began < 20  # a bound against hanging; the figure itself is the demo's
    for old in rated[:20]:
        assert ask(openai, BOT, old.item).text == old.text
    told = shoal(up, "history", BOT).stdout
    assert "rolled support-bot back" in told
    assert "e2e" in told
    assert shoal(up, "rollback", BOT).returncode == 1  # nothing earlier


def test_a_users_own_expert_is_imported_by_the_command(
    up: Up, client: Client, openai: OpenAI, tmp_path: object
) -> None:
    """``shoal export`` and ``shoal import`` round-trip a PEFT folder; the second import of the same bytes is known."""
    folder = f"{tmp_path}/expert"
    assert shoal(up, "export", f"{BOT}@2", folder).returncode == 0
    imported = shoal(up, "import", "my-bot", folder, "--label", "mine")
    assert imported.returncode == 0, imported.stderr
    assert ask(openai, "my-bot", items("blend", "test", 1, seed=0)[0]).version == "my-bot@1"
    assert shoal(up, "import", "my-bot", folder).returncode == 0
    assert len(client.versions("my-bot")) == 1
    assert shoal(up, "import", "my-bot", "/nonexistent").returncode == 1


def test_inference_goes_on_without_redis(up: Up, client: Client, openai: OpenAI) -> None:
    """Redis stops answering for a while: answers keep coming, changes say 503, feedback is kept and replayed."""
    item = items("blend", "traffic", 1, seed=3)[0]
    before = client.feedback(BOT)["total"]
    up.kill("redis", signal.SIGSTOP)
    try:
        for _ in range(5):
            assert ask(openai, BOT, item).error == ""
        sent = client.send_feedback({"adapter": BOT, "prompt": "a", "answer": "b", "rating": "up", "id": "while-away"})
        assert "spooled" in sent
    finally:
        up.kill("redis", signal.SIGCONT)
    deadline = time.monotonic() + 60
    while True:
        with suppress(ApiError):  # for a second or so the service still says that Redis does not answer
            if client.feedback(BOT)["total"] != before:
                break
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert client.feedback(BOT, limit=1)["feedback"][0]["id"] == "while-away"
