"""Who is answered: with keys whoever sends one, without any this machine only."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from registry.api_keys import ApiKey, hash_of
from registry.errors import BadInput, Forbidden, RegistryDown, TooMany, Unauthorized
from registry.records import SCHEMA, now
from service.auth import Auth
from service.keyring import Keyring
from service.limits import Rates
from service.listening import refuse_open_address
from service.rules import OTHERWISE, RULES, rule_for
from service.settings import ServiceSettings

SECRET = "s" * 43
TOKEN = f"shoal_{'a' * 12}_{SECRET}"


class Source:
    """The keys of a registry, as the keyring reads them."""

    def __init__(self, *keys: ApiKey) -> None:
        self.keys = keys

    def revision(self) -> int:
        return len(self.keys)

    def read(self) -> tuple[list[ApiKey], dict[str, str]]:
        return list(self.keys), {}


def key(**fields: Any) -> ApiKey:
    made = {"id": "a" * 12, "name": "ops", "secret_sha256": hash_of(SECRET), "scopes": ("operate",)}
    return ApiKey(**{**made, "created_at": now(), "created_by": "ann", **fields})


def auth(tmp_path: Path, *keys: ApiKey, **settings: Any) -> Auth:
    ring = Keyring(Source(*keys), tmp_path / "keys.json", every=1.0)  # type: ignore[arg-type]
    ring.look()
    return Auth(ServiceSettings(**settings), ring)


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", **more}


def test_the_key_opens_and_nothing_else_does(tmp_path: Path) -> None:
    """No key, a wrong one, or one in another scheme is 401; the message does not repeat what was sent."""
    door = auth(tmp_path, api_key=SecretStr("open-sesame"))
    assert door.caller(bearer("open-sesame"), "10.0.0.7").scopes == {"admin"}
    for wrong in ({}, bearer("nope"), {"authorization": "Basic open-sesame"}, bearer("nöpe"), bearer(TOKEN)):
        with pytest.raises(Unauthorized) as refused:
            door.caller(wrong, "127.0.0.1")
        assert "nope" not in str(refused.value)
        assert SECRET not in str(refused.value)


def test_a_name_that_a_caller_gives_itself_never_stands_for_its_key(tmp_path: Path) -> None:
    door = auth(tmp_path, key(), api_key=SecretStr("open-sesame"))
    assert door.caller(bearer(TOKEN), None).name == "ops"
    assert door.caller(bearer(TOKEN, **{"x-shoal-user": "admin\n"}), None).name == "admin_ via ops"
    assert door.caller(bearer("open-sesame", **{"x-shoal-user": "ann"}), None).name == "ann via admin"


@pytest.mark.parametrize(
    "fields",
    [
        {"revoked_at": now()},
        {"expires_at": now() - timedelta(seconds=1)},
        {"secret_sha256": hash_of("other")},
        {"id": "b" * 12},
    ],
)
def test_a_key_that_is_revoked_expired_or_another_opens_nothing(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized):
        auth(tmp_path, key(**fields)).caller(bearer(TOKEN), "127.0.0.1")


def test_scopes_and_adapters_hold(tmp_path: Path) -> None:
    """A key may do what its scopes say, for the adapters that it names; admin may do everything."""
    caller = auth(tmp_path, key(scopes=("operate",), adapters=("bot",))).caller(bearer(TOKEN), None)
    caller.need("operate")
    caller.need_adapter("bot")
    for refused in (
        lambda: caller.need("admin"),
        lambda: caller.need("infer"),
        lambda: caller.need_adapter("other"),
        caller.need_every_adapter,
    ):
        with pytest.raises(Forbidden):
            refused()
    admin = auth(tmp_path, key(scopes=("admin",))).caller(bearer(TOKEN), None)
    admin.need("infer")
    admin.need_every_adapter()


def test_without_a_key_only_this_machine_is_answered(tmp_path: Path) -> None:
    """Whatever address the server listens on, and no page of another site that a browser here has open."""
    door = auth(tmp_path)
    assert door.caller({"host": "127.0.0.1:3000"}, "127.0.0.1").name == "operator"
    assert door.caller({"host": "localhost:3000", "origin": "http://localhost:3000"}, "::1").scopes == {"admin"}
    with pytest.raises(Unauthorized):
        door.caller({"host": "127.0.0.1"}, "10.0.0.7")
    for headers in (
        {"host": "evil.example"},
        {"host": "localhost", "origin": "https://evil.example"},
        {"host": "localhost:3000", "origin": "http://localhost:8080"},
        {"host": ""},
    ):
        with pytest.raises(Forbidden):
            door.caller(headers, "127.0.0.1")


def test_an_open_address_needs_a_key() -> None:
    """The settings refuse to start."""
    everywhere = ".".join("0000")
    with pytest.raises(BadInput, match="SHOAL_API_KEY"):
        ServiceSettings.load(host=everywhere)
    assert ServiceSettings.load(host=everywhere, api_key="k").host == everywhere


def test_keys_are_on_disk_as_hashes_for_this_user_alone(tmp_path: Path) -> None:
    auth(tmp_path, key())
    held = tmp_path / "keys.json"
    assert SECRET not in held.read_text()
    assert held.stat().st_mode & 0o077 == 0


def test_a_key_that_was_seen_revoked_stays_so_when_redis_goes_back(tmp_path: Path) -> None:
    """In this process, and in the next one, which reads the file first."""
    source = Source(key(revoked_at=now()), key(id="b" * 12))
    ring = Keyring(source, tmp_path / "keys.json", every=1.0)  # type: ignore[arg-type]
    ring.look()
    source.keys = (key(),)
    ring.look()
    assert ring.get("a" * 12) != key()
    again = Keyring(source, tmp_path / "keys.json", every=1.0)  # type: ignore[arg-type]
    asyncio.run(again.start())
    for held in (ring.get("a" * 12), again.get("a" * 12)):
        assert held is not None
        assert not held.valid(now())


def test_a_key_on_disk_that_a_newer_shoal_wrote_keeps_no_other_out(tmp_path: Path) -> None:
    """Set back to an older version while Redis is gone, Shoal opens to the keys that it can read."""
    kept = [key(id="b" * 12).model_dump(mode="json") | {"schema_number": SCHEMA + 1}, key().model_dump(mode="json")]
    (tmp_path / "keys.json").write_text(json.dumps(kept))

    class Gone(Source):
        def revision(self) -> int:
            raise RegistryDown

    ring = Keyring(Gone(), tmp_path / "keys.json", every=1.0)  # type: ignore[arg-type]
    asyncio.run(ring.start())
    assert (ring.get("a" * 12) is not None, ring.get("b" * 12)) == (True, None)


def test_a_look_that_began_before_a_key_was_revoked_does_not_bring_it_back(tmp_path: Path) -> None:
    """Two threads look; the one that read the keys first is the slower one. The key is as the later one read it."""
    read, go_on = threading.Event(), threading.Event()

    class Slow(Source):
        def read(self) -> tuple[list[ApiKey], dict[str, str]]:
            found = super().read()
            if not read.is_set():
                read.set()
                assert go_on.wait(10)
            return found

    source = Slow(key())
    ring = Keyring(source, tmp_path / "keys.json", every=1.0)  # type: ignore[arg-type]
    early, late = threading.Thread(target=ring.look), threading.Thread(target=ring.look)
    early.start()
    assert read.wait(10)
    source.keys = (key(revoked_at=now()), key(id="b" * 12))
    late.start()
    late.join(0.5)  # it would have read the keys by now, were it not for the one before it
    go_on.set()
    early.join()
    late.join()
    held = ring.get("a" * 12)
    assert held is not None
    assert not held.valid(now())


def test_a_socket_that_others_can_reach_needs_a_key() -> None:
    """What counts is where BentoML listens, not what SHOAL_HOST says."""
    for address, refused in ((".".join("0000"), True), ("127.0.0.1", False)):
        with socket.create_server((address, 0)) as server:
            given = ["worker", "--fd", str(server.fileno())]
            refuse_open_address(ServiceSettings(api_key=SecretStr("k")), given)
            with pytest.raises(BadInput, match="SHOAL_API_KEY") if refused else nullcontext():
                refuse_open_address(ServiceSettings(), given)


@pytest.mark.parametrize(
    ("method", "path", "need", "adapter"),
    [
        ("POST", "/v1/chat/completions", "infer", None),
        ("POST", "/v1/load_lora_adapter", "admin", None),
        ("GET", "/v1/models/org/base", "infer", None),
        ("GET", "/v1/chat/completions", "infer", None),
        ("GET", "/readyz", "open", None),
        ("POST", "/readyz", "admin", None),
        ("GET", "/metrics", "any", None),
        ("POST", "/api/feedback", "feedback", None),
        ("GET", "/api/feedback", "operate", None),
        ("POST", "/api/adapters/bot/promote", "operate", "bot"),
        ("GET", "/api/adapters/bot/versions/7/artifact", "operate", "bot"),
        ("DELETE", "/api/adapters/bot/guards/sums", "operate", "bot"),
        ("POST", "/api/adapters/bot/anything", "admin", None),
        ("GET", "/api/workers", "operate", None),
        ("DELETE", "/api/keys/1", "admin", None),
        ("POST", "/api/status/accept-registry", "admin", None),
        ("GET", "/", "operate", None),
        ("POST", "/adapters", "admin", None),
        ("GET", "/anything", "admin", None),
        ("GET", "/api/anything", "admin", None),
        ("GET", "/v1/anything", "admin", None),
    ],
)
def test_the_table_says_what_a_path_needs(method: str, path: str, need: str, adapter: str | None) -> None:
    rule, named = rule_for(method, path)
    assert (rule.need, named) == (need, adapter)


def test_every_line_of_the_table_can_be_reached() -> None:
    """No line stands behind one that takes all it is for."""
    paths = {
        "/v1/completions", "/livez", "/metrics", "/v1/models", "/v1/x", "/api/feedback", "/api/keys", "/api/artifacts/gc",
        "/api/status/accept-registry", "/api/status", "/api/adapters", "/api/adapters/a", "/api/adapters/a/pin",
        "/api/adapters/a/policy", "/api/adapters/a/guards", "/api/adapters/a/versions", "/api/runs", "/api/snapshots/a",
        "/api/workers", "/docs", "/docs.json",
    }  # fmt: skip
    reached = {rule_for(method, path)[0] for method in ("GET", "POST") for path in paths}
    assert reached == {*RULES, OTHERWISE}


def test_a_key_may_send_its_rate_and_save_up_two_seconds() -> None:
    at = 0.0
    rates = Rates(lambda: at)
    for _ in range(10):
        rates.take("k", 5.0)
    with pytest.raises(TooMany) as refused:
        rates.take("k", 5.0)
    assert refused.value.retry_after == 1
    rates.take("other", 5.0)
    at = 0.2
    rates.take("k", 5.0)
    with pytest.raises(TooMany):
        rates.take("k", 5.0)
