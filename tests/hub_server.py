"""A local server that speaks the part of the Hugging Face Hub's API that ``huggingface_hub`` asks for an adapter."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class Hub:
    """``repositories["org/name"]``: the folder that it is made of, at ``main`` and at ``v1``. ``sizes`` overstates files."""

    url: str = ""
    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def file(self, repository: str, name: str) -> dict[str, Any]:
        content = (self.repositories[repository] / name).read_bytes()
        size = self.sizes.get(name, len(content))
        return {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._known("/".join(parts[2:4]), parts[5] if len(parts) > 4 else "main")
        elif parts[2:3] == ["resolve"]:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "EntryNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        repository = "/".join(urlsplit(self.path).path.strip("/").split("/")[2:4])
        held = {path.name for path in self.hub.repositories[repository].iterdir()}
        self._answer([self.hub.file(repository, name) for name in asked["paths"] if name in held])

    def _known(self, repository: str, revision: str) -> None:
        if repository not in self.hub.repositories:
            self._refuse(401, "RepoNotFound")  # as the real one does for whoever shows no token
        elif repository in self.hub.gated and not self.headers.get("authorization"):
            self._refuse(401, "GatedRepo")
        elif revision not in ("main", "v1", COMMIT):
            self._refuse(404, "RevisionNotFound")
        else:
            self._answer({"id": repository, "sha": COMMIT})

    def _file(self, repository: str, revision: str, name: str) -> None:
        content = (self.hub.repositories[repository] / name).read_bytes()
        if self.command == "GET":
            self.hub.fetched.append(name)
        kept = {"x-repo-commit": revision, "etag": f'"{hashlib.sha1(content).hexdigest()}"'}  # noqa: S324
        self._send(200, content, "application/octet-stream", kept)

    def _answer(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json", {})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", "application/json", {"x-error-code": code, "x-error-message": code})

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *words: Any) -> None:
        """Silent."""


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
