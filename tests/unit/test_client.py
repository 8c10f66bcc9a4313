"""The client: what it asks, what it answers, and that no error but Shoal's leaves it."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Response

from registry.errors import ShoalError
from shoal.archive import unpack
from shoal.client import Client
from shoal.errors import ApiError, LocalProblem, NotShoal, Unreachable
from tests.unit import fake_shoal
from tests.unit.fake_shoal import Asked, FakeShoal


@pytest.fixture(scope="module")
def server() -> Iterator[FakeShoal]:
    with fake_shoal.serving() as fake:
        yield fake


@pytest.fixture
def fake(server: FakeShoal) -> FakeShoal:
    server.answers, server.asked = {}, []
    return server


@pytest.fixture
def client(fake: FakeShoal) -> Iterator[Client]:
    with Client(fake.url, api_key="s3cret") as connected:
        yield connected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A PEFT folder as training leaves it: with more beside the adapter."""
    made = tmp_path / "lora"
    made.mkdir()
    (made / "adapter_config.json").write_text("{}")
    (made / "adapter_model.safetensors").write_bytes(b"tensors")
    (made / "optimizer.pt").write_bytes(b"a pickle")
    return made


def tar_of(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_it_sends_the_key_and_the_user(fake: FakeShoal, client: Client) -> None:
    """Every call carries the bearer key, and the name that history writes down."""
    fake.answers["GET /api/adapters"] = {"adapters": []}
    assert client.adapters() == []
    assert fake.asked[0].headers["authorization"] == "Bearer s3cret"
    assert fake.asked[0].headers["x-shoal-user"]


def test_url_and_key_come_from_the_environment(fake: FakeShoal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_URL", fake.url + "/")
    monkeypatch.setenv("SHOAL_API_KEY", "from-env")
    fake.answers["GET /api/status"] = {"replicas": []}
    with Client() as client:
        assert client.status() == {"replicas": []}
    assert fake.asked[0].headers["authorization"] == "Bearer from-env"


@pytest.mark.parametrize(
    ("move", "path", "body"),
    [
        (lambda c: c.promote("bot", 3, reason="good"), "promote", {"version": 3, "reason": "good"}),
        (lambda c: c.rollback("bot"), "rollback", {}),
        (lambda c: c.rollback("bot", 2, expected_revision=4), "rollback", {"to": 2, "expected_revision": 4}),
        (
            lambda c: c.canary("bot", 3, 0.05, operation_id="x"),
            "canary",
            {"version": 3, "share": 0.05, "operation_id": "x"},
        ),
        (lambda c: c.canary("bot", None), "canary", {"version": None}),
        (lambda c: c.pin("bot", 3, reason="demo"), "pin", {"version": 3, "reason": "demo"}),
        (lambda c: c.unpin("bot", 3), "unpin", {"version": 3}),
        (lambda c: c.retire("bot", 3, operation_id="x"), "retire", {"version": 3, "operation_id": "x"}),
    ],
)
def test_a_move_sends_what_was_given_and_no_more(
    fake: FakeShoal, client: Client, move: Callable[[Client], Any], path: str, body: dict[str, Any]
) -> None:
    fake.answers[f"POST /api/adapters/bot/{path}"] = fake_shoal.rollout()
    assert move(client)["champion"] == 2
    assert fake.asked[0].json == body


def test_a_folder_is_uploaded_as_a_tar_of_the_adapter_alone(fake: FakeShoal, client: Client, folder: Path) -> None:
    """An optimiser's pickle beside the adapter stays at home; links are followed, as Hugging Face's cache has them."""
    (folder / "adapter_model.safetensors").rename(folder / "blob")
    (folder / "adapter_model.safetensors").symlink_to(folder / "blob")
    fake.answers["POST /api/adapters"] = fake_shoal.adapter()
    fake.answers["POST /api/adapters/bot/versions"] = {"version": {"version": 1}, "new": True}
    assert client.import_version("bot", folder, label="french") == {"version": {"version": 1}, "new": True}
    created, sent = fake.asked
    assert created.json == {"name": "bot"}
    assert b'name="label"\r\n\r\nfrench' in sent.body
    start = sent.body.index(b"adapter_config.json")
    with tarfile.open(fileobj=io.BytesIO(sent.body[start:])) as tar:
        members = {member.name: member.isfile() for member in tar.getmembers()}
    assert members == {"adapter_config.json": True, "adapter_model.safetensors": True}


@pytest.mark.parametrize("source", ["nothing-here", "empty", "notes.txt"])
def test_what_is_no_adapter_is_refused_before_anything_is_sent(
    fake: FakeShoal, client: Client, tmp_path: Path, source: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(LocalProblem):
        client.import_version("bot", tmp_path / source)
    assert fake.asked == []


@pytest.mark.parametrize("top", ["", "./", "bot-2/"])
def test_an_export_is_a_folder(fake: FakeShoal, client: Client, tmp_path: Path, top: str) -> None:
    """The PEFT files lie in the folder itself, also where the archive has a folder around them."""
    archive = tar_of((f"{top}adapter_config.json", b"{}"), (f"{top}adapter_model.safetensors", b"tensors"))
    fake.answers["GET /api/adapters/bot/versions/2/artifact"] = Response(archive, media_type="application/x-tar")
    written = client.export("bot", 2, tmp_path / "deep" / "out")
    assert {path.name: path.read_bytes() for path in written.iterdir()} == {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"tensors",
    }
    with pytest.raises(LocalProblem, match="not empty"):
        client.export("bot", 2, written)


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../escaped", "..\\escaped"])
def test_an_archive_that_leads_out_of_the_folder_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(LocalProblem, match="not unpacked"):
        unpack(io.BytesIO(tar_of(("fine", b"1"), (name, b"2"))), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_an_archive_writes_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("weights")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    buffer.seek(0)
    with pytest.raises(LocalProblem, match="not unpacked"):
        unpack(buffer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_feedback_goes_in_batches(fake: FakeShoal, client: Client) -> None:
    """2,300 items are three calls of at most 1,000, answered as one."""
    fake.answers["POST /api/feedback"] = lambda asked: {
        "accepted": len(asked.json["items"]) - 1,
        "repeated": 1,
        "items": [item["id"] for item in asked.json["items"]],
    }
    sent = client.send_feedback({"id": str(number), "rating": "up"} for number in range(2300))
    assert (sent["accepted"], sent["repeated"]) == (2297, 3)
    assert sent["items"] == [str(number) for number in range(2300)]
    assert [len(asked.json["items"]) for asked in fake.asked] == [1000, 1000, 300]


def test_feedback_that_waits_for_redis_is_told(fake: FakeShoal, client: Client) -> None:
    told = {"spooled": 2, "items": [{"id": "a", "spooled": True}, {"id": "b", "spooled": True}]}
    fake.answers["POST /api/feedback"] = lambda asked: Response(json.dumps(told), 202, media_type="application/json")
    sent = client.send_feedback([{"rating": "up"}, {"rating": "down"}])
    assert (sent["spooled"], sent["accepted"], len(sent["items"])) == (2, 0, 2)


def test_a_run_is_followed_over_a_broken_stream(fake: FakeShoal, client: Client) -> None:
    """Each state comes once, in order, although the stream breaks, repeats itself and is refused for a while."""
    first = fake_shoal.run_event(revision=1), ": heartbeat\n\n", fake_shoal.run_event(revision=2)[:-9]
    second = fake_shoal.run_event(revision=1), fake_shoal.run_event(revision=2, generation=1)
    last = fake_shoal.run_event(revision=2, generation=1), fake_shoal.run_event(revision=5, status="done")
    streams = [
        fake_shoal.events(*first),
        fake_shoal.refusal(503, "registry_down", "Redis cannot be reached."),
        fake_shoal.events(*second),
        fake_shoal.events(*last),
    ]
    fake.answers["GET /api/runs/r1/events"] = lambda asked: streams.pop(0)
    told = [(run["revision"], run["status"]) for run in client.run_events("r1")]
    assert told == [(1, "searching"), (2, "searching"), (5, "done")]
    assert streams == []


def test_following_a_run_ends_where_there_is_none(fake: FakeShoal, client: Client) -> None:
    """A refusal that will not pass is told at once; a service that stays away after the caller's patience."""
    fake.answers["*"] = fake_shoal.refusal(404, "run_unknown", "There is no run 'r1'.")
    with pytest.raises(ApiError) as refused:
        list(client.run_events("r1"))
    assert refused.value.code == "run_unknown"
    fake.answers["*"] = fake_shoal.refusal(503, "registry_down", "Redis cannot be reached.")
    with pytest.raises(ApiError, match="Redis"):
        list(client.run_events("r1", patience=0.1))


def test_a_refusal_keeps_status_code_message_and_details(fake: FakeShoal, client: Client) -> None:
    fake.answers["*"] = fake_shoal.refusal(409, "rollout_moved", "Somebody moved it.", message="odd", actual_revision=8)
    with pytest.raises(ApiError) as refused:
        client.promote("bot", 1)
    error = refused.value
    assert (error.status, error.code, error.message) == (409, "rollout_moved", "Somebody moved it.")
    assert error.details == {"message": "odd", "actual_revision": 8}


BAD_ANSWERS: dict[str, Response] = {
    "html 404": Response("<h1>not here</h1>", status_code=404, media_type="text/html"),
    "empty 500": Response(b"", status_code=500),
    "error as a word": Response('{"error": "no"}', status_code=400, media_type="application/json"),
    "error as a list": Response('["no"]', status_code=409, media_type="application/json"),
    "redirect": Response(status_code=307, headers={"location": "/elsewhere"}),
    "not json": Response("<html>", media_type="text/html"),
    "not an object": Response("[1]", media_type="application/json"),
    "no list": Response('{"adapters": 7}', media_type="application/json"),
    "not utf-8": Response(b"\xff\xfe\x00", media_type="application/json"),
    "events without runs": Response("event: run\ndata: {}\n\n", media_type="text/event-stream"),
    "events of noise": Response("event: run\ndata: nonsense\n\n", media_type="text/event-stream"),
}
CALLS: dict[str, Callable[[Client, Path], Any]] = {
    "adapters": lambda c, p: c.adapters(),
    "versions": lambda c, p: c.versions("bot"),
    "history": lambda c, p: c.history("bot"),
    "metrics": lambda c, p: c.metrics("bot"),
    "runs": lambda c, p: c.runs("bot"),
    "events": lambda c, p: list(c.run_events("r", patience=0.0)),
    "export": lambda c, p: c.export("bot", 1, p / "out"),
}


@pytest.mark.parametrize("rating", [float("nan"), object(), "\ud800"])
def test_what_json_cannot_hold_is_not_sent(fake: FakeShoal, client: Client, rating: object) -> None:
    """It is this side's problem, in Shoal's words."""
    with pytest.raises(LocalProblem, match="is not JSON"):
        client.send_feedback({"prompt": "q", "answer": "a", "rating": rating})
    assert fake.asked == []


@pytest.mark.parametrize("bad", BAD_ANSWERS)
@pytest.mark.parametrize("call", CALLS)
def test_no_foreign_error_leaks_from_a_bad_answer(
    fake: FakeShoal, client: Client, tmp_path: Path, bad: str, call: str
) -> None:
    """Whatever a server answers, a caller sees one of Shoal's errors, with a sentence."""
    fake.answers["*"] = BAD_ANSWERS[bad]
    with pytest.raises(ShoalError) as raised:
        CALLS[call](client, tmp_path)
    assert isinstance(raised.value, ApiError | NotShoal | LocalProblem)
    assert raised.value.message


@pytest.mark.parametrize("call", CALLS)
def test_nothing_at_the_address_says_what_to_do(tmp_path: Path, call: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(Unreachable, match="is `shoal up` running"):
        CALLS[call](client, tmp_path)


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"])
def test_a_server_that_breaks_off_is_unreachable(said: bytes) -> None:
    """A connection that is closed early, an answer that is no HTTP, one that is cut short."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def once() -> None:
            link, _ = listening.accept()
            with link:
                link.recv(4096)
                link.sendall(said)

        thread = threading.Thread(target=once)
        thread.start()
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}") as client, pytest.raises(Unreachable):
            client.adapters()
        thread.join()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "http://", "http://127.0.0.1:notaport", "ftp://127.0.0.1", "http://[::1"]
)
def test_an_address_that_is_none_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_URL", "http://127.0.0.1:1")
    with pytest.raises(Unreachable), Client(url) as client:
        client.adapters()


def test_a_key_that_no_header_carries_is_told_without_repeating_it() -> None:
    with pytest.raises(LocalProblem) as told:
        Client("http://127.0.0.1:1", api_key="s3cret\nx-evil: 1")
    assert "s3cret" not in told.value.message


def test_ready_waits(fake: FakeShoal, client: Client) -> None:
    """``ready`` answers at once without a timeout, and waits for a service that needs a while with one."""
    answers = [Response(status_code=503), Response(status_code=503), Response(status_code=200)]
    fake.answers["GET /readyz"] = lambda asked: answers.pop(0)
    assert client.ready() is False
    assert client.ready(timeout=5.0) is True


def test_odd_names_stay_in_their_place(fake: FakeShoal, client: Client) -> None:
    """A name never becomes another path or a query."""
    fake.answers["*"] = {"name": "x"}
    client.adapter("a/b?c=d#e")
    assert fake.asked[0].path == "/api/adapters/a%2Fb%3Fc%3Dd%23e"
    assert fake.asked[0].query == {}


def test_a_list_is_asked_for_page_by_page(fake: FakeShoal, client: Client) -> None:
    """All pages, or as few as the limit needs; a server whose pages do not end is told."""
    rows = [{"version": number} for number in (3, 2, 1)]

    def page(asked: Asked) -> dict[str, Any]:
        below = [row for row in rows if row["version"] < int(asked.query.get("before", 4))]
        return {"versions": below[:1], "next": below[0]["version"] if len(below) > 1 else None}

    fake.answers["GET /api/adapters/bot/versions"] = page
    assert client.versions("bot") == rows
    assert client.versions("bot", limit=2) == rows[:2]
    assert client.versions("bot", before=3) == rows[1:]
    fake.answers["GET /api/adapters/bot/versions"] = {"versions": rows[:1], "next": 3}
    with pytest.raises(NotShoal, match="do not end"):
        client.versions("bot")
