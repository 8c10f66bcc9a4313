"""Recording on a real Redis: what the settings, a policy and a hook leave of an answer, and what is counted."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InteractionUnknown
from registry.policy import Policy
from registry.recording import RecordingPolicy
from registry.records import Interaction
from registry.registry import Registry
from registry.settings import RegistrySettings
from service import redaction
from service.recorder import REASONS, Recorder
from service.recording_rules import RecordingRules
from service.redaction import Redaction
from tests.peft_folders import write_adapter
from tests.redis_server import RedisServer
from tests.served_app import serving

AT = datetime(2026, 1, 1, tzinfo=UTC)


def answered(request_id: str, adapter: str = "bot", prompt: str = "p") -> Interaction:
    return Interaction(request_id=request_id, adapter=adapter, version=1, prompt=prompt, answer="a", at=AT)


def recorder(registry: Registry, redact: Redaction | None = None, **more: Any) -> Recorder:
    rules = RecordingRules(registry.settings, registry.policies)
    return Recorder(registry.interactions, rules, redact or Redaction(), **more)


def record(taking: Recorder, *interactions: Interaction) -> None:
    taking.start()
    for interaction in interactions:
        taking.record(interaction)
    taking.settle(10.0)
    taking.stop()


def known(registry: Registry, *ids: str) -> list[str]:
    return sorted(registry.interactions.get_many(ids))


@pytest.fixture
def digits_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "digits"

        @staticmethod
        def load() -> Any:
            return hide

    def hide(text: str) -> str:
        if "boom" in text:
            raise RuntimeError(text)
        return "".join("#" if letter.isdigit() else letter for letter in text)

    monkeypatch.setattr(redaction, "entry_points", lambda group: [Point])


def policy(registry: Registry, tmp_path: Path, adapter: str, **fields: Any) -> None:
    registry.register(adapter, write_adapter(tmp_path / adapter, seed=len(adapter)), by="test")
    registry.set_policy(adapter, Policy(recording=RecordingPolicy(**fields)), by="test")


def test_the_policy_of_an_adapter_says_whether_and_how_long(registry: Registry, tmp_path: Path) -> None:
    """One is not recorded, one for a minute, one as the settings say; none of it is a drop."""
    policy(registry, tmp_path, "off", mode="off")
    policy(registry, tmp_path, "short", keep_for=60.0)
    policy(registry, tmp_path, "none", mode="sampled", rate=0.0)
    taking = recorder(registry)

    record(taking, answered("r1", "off"), answered("r2", "short"), answered("r3"), answered("r4", "none"))

    assert known(registry, "r1", "r2", "r3", "r4") == ["r2", "r3"]
    prefix = f"{registry.settings.namespace}:interaction"
    assert 0 < int(registry.redis.ttl(f"{prefix}:{{r2}}")) <= 60  # type: ignore[arg-type]
    assert int(registry.redis.ttl(f"{prefix}:{{r3}}")) > 29 * 86400  # type: ignore[arg-type]
    assert taking.dropped == 0


def test_a_policy_may_record_what_the_settings_do_not(
    registry: Registry, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """Off for the service, on for one adapter."""
    policy(registry, tmp_path, "bot", mode="all")
    off = registry_settings.model_copy(update={"record_interactions": "off"})
    taking = Recorder(registry.interactions, RecordingRules(off, registry.policies), Redaction())

    record(taking, answered("r1"), answered("r2", "other"))

    assert known(registry, "r1", "r2") == ["r1"]


def test_what_a_hook_fails_on_is_not_stored_and_counted(
    registry: Registry, tmp_path: Path, digits_hidden: None
) -> None:
    """Closed: an exception stores nothing of that answer, and the others of its batch are stored, redacted."""
    policy(registry, tmp_path, "bot", redact="digits")
    policy(registry, tmp_path, "gone", redact="not-installed")
    taking = recorder(registry)

    record(taking, answered("r1", prompt="pin 1234"), answered("r2", prompt="boom 99"), answered("r3", "gone"))

    assert registry.interactions.get("r1").prompt == "pin ####"
    for lost in ("r2", "r3"):
        with pytest.raises(InteractionUnknown):
            registry.interactions.get(lost)
    assert taking.drops == dict.fromkeys(REASONS, 0) | {"redaction": 2}
    stored = registry.redis.scan_iter(f"{registry.settings.namespace}:interaction*")
    assert not any("boom" in str(registry.redis.get(key)) for key in stored)


def test_what_cannot_be_recorded_is_counted_by_its_reason(
    redis_process: RedisServer, registry_settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is away: a queue that is full, and what still waits when the service stops; ``record`` never waits for it."""
    monkeypatch.setattr("service.recorder.WAITING", 3)
    registry = Registry.open(registry_settings.model_copy(update={"redis_url": redis_process.url}))
    redis_process.kill()
    taking = recorder(registry)
    for number in range(5):
        taking.record(answered(f"r{number}"))
    taking.unrecordable("bot", "r9")
    taking.start()
    taking.stop()
    assert taking.drops == dict.fromkeys(REASONS, 0) | {"full": 2, "not_text": 1, "stopped": 3}
    registry.close()


