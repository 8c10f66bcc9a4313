"""Feedback as files, on a really running service: what goes in is there once, each bad line is named, what comes out is all."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pyarrow import parquet

from registry.errors import BadInput
from registry.feedback_export import export
from registry.registry import Registry
from registry.settings import RegistrySettings
from shoal.cli.app import run
from shoal.client import Client
from shoal.errors import ApiError, LocalProblem, Unreachable
from shoal.feedback_import import import_feedback
from tests import stub_service
from tests.peft_folders import write_adapter

ITEM = {"version": 1, "prompt": "q", "answer": "a"}


class House:
    def __init__(self, url: str, registry: Registry) -> None:
        self.url, self.registry = url, registry

    def adapter(self, home: Path) -> str:
        """A new adapter, so that each test counts its own."""
        name = f"bot-{time.time_ns()}"
        self.registry.register(name, write_adapter(home / name, seed=1), by="test")
        self.registry.promote(name, 1, by="test")
        return name


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[House]:
    home = tmp_path_factory.mktemp("files")
    settings = RegistrySettings(
        redis_url=redis_url,
        namespace=f"test-files-{time.time_ns()}",
        artifacts_url=str(home / "artifacts"),
        cache_dir=str(home / "cache"),
    )
    registry = Registry.open(settings)
    service = stub_service.StubService(settings, home / "service")
    with stub_service.running(service):
        yield House(service.url, registry)
    registry.close()


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    with Client(house.url) as opened:
        yield opened


def test_a_file_of_many_lines_is_there_once_and_bad_lines_are_named(
    house: House, client: Client, tmp_path: Path
) -> None:
    """1,301 good lines in three spellings, and bad ones of every kind among them: all good ones are kept, each bad one has its
    line and its reason; the same file again changes nothing."""
    bot = house.adapter(tmp_path)
    score = {"traceId": "t1", "name": "ok", "value": 1, "input": "q", "output": "a"}
    record = {"fields": {"prompt": "q", "response": "a"}, "responses": {"q": [{"value": 4, "user_id": "u"}]}}
    odd = {
        10: ("{", "not JSON"),
        500: (json.dumps({**ITEM, "rating": 7}), "less than or equal to 1"),
        501: (json.dumps({"request_id": "never-recorded", "rating": 1}), "No answer is recorded"),
        900: (json.dumps({**ITEM, "version": 9, "rating": 1}), "There is no version"),
        901: (json.dumps({**ITEM, "thumbs": "up", "colour": "red"}), "there is no such field"),
        1200: (json.dumps({**score, "name": "tone"}), "--score"),
    }
    texts = {2: json.dumps(score), 3: json.dumps(record), 700: ""} | {number: text for number, (text, _) in odd.items()}
    plain = ({**ITEM, "answer": f"a{number}", "thumbs": "up", "rater": "ann"} for number in range(1308))
    lines = [texts.get(number) or json.dumps(item) for number, item in enumerate(plain, start=1)]
    lines[699] = ""
    heard: list[int] = []

    done = import_feedback(client, bot, lines, tell=lambda so_far: heard.append(so_far.lines))

    assert [number for number, _ in done.refused] == sorted(odd)
    for number, reason in done.refused:
        assert odd[number][1] in reason
    assert (done.lines, done.accepted, done.repeated, house.registry.feedback.count(bot)) == (1307, 1301, 0, 1301)
    assert len(heard) == 3
    again = import_feedback(client, bot, lines)
    assert (again.accepted, again.repeated, len(again.refused)) == (0, 1301, 6)
    assert house.registry.figures.read(bot)[1]["ratings"] == 1299  # the other two say no version


def test_one_kind_of_score_at_a_time(house: House, client: Client, tmp_path: Path) -> None:
    """Of a file with two names of scores the named one is taken, the other counted."""
    bot = house.adapter(tmp_path)
    trace = {"traceId": "t1", "input": "q", "output": "a"}
    lines = [
        json.dumps({**trace, "name": name, "value": value})
        for name, value in (("tone", 0.5), ("ok", 1.0), ("tone", 0.0))
    ]
    done = import_feedback(client, bot, lines, score="tone")
    assert (done.accepted, done.left_out, done.refused) == (2, 1, [])


def test_what_is_exported_is_all_and_comes_back_as_known(
    house: House, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON lines and Parquet hold every item with every field, oldest first, and what was replaced; imported, all is known."""
    bot = house.adapter(tmp_path)
    chat = [{"role": "user", "content": "caf\u00e9?"}]
    told = [{"adapter": bot, **ITEM, "id": f"f{number}", "stars": number % 5 + 1} for number in range(2500)]
    told.append(
        {"adapter": bot, "messages": chat, "preferred": "x", "rejected": "y", "id": "pair", "labels": ["t", "u"]}
    )
    told += [{"adapter": bot, **ITEM, "id": name, "thumbs": "up", "rater": "ann"} for name in ("first", "second")]
    for start in range(0, len(told), 1000):
        client.send_feedback(told[start : start + 1000])
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.parquet"

    assert run(["feedback", "export", bot, "--to", str(lines), "--url", house.url]) == 0
    assert client.export_feedback(bot, table) == table.stat().st_size

    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [one["id"] for one in told]
    assert rows[-3]["messages"] == chat
    assert (rows[-2]["superseded_by"], "superseded_by" in rows[-1]) == ({"rating": "second"}, False)
    held = parquet.read_table(table).to_pylist()
    assert [row["id"] for row in held] == [one["id"] for one in told]
    assert (held[-3]["messages"], held[-3]["labels"], held[-3]["preferred"]) == (chat, ["t", "u"], "x")
    assert (held[1]["rating"], held[1]["stars"], json.loads(held[-2]["superseded_by"])) == (
        0.25,
        2,
        {"rating": "second"},
    )
    assert held[0]["at"].tzinfo is not None
    capsys.readouterr()
    assert run(["feedback", "import", bot, str(lines), "--url", house.url, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["accepted"], again["repeated"], again["refused"]) == (0, len(told), [])


def test_the_command_names_bad_lines_and_ends_with_one(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good lines are kept all the same; a file that is not there is a sentence."""
    bot, file = house.adapter(tmp_path), tmp_path / "in.jsonl"
    file.write_text(json.dumps({**ITEM, "thumbs": "up"}) + "\nnonsense\n", encoding="utf-8")
    assert run(["feedback", "import", bot, str(file), "--url", house.url]) == 1
    told = capsys.readouterr()
    assert "line 2: it is not JSON" in told.out + told.err
    assert "2 lines: 1 accepted, 0 known already, 1 refused." in told.out + told.err
    assert run(["feedback", "import", bot, "/nowhere.jsonl", "--url", house.url]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_an_export_that_cannot_be_says_so(house: House, client: Client, tmp_path: Path) -> None:
    """An unknown ending or adapter, a folder that is not there: nothing is left behind."""
    bot = house.adapter(tmp_path)
    with pytest.raises(LocalProblem, match=r"\.jsonl or \.parquet"):
        client.export_feedback(bot, tmp_path / "out.csv")
    with pytest.raises(ApiError, match="no adapter"):
        client.export_feedback("nobody", tmp_path / "out.jsonl")
    with pytest.raises(LocalProblem, match="cannot be written"):
        client.export_feedback(bot, tmp_path / "no" / "out.jsonl")
    assert not list(tmp_path.glob("out*"))
    answer = httpx.get(f"{house.url}/api/feedback/export?adapter={bot}&format=csv", timeout=30)
    assert answer.status_code == 422


def test_parquet_without_pyarrow_names_the_extra(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first byte, with the remedy."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"shoal\[parquet\]"):
        export(registry.feedback, "bot", "parquet")


def test_a_service_that_stays_away_is_told_and_nothing_is_half(tmp_path: Path) -> None:
    """The import waits for a while, then says that it cannot be reached; the file can be sent again."""
    with Client("http://127.0.0.1:1") as client, pytest.raises(Unreachable):
        import_feedback(client, "bot", [json.dumps({**ITEM, "thumbs": "up"})], patience=0.1)
