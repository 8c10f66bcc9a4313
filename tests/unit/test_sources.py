"""An address is opened only where the operator allows it; what comes from it is named, bounded, and all or nothing."""

from __future__ import annotations

import functools
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from registry.artifacts import CONFIG, TENSORS, digest_of_folder
from registry.errors import AdapterRefused, BadInput, ShoalError, SourceDown, SourceRefused
from registry.settings import RegistrySettings
from registry.sources import Arrived, admit, fetch
from tests import hub_server
from tests.peft_folders import write_adapter

ALLOWED = ("hf://", "s3://team/adapters", "https://weights.example/")


def get(source: str, tmp_path: Path, allowed: str = "hf://", **settings: Any) -> Arrived:
    return fetch(source, tmp_path / "arrived", RegistrySettings(import_from=allowed, **settings))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with hub_server.running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.mark.parametrize(
    "source",
    [
        "hf://org/name",
        "hf://org/name@v1",
        "s3://team/adapters/x",
        "s3://team/adapters",
        "https://weights.example/x.tar",
    ],
)
def test_what_the_operator_listed_is_admitted(source: str) -> None:
    """A prefix allows itself and what lies below it."""
    assert source.startswith(admit(source, ALLOWED))


REFUSED = {
    "not listed": "gs://bucket/x",
    "another bucket with a longer name": "s3://team/adapters-of-others/x",
    "another host with a longer name": "https://weights.example.evil/x",
    "the server's own disk": "file:///etc",
    "a path": "/etc/passwd",
    "a relative path": "adapters/x",
    "upwards": "s3://team/adapters/../secrets",
    "a chain": "s3://team/adapters/x::file:///etc",
    "a wrapped file": "zip://x::file:///etc/x.zip",
    "credentials": "https://me:secret@weights.example/x",
    "credentials before an allowed host": "https://weights.example@evil.example/x",
    "a signed address": "https://weights.example/x?X-Amz-Signature=1",
    "an encoded way up": "https://weights.example/%2e%2e/x",
    "a backslash": "https://weights.example\\@evil.example/x",
    "a new line": "hf://org/name\n",
    "a control character": "hf://org/na\x00me",
    "a turned direction": "hf://org/\u202ename",
    "a space": "hf://org/my name",
    "other letters": "HF://org/name",
    "nothing": "",
    "too long": "hf://org/" + "n" * 2000,
}


@pytest.mark.parametrize("source", REFUSED.values(), ids=REFUSED.keys())
def test_every_other_address_is_refused(source: str) -> None:
    """422 that names the field; no file and no socket is opened for it, and a secret in it is not repeated."""
    with pytest.raises(BadInput) as caught:
        admit(source, ALLOWED)
    assert caught.value.details["field"] == "source"
    assert "secret@" not in caught.value.message


def test_imports_may_be_off_and_a_wrong_prefix_stops_the_start() -> None:
    """`off` allows nothing; a prefix without a scheme is named when the settings are read."""
    with pytest.raises(SourceRefused, match="SHOAL_IMPORT_FROM"):
        admit("hf://org/name", RegistrySettings(import_from="off").import_prefixes)
    with pytest.raises(BadInput, match="SHOAL_IMPORT_FROM"):
        RegistrySettings.load(import_from="hf://,/srv/adapters")


def test_a_repository_is_fetched_at_one_commit(hub: hub_server.Hub, tmp_path: Path) -> None:
    """The adapter's two files and nothing else of the repository; the address says the commit."""
    folder = write_adapter(tmp_path / "theirs")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    hub.repositories["org/name"] = folder
    arrived = get("hf://org/name@v1", tmp_path)
    assert arrived.source == f"hf://org/name@{hub_server.COMMIT}"
    assert sorted(hub.fetched) == [CONFIG, TENSORS]
    assert digest_of_folder(arrived.folder) == digest_of_folder(folder)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("hf://org/other", "HF_TOKEN"),
        ("hf://org/gated", "HF_TOKEN"),
        ("hf://org/name@v9", "no revision 'v9'"),
        ("hf://org/pickled", f"no {TENSORS}"),
        ("hf://org", "hf://org/name"),
        ("hf://org/name/folder", "hf://org/name"),
    ],
)
def test_what_the_hub_does_not_give_is_refused(hub: hub_server.Hub, tmp_path: Path, source: str, told: str) -> None:
    """Unknown, gated, another revision, no safetensors: 422 with the remedy, and no file is fetched."""
    hub.repositories["org/name"] = hub.repositories["org/gated"] = write_adapter(tmp_path / "theirs")
    hub.gated.add("org/gated")
    pickled = hub.repositories["org/pickled"] = write_adapter(tmp_path / "pickled")
    (pickled / TENSORS).rename(pickled / "adapter_model.bin")
    with pytest.raises(SourceRefused, match=told):
        get(source, tmp_path)
    assert not hub.fetched


