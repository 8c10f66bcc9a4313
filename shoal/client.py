"""The Python client: Shoal's ``/api`` as methods, each answering the JSON that the service answers.

    with Client() as shoal:
        shoal.import_version("support-bot", "./lora", label="french")
        for run in shoal.run_events(shoal.start_run(adapter="support-bot")["id"]):
            print(run["status"], run["generation"])

For inference use the ``openai`` client with ``base_url=f"{url}/v1"``. Every error is one of ``shoal.errors``.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self, cast
from urllib.parse import quote

import httpx

from registry.records import GOING
from shoal.archive import SPOOL_BYTES, keep, opened, unpack
from shoal.errors import ApiError, LocalProblem, NotShoal, Unreachable
from shoal.server_events import server_events

DEFAULT_URL = "http://127.0.0.1:3000"
PAGE = 500  # rows that one question of a list asks for
FEEDBACK_BATCH = 1000  # the most items that one POST /api/feedback takes
MOVE_SECONDS = 300.0  # an import is probed, a promotion waits for every replica
SILENCE_SECONDS = 60.0  # an event stream that is silent for this long is asked for again
PATIENCE_SECONDS = 60.0  # how long an event stream waits for a service that went away


class Client:
    """One connection to a running Shoal. Safe to use from one thread; close it, or use it as a context manager.

    ``url``: default ``SHOAL_URL``, else this machine; ``api_key``: default ``SHOAL_API_KEY``, else none is sent.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, *, timeout: float = 30.0) -> None:
        self.url = (url or os.environ.get("SHOAL_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get("SHOAL_API_KEY")
        if key and not (key.isascii() and key.isprintable()):
            raise LocalProblem("The API key holds characters that no key has. Check --api-key or SHOAL_API_KEY.")
        try:
            host = httpx.URL(self.url).host
            self._http = httpx.Client(
                base_url=self.url,
                headers=_user() | ({"authorization": f"Bearer {key}"} if key else {}),
                timeout=httpx.Timeout(timeout, connect=5.0),
                # A proxy of the environment does not lead to this machine.
                trust_env=host not in ("localhost", "127.0.0.1", "::1"),
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise Unreachable(self.url, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Adapters and versions

    def adapters(self, *, limit: int | None = None, after: str | None = None) -> list[dict[str, Any]]:
        """Adapters with their rollouts, by name: all, or up to ``limit`` behind the name ``after``."""
        return self._paged("/api/adapters", "adapters", "after", limit, after)

    def adapter(self, name: str) -> dict[str, Any]:
        return self._call("GET", _path(name))

    def create_adapter(self, name: str) -> dict[str, Any]:
        """A new adapter without versions, or the one there is."""
        return self._call("POST", "/api/adapters", json={"name": name})

    def versions(self, name: str, *, limit: int | None = None, before: int | None = None) -> list[dict[str, Any]]:
        """The versions of an adapter, newest first: all, or up to ``limit`` below the number ``before``."""
        return self._paged(_path(name, "versions"), "versions", "before", limit, before)

    def version(self, name: str, version: int) -> dict[str, Any]:
        return self._call("GET", _path(name, "versions", version))

    def import_version(self, name: str, source: str | Path, *, label: str = "", note: str = "") -> dict[str, Any]:
        """Register a PEFT folder, or an archive of one: ``{"version": Version, "new": bool}``.

        An adapter of that name is created if there is none. The same weights again answer the version there is.
        A ``source`` with ``://`` (``hf://org/name``, ``s3://bucket/folder``) is fetched by the service, not from here.
        """
        if "://" in str(source):
            asked = {"source": str(source), "label": label, "note": note}
            return self._call("POST", _path(name, "versions", "import"), json=asked, timeout=MOVE_SECONDS)
        with opened(source) as (file_name, archive):
            self.create_adapter(name)
            return self._call(
                "POST",
                _path(name, "versions"),
                files={"archive": (file_name, archive)},
                data={"label": label, "note": note},
                timeout=MOVE_SECONDS,
            )

    def export(self, name: str, version: int, to: str | Path) -> Path:
        """Write a version as a PEFT folder, which must be new or empty, or as an archive, if ``to`` ends with ``.tar``."""
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            with self._answering(), self._http.stream("GET", _path(name, "versions", version, "artifact")) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    raise self._error(answer)
                for chunk in answer.iter_bytes():
                    spool.write(chunk)
            spool.seek(0)
            return (keep if str(to).endswith(".tar") else unpack)(cast("BinaryIO", spool), to)

    def lineage(self, name: str, version: int | None = None) -> dict[str, Any]:
        """What a version (default: the champion) is made of, down to the imported experts."""
        return self._call("GET", _path(name, "lineage"), params=_given(version=version))

    def history(self, name: str, *, limit: int = 100, before: int | None = None) -> list[dict[str, Any]]:
        """What happened to an adapter, newest first; each event has a ``sentence``. ``before``: the last one's ``number``."""
        return self._listed("GET", _path(name, "history"), "events", params={"limit": limit, **_given(before=before)})

    def live_at(self, name: str, at: str) -> dict[str, Any]:
        """What answered at a time (ISO 8601, without an offset UTC): ``{"live", "since", ...}``."""
        return self._call("GET", _path(name, "history"), params={"at": at})

    def policy(self, name: str) -> dict[str, Any]:
        """``{"policy", "revision"}``: what happens to the adapter by itself."""
        return self._call("GET", _path(name, "policy"))

    def set_policy(self, name: str, policy: dict[str, Any], **how: Any) -> dict[str, Any]:
        """Replace the policy; a field that is left out gets its default. ``how`` as for ``promote``."""
        return self._call("PUT", _path(name, "policy"), json={"policy": policy, **how})

    def guards(self, name: str) -> list[dict[str, Any]]:
        """The suites of the adapter, by name; those that its policy makes guards of have a ``tolerance``."""
        return self._listed("GET", _path(name, "guards"), "guards")

    def put_guard(self, name: str, suite: str, items: dict[str, Any]) -> dict[str, Any]:
        """Keep a suite (``registry.suites.Suite``) under this name: ``{"guard", "new"}``."""
        return self._call("PUT", _path(name, "guards", suite), json={"suite": items}, timeout=MOVE_SECONDS)

    def guard(self, name: str, suite: str) -> dict[str, Any]:
        """``{"guard", "suite"}``, with its items."""
        return self._call("GET", _path(name, "guards", suite))

    def remove_guard(self, name: str, suite: str) -> dict[str, Any]:
        """The name stands for nothing any more. Refused while the policy names it."""
        return self._call("DELETE", _path(name, "guards", suite))

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """What each version did: requests, errors, speed, ratings, and how a trial on the side compares."""
        return self._listed("GET", _path(name, "metrics"), "versions")

    # The place for weights

    def check_artifacts(self) -> dict[str, Any]:
        """``{"checked", "findings": [{"digest", "state", "named_by"}]}``: what a record names and cannot be served."""
        return self._call("POST", "/api/artifacts/check", timeout=None)

    def collect_garbage(self, *, dry_run: bool = False) -> dict[str, Any]:
        """``{"collected": [{"what", "size"}], "bytes", "kept", "young"}``: bytes that no record names are deleted."""
        return self._call("POST", "/api/artifacts/gc", json={"dry_run": dry_run}, timeout=None)

    # Moves: each answers the rollout after it

    def promote(self, name: str, version: int, **how: Any) -> dict[str, Any]:
        """Make ``version`` the champion. ``how``, for every move: ``reason``; ``expected_revision``, which makes it
        conditional; ``operation_id``, a name of your own for this move, which makes it repeatable: nothing is sent again by
        itself, so after ``Unreachable``, or an ``ApiError`` of status 500 or more, repeat the move under the same id; it is
        made once, and without an id a rollback that had been made goes back twice."""
        return self._move(name, "promote", {"version": version, **how})

    def rollback(self, name: str, to: int | None = None, **how: Any) -> dict[str, Any]:
        """Back to ``to``, or to the champion before this one; again: further back. ``how`` as for ``promote``."""
        return self._move(name, "rollback", {**_given(to=to), **how})

    def canary(
        self, name: str, version: int | None, share: float | None = None, *, shadow: bool = False, **how: Any
    ) -> dict[str, Any]:
        """Give ``version`` that share (0 to 1; default: the policy's) of the traffic; version ``None`` ends the trial.

        ``shadow``: the champion answers everything, the version is scored on the side.
        """
        aside = {"shadow": True} if shadow else {}
        return self._move(name, "canary", {"version": version, **_given(share=share), **aside, **how})

    def pin(self, name: str, version: int, **how: Any) -> dict[str, Any]:
        """Keep ``version`` loaded on every replica until it is unpinned. ``how`` as for ``promote``."""
        return self._move(name, "pin", {"version": version, **how})

    def unpin(self, name: str, version: int, **how: Any) -> dict[str, Any]:
        return self._move(name, "unpin", {"version": version, **how})

    def retire(self, name: str, version: int, **how: Any) -> dict[str, Any]:
        """Never serve ``version`` again; its record and lineage stay. ``how`` as for ``promote``."""
        return self._move(name, "retire", {"version": version, **how})

    def _move(self, name: str, move: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call("POST", _path(name, move), json=body, timeout=MOVE_SECONDS)

    # Feedback

    def send_feedback(self, items: dict[str, Any] | Iterable[dict[str, Any]]) -> dict[str, Any]:
        """One item: ``{"feedback", "new"}``. Several: ``{"accepted", "repeated", "items"}``, all or nothing per 1,000.

        Items with an ``id`` of yours may be sent again after a failure: they count once. While Redis is away the
        service keeps them on its disk and answers ``{"spooled", "items"}``, of several beside the other keys.
        """
        if isinstance(items, dict):
            return self._call("POST", "/api/feedback", json=items)
        answer: dict[str, Any] = {"accepted": 0, "repeated": 0, "items": []}
        waiting = list(items)
        for start in range(0, len(waiting), FEEDBACK_BATCH):
            batch = waiting[start : start + FEEDBACK_BATCH]
            part = self._call("POST", "/api/feedback", json={"items": batch}, timeout=MOVE_SECONDS)
            if "spooled" in part:
                answer.setdefault("spooled", 0)
            answer = {key: held + part.get(key, type(held)()) for key, held in answer.items()}
        return answer

    def send_partial(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Up to 1,000 items, each kept or refused by itself: ``{"accepted", "repeated", "refused", "items"}``, each item in its
        place ``{"feedback", "new"}`` or ``{"error"}``; while Redis is away ``spooled`` instead of the first two."""
        return self._call("POST", "/api/feedback", json={"items": items, "partial": True}, timeout=MOVE_SECONDS)

    def export_feedback(self, adapter: str, to: str | Path) -> int:
        """Write all of an adapter's feedback to ``to``, which is JSON lines or, where it ends with ``.parquet``, Parquet; its
        bytes. The file is there when it is whole."""
        path = Path(to)
        format_ = {".jsonl": "jsonl", ".parquet": "parquet"}.get(path.suffix)
        if format_ is None:
            raise LocalProblem(f"'{path}' says no format: end it with .jsonl or .parquet.")
        part, params = path.with_name(f"{path.name}.part"), {"adapter": adapter, "format": format_}
        try:
            with self._answering(), self._http.stream("GET", "/api/feedback/export", params=params) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    raise self._error(answer)
                with part.open("wb") as file:
                    for chunk in answer.iter_bytes():
                        file.write(chunk)
            part.replace(path)
        except OSError as error:
            raise LocalProblem(f"{path} cannot be written: {error.strerror or error}.") from error
        finally:
            part.unlink(missing_ok=True)
        return path.stat().st_size

    def feedback(self, adapter: str, *, limit: int | None = 100) -> dict[str, Any]:
        """``{"feedback": [...], "total", "superseded"}``, newest first: up to ``limit``, or (None) all."""
        found: dict[str, Any] = {"feedback": []}
        while limit is None or len(found["feedback"]) < limit:
            size = FEEDBACK_BATCH if limit is None else min(FEEDBACK_BATCH, limit - len(found["feedback"]))
            last = {"before": found["feedback"][-1]["id"]} if found["feedback"] else {}
            page = self._call("GET", "/api/feedback", params={"adapter": adapter, "limit": size, **last})
            if not isinstance(page.get("feedback"), list):
                raise NotShoal(self.url, "its answer to /api/feedback has no list 'feedback'")
            found = page | {"feedback": found["feedback"] + page["feedback"]}
            if len(page["feedback"]) < size:
                break
        return found

    # Runs

    def start_run(self, **spec: Any) -> dict[str, Any]:
        """Start a run; ``spec`` as ``registry.records.RunSpec``, of which only ``adapter`` is needed."""
        return self._call("POST", "/api/runs", json={key: value for key, value in spec.items() if value is not None})

    def runs(
        self, adapter: str | None = None, *, limit: int | None = 50, before: str | None = None
    ) -> list[dict[str, Any]]:
        """Runs, newest first: up to ``limit`` (None: all) that began before the run ``before``."""
        return self._paged("/api/runs", "runs", "before", limit, before, **_given(adapter=adapter))

    def run(self, run_id: str) -> dict[str, Any]:
        return self._call("GET", f"/api/runs/{quote(run_id, safe='')}")

    def cancel_run(self, run_id: str) -> dict[str, Any]:
        return self._call("POST", f"/api/runs/{quote(run_id, safe='')}/cancel")

    def snapshot(self, digest: str) -> dict[str, Any]:
        """What a run was on: filter, seed, counts, and the items of both halves."""
        return self._call("GET", f"/api/snapshots/{quote(digest, safe='')}")

    def workers(self) -> list[dict[str, Any]]:
        """The workers that are alive, by kind and age; each as ``registry.records.Worker``."""
        return list(self._call("GET", "/api/workers")["workers"])

    def run_events(self, run_id: str, *, patience: float = PATIENCE_SECONDS) -> Iterator[dict[str, Any]]:
        """The run at every change until it ends, each state once, oldest first.

        A broken stream is asked for again; ``Unreachable`` after ``patience`` seconds without a service that answers.
        """
        revision, alive = -1, time.monotonic()
        while True:
            try:
                for run in self._stream(run_id):
                    alive = time.monotonic()
                    if run["revision"] > revision:
                        revision = run["revision"]
                        yield run
                        # The caller may have taken its time over this state: that is not the service's silence.
                        alive = time.monotonic()
                    if run["status"] not in GOING:
                        return
            except (Unreachable, ApiError) as error:
                passing = isinstance(error, Unreachable) or error.status >= httpx.codes.INTERNAL_SERVER_ERROR
                if not passing or time.monotonic() - alive > patience:
                    raise
            time.sleep(min(0.5, patience))

    def _stream(self, run_id: str) -> Iterator[dict[str, Any]]:
        path = f"/api/runs/{quote(run_id, safe='')}/events"
        patient = httpx.Timeout(SILENCE_SECONDS, connect=5.0)
        with self._answering(), self._http.stream("GET", path, timeout=patient) as answer:
            if answer.status_code != httpx.codes.OK:
                answer.read()
                raise self._error(answer)
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raise NotShoal(self.url, "a run's events are not an event stream")
            for event, data in server_events(answer.iter_lines()):
                if event == "run":
                    run = self._object(data)
                    if not isinstance(run.get("revision"), int) or not isinstance(run.get("status"), str):
                        raise NotShoal(self.url, "a run has no status or no revision")
                    yield run

    # Keys

    def create_key(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        adapters: Iterable[str] | None = None,
        rate: float | None = None,
        max_body_mb: float | None = None,
        days: float | None = None,
        raters: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        """A new API key: ``{"key", "token"}``. The token is told this once. Scopes: infer, feedback, operate, admin;
        ``rate``: requests a second; ``max_body_mb``: the largest body of one; ``raters``: the only ones
        that it gives feedback for."""
        body = {"name": name, "scopes": list(scopes), "adapters": None if adapters is None else list(adapters)}
        limits = _given(rate=rate, max_body_mb=max_body_mb, days=days, raters=None if raters is None else list(raters))
        return self._call("POST", "/api/keys", json={**body, **limits})

    def keys(self) -> list[dict[str, Any]]:
        """Every API key, newest first, without its secret."""
        return self._listed("GET", "/api/keys", "keys")

    def key_problems(self) -> dict[str, str]:
        """By its id why a key cannot be read by the service, and so opens nothing."""
        return dict(self._call("GET", "/api/keys").get("problems") or {})

    def revoke_key(self, key_id: str, *, reason: str = "") -> dict[str, Any]:
        """The key opens nothing any more."""
        answer = self._call("DELETE", f"/api/keys/{quote(key_id, safe='')}", json={"reason": reason})
        return cast("dict[str, Any]", answer["key"])

    # State

    def status(self) -> dict[str, Any]:
        """The replicas, what each holds, the engine, Redis."""
        return self._call("GET", "/api/status")

    def engine(self) -> dict[str, Any]:
        """``replica``, its ``places``, and what its engine ``holds`` by the engine's own account, asked now."""
        return self._call("GET", "/api/status/engine")

    def accept_registry(self, reason: str) -> dict[str, Any]:
        """Go on from an older registry, deliberately: ``{"rollouts": [...]}``, those that got a new revision."""
        return self._call("POST", "/api/status/accept-registry", json={"reason": reason})

    def ready(self, timeout: float = 0.0) -> bool:
        """Whether the service answers that it is ready, waiting up to ``timeout`` seconds for it."""
        until = time.monotonic() + timeout
        while True:
            with contextlib.suppress(Unreachable), self._answering():
                if self._http.get("/readyz", timeout=5.0).status_code == httpx.codes.OK:
                    return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.2)

    # The edge: one call, one answer, no foreign error

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        with self._answering():
            try:
                asked = self._http.build_request(method, path, **request)
            except (TypeError, ValueError) as error:  # NaN, a datetime, half a surrogate pair
                raise LocalProblem(f"What was to be sent is not JSON: {error}. Nothing was sent.") from error
            answer = self._http.send(asked)
            if not answer.is_success:
                raise self._error(answer)
            return self._object(answer.text)

    def _listed(self, method: str, path: str, key: str, **request: Any) -> list[dict[str, Any]]:
        rows = self._call(method, path, **request).get(key)
        if not isinstance(rows, list):
            raise NotShoal(self.url, f"its answer to {path} has no list '{key}'")
        return rows

    def _paged(
        self, path: str, key: str, turn: str, limit: int | None, place: Any, **params: Any
    ) -> list[dict[str, Any]]:
        """The rows of as many pages as ``limit`` (None: all) needs; ``turn`` is the parameter that asks for the next."""
        rows: list[dict[str, Any]] = []
        while limit is None or len(rows) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(rows))
            answer = self._call("GET", path, params={"limit": size, **_given(**{turn: place}), **params})
            found = answer.get(key)
            if not isinstance(found, list):
                raise NotShoal(self.url, f"its answer to {path} has no list '{key}'")
            rows += found
            before, place = place, answer.get("next")
            if place is None:
                break
            if place == before:
                raise NotShoal(self.url, f"its pages of {path} do not end")
        return rows

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise Unreachable(self.url, str(error) or type(error).__name__) from error

    def _object(self, text: str) -> dict[str, Any]:
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise NotShoal(self.url, "its answer is not JSON") from error
        if not isinstance(answer, dict):
            raise NotShoal(self.url, "its answer is not a JSON object")
        return answer

    def _error(self, answer: httpx.Response) -> ApiError:
        """The service's error; one of a proxy or another server is told by its status alone."""
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            error = answer.json()["error"]
            details = error.get("details")
            told = details if isinstance(details, dict) else {}
            return ApiError(answer.status_code, str(error.get("code") or "error"), str(error["message"]), told)
        path = answer.request.url.path
        return ApiError(
            answer.status_code,
            "http_error",
            f"{self.url} answered {answer.status_code} {answer.reason_phrase} to {answer.request.method} {path}, "
            "without Shoal's error body. Is this Shoal? Check --url or SHOAL_URL.",
        )


def _user() -> dict[str, str]:
    """Who history says made a move. A name that a header cannot carry, or none, is left out."""
    with contextlib.suppress(OSError, KeyError, ImportError):
        name = getpass.getuser()
        if name.isascii() and name.isprintable():
            return {"x-shoal-user": name}
    return {}


def _path(name: str, *rest: str | int) -> str:
    return "/".join(["/api/adapters", quote(name, safe=""), *(quote(str(part), safe="") for part in rest)])


def _given(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
