"""What goes out as a tar leaves nothing behind, however its way ends."""

from __future__ import annotations

import asyncio
import io
import resource
import tarfile
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from registry.artifacts import CONFIG, TENSORS
from registry.inspection import SIDECAR
from registry.records import Version, now
from service.api.exports import ExportResponse
from tests.peft_folders import write_adapter

VERSION = Version(
    adapter="bot", version=7, digest="sha256:" + "0" * 64, label="", rank=2, size=1, created_at=now(), created_by="test"
)
SCOPE: dict[str, Any] = {"type": "http", "method": "GET", "headers": [], "extensions": {}}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


async def receive() -> Message:
    """The client stays and says nothing more."""
    await asyncio.Event().wait()
    raise AssertionError("nothing was said")


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_folder_goes_out_whole_and_its_scratch_goes(scratch: Path, tmp_path: Path) -> None:
    """The weights and what they fit, under the version's name."""
    sent = io.BytesIO()

    async def send(message: Message) -> None:
        sent.write(message.get("body", b""))

    await ExportResponse(VERSION, write_adapter(tmp_path / "v"), "sha256:base")(SCOPE, receive, send)
    sent.seek(0)
    with tarfile.open(fileobj=sent) as tar:
        assert {Path(name).name for name in tar.getnames()} >= {CONFIG, TENSORS, SIDECAR}
        assert {Path(name).parent.name for name in tar.getnames()} == {"bot-7"}
    assert left_in(scratch) == []


def test_packing_that_fails_leaves_nothing(scratch: Path, tmp_path: Path) -> None:
    """The disk takes no more: here, because the process may write no file that long."""
    folder = write_adapter(tmp_path / "v")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            ExportResponse(VERSION, folder, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_in(scratch) == []


async def test_a_client_that_goes_away_leaves_nothing(scratch: Path, tmp_path: Path) -> None:
    async def send(message: Message) -> None:
        raise OSError("the connection is closed")

    response = ExportResponse(VERSION, write_adapter(tmp_path / "v"), None)
    assert left_in(scratch)
    with pytest.raises(OSError, match="closed"):
        await response(SCOPE, receive, send)
    assert left_in(scratch) == []