def test_too_many_bytes_are_refused_before_they_are_fetched(hub: hub_server.Hub, tmp_path: Path) -> None:
    """The hub says how large a file is: an adapter above the limit costs no download."""
    hub.repositories["org/name"] = write_adapter(tmp_path / "theirs")
    hub.sizes[TENSORS] = 2_000_000
    with pytest.raises(AdapterRefused, match="SHOAL_MAX_UPLOAD_MB"):
        get("hf://org/name", tmp_path, max_upload_mb=1)
    assert not hub.fetched


def test_a_hub_that_is_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """503: nothing was registered, try again."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceDown, match="try again"):
        get("hf://org/name", tmp_path)


def test_a_listed_folder_of_this_machine(tmp_path: Path) -> None:
    """A folder and an archive below a listed `file://` prefix; a link that leads out of it is refused, a pipe is not opened."""
    allowed = tmp_path / "allowed"
    theirs = write_adapter(allowed / "theirs")
    with tarfile.open(allowed / "theirs.tar.gz", "w:gz") as tar:
        tar.add(theirs, arcname="theirs")
    expected = digest_of_folder(theirs)
    for number, name in enumerate(("theirs", "theirs.tar.gz")):
        arrived = get(f"file://{allowed}/{name}", tmp_path / str(number), f"file://{allowed}")
        assert digest_of_folder(arrived.folder) == expected
    (allowed / "link").symlink_to(write_adapter(tmp_path / "outside"))
    with pytest.raises(SourceRefused, match="links"):
        get(f"file://{allowed}/link", tmp_path / "4", f"file://{allowed}/")
    os.mkfifo(allowed / "pipe.tar")
    with pytest.raises(SourceRefused, match="no plain file"):
        get(f"file://{allowed}/pipe.tar", tmp_path / "6", f"file://{allowed}/")
    (allowed / "empty").mkdir()
    with pytest.raises(SourceRefused, match="There is no adapter"):
        get(f"file://{allowed}/empty", tmp_path / "5", f"file://{allowed}/")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server of the folder ``web``; what begins with /away redirects."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/away"):
                self.send_response(302)
                self.send_header("location", "http://169.254.169.254/")
                self.send_header("content-length", "0")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *words: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "web")))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_the_web_is_read_within_the_bound_and_never_followed(web: str, tmp_path: Path) -> None:
    """A folder by its two files; more bytes than the limit and a redirect are refused, what is away is 503."""
    theirs = write_adapter(tmp_path / "web/theirs")
    assert digest_of_folder(get(f"{web}/theirs", tmp_path, web).folder) == digest_of_folder(theirs)
    (theirs / TENSORS).write_bytes(b"\0" * 1_100_000)
    refusals: dict[str, tuple[str, type[ShoalError]]] = {
        f"{web}/theirs": ("too_big|more than", AdapterRefused),
        f"{web}/away": ("redirects", SourceRefused),
        f"{web}/nothing.zip": ("There is no adapter", SourceRefused),
        "http://127.0.0.1:9/x.tar": ("try again", SourceDown),
    }
    for number, (source, (told, kind)) in enumerate(refusals.items()):
        with pytest.raises(kind, match=told):
            get(source, tmp_path / str(number), f"{web},http://127.0.0.1:9", max_upload_mb=1)
