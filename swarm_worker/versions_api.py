"""Versions and their weights from a running Shoal, read over its ``/api``, with no trust in what answers."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from registry.archives import unpack
from registry.errors import BadInput, ShoalError
from registry.records import Version

DEFAULT_URL = "http://127.0.0.1:3000"
SLACK = 1 << 20  # what a config may gain between the store's spelling and the archive's, bytes


class ServiceTrouble(ShoalError):
    """Nothing answered, it refused, or it is not Shoal; ``code`` and ``status`` are the service's where it told them."""

    def __init__(self, message: str, *, status: int = 503, code: str = "service_trouble") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class VersionsApi:
    """Implements ``swarm_worker.rebuild.Versions``. Close it, or use it as a context manager.

    ``url``: default ``SHOAL_URL``, else this machine; ``api_key``: default ``SHOAL_API_KEY``, else none is sent.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self.url = (url or os.environ.get("SHOAL_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get("SHOAL_API_KEY")
        if key and not (key.isascii() and key.isprintable()):
            raise BadInput(
                "The API key holds characters that no key has. Check --api-key or SHOAL_API_KEY.", field="key"
            )
        with self._answering():
            host = httpx.URL(self.url).host
            self._http = httpx.Client(
                base_url=self.url,
                headers={"authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(60.0, connect=5.0),
                # A proxy of the environment does not lead to this machine.
                trust_env=host not in ("localhost", "127.0.0.1", "::1"),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._http.close()

    def champion(self, adapter: str, place: str = "champion") -> int:
        """The number of the version in that place of the rollout."""
        number = (self._object(f"/api/adapters/{quote(adapter, safe='')}").get("rollout") or {}).get(place)
        if not isinstance(number, int):
            raise BadInput(
                f"'{adapter}' has no {place} now. `shoal versions {adapter}` lists its versions.", field="model"
            )
        return number

    def version(self, adapter: str, number: int) -> Version:
        try:
            return Version.model_validate(self._object(_path(adapter, number)))
        except ValidationError as error:
            raise self._not_shoal(f"its version {adapter}@{number} is none") from error

    def fetch(self, version: Version, into: Path) -> Path:
        """Never more than the version's own size is unpacked, and nothing outside ``into``."""
        with tempfile.NamedTemporaryFile(suffix=".tar") as packed:
            left = version.size + 2 * SLACK
            with (
                self._answering(),
                self._http.stream("GET", f"{_path(version.adapter, version.version)}/artifact") as answer,
            ):
                if not answer.is_success:
                    answer.read()
                    raise self._error(answer)
                for chunk in answer.iter_bytes():
                    left -= len(chunk)
                    if left < 0:
                        raise self._not_shoal(f"{version.engine_name} comes as more than its {version.size} bytes")
                    packed.write(chunk)
            packed.flush()
            try:
                return unpack(Path(packed.name), into, max_bytes=version.size + SLACK)
            except ShoalError:
                shutil.rmtree(into, ignore_errors=True)
                raise

    def _object(self, path: str) -> dict[str, Any]:
        with self._answering():
            answer = self._http.get(path)
        if not answer.is_success:
            raise self._error(answer)
        try:
            told = answer.json()
        except ValueError as error:
            raise self._not_shoal("its answer is not JSON") from error
        if not isinstance(told, dict):
            raise self._not_shoal("its answer is not a JSON object")
        return told

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise ServiceTrouble(
                f"Nothing answers at {self.url} ({error or type(error).__name__}): is `shoal up` running? "
                "Another address: --url or SHOAL_URL."
            ) from error

    def _error(self, answer: httpx.Response) -> ServiceTrouble:
        try:
            error = json.loads(answer.text)["error"]
            return ServiceTrouble(
                str(error["message"]), status=answer.status_code, code=str(error.get("code") or "error")
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return self._not_shoal(f"it answers {answer.status_code} without Shoal's error body")

    def _not_shoal(self, why: str) -> ServiceTrouble:
        return ServiceTrouble(
            f"What answers at {self.url} is not Shoal's API: {why}. Check --url or SHOAL_URL.", code="not_shoal"
        )


def _path(adapter: str, number: int) -> str:
    return f"/api/adapters/{quote(adapter, safe='')}/versions/{number}"