def test_what_redis_refuses_is_counted_and_the_next_is_recorded(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that cannot be written holds up no other."""
    taking, add = recorder(registry, batch=1), registry.interactions.add_many
    broken = threading.Event()

    def add_many(interactions: Any, seconds: Any = None) -> list[Interaction]:
        if not broken.is_set():
            broken.set()
            raise ValueError("not to be written")
        return add(interactions, seconds)

    monkeypatch.setattr(registry.interactions, "add_many", add_many)
    record(taking, answered("r1"), answered("r2"))
    assert known(registry, "r1", "r2") == ["r2"]
    assert taking.drops["unwritable"] == 1


async def test_feedback_is_redacted_before_it_is_stored(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path, digits_hidden: None
) -> None:
    """Over HTTP: the answer that is recorded, the correction of it, inline feedback; what waits on disk while Redis is away;
    and what the hook fails on is refused and stored nowhere."""
    settings = registry_settings.model_copy(update={"redis_url": redis_process.url})
    registry = Registry.open(settings)
    policy(registry, tmp_path, "bot", redact="digits")
    registry.promote("bot", 1, by="test")
    inline = {"adapter": "bot", "version": 1, "prompt": "my pin is 1234", "answer": "it is 1234", "rating": 1}
    async with serving(settings, tmp_path / "home") as shoal:
        asked = {"model": "bot", "messages": [{"role": "user", "content": "my pin is 1234"}]}
        await shoal.post("/v1/chat/completions", json=asked, headers={"x-request-id": "r1"})
        rated = await shoal.post("/api/feedback", json={"request_id": "r1", "correction": "no 77", "id": "f1"})
        assert rated.status_code == 201, rated.text
        assert (await shoal.post("/api/feedback", json=inline | {"id": "f2"})).status_code == 201
        boom = await shoal.post("/api/feedback", json=inline | {"comment": "boom 1234"})
        assert (boom.status_code, boom.json()["error"]["code"]) == (500, "redaction_failed")
        assert "1234" not in boom.text
        redis_process.kill()
        assert (await shoal.post("/api/feedback", json=inline | {"id": "f3"})).status_code == 202
        boom = await shoal.post("/api/feedback", json=inline | {"comment": "boom 1234"})
        assert (boom.status_code, boom.json()["error"]["code"]) == (500, "redaction_failed")
        on_disk = b"".join(file.read_bytes() for file in (tmp_path / "home").glob("feedback-*"))
        assert b"f3" in on_disk
        assert b"1234" not in on_disk
        redis_process.start()
    registry = Registry.open(settings)
    for text in (str(registry.interactions.get("r1")), str(registry.feedback.all("bot"))):
        assert "####" in text or "##" in text
        assert "1234" not in text
        assert "no 77" not in text
    registry.close()
