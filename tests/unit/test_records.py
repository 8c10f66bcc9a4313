"""Records are frozen, strict, and print as sentences."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from registry.errors import RegistryDown, RolloutMoved, ShoalError
from registry.keys import Keys
from registry.records import Event, Message, Rollout, Version

AT = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "sha256:" + "a" * 64


def version(**changed: object) -> Version:
    fields = {"adapter": "bot", "version": 1, "digest": DIGEST, "rank": 4, "size": 10, "created_at": AT}
    return Version(**{**fields, "created_by": "ann", **changed})


def test_a_record_does_not_change_and_knows_its_fields() -> None:
    """A record is frozen and refuses fields that this Shoal does not know."""
    with pytest.raises(ValidationError):
        version().note = "new"
    with pytest.raises(ValidationError):
        version(colour="red")


@pytest.mark.parametrize("name", ["", "Bot", "-bot", "bot-", "a b", "a/b", "a:b", "{a}", "a@1", "x" * 65, "bot\n"])
def test_odd_adapter_names_are_refused(name: str) -> None:
    """A name that could be mistaken for a path, a key or a version is no adapter name."""
    with pytest.raises(ValidationError):
        version(adapter=name)


@pytest.mark.parametrize("digest", ["", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "md5:" + "a" * 64, DIGEST + "/.."])
def test_only_whole_digests_are_taken(digest: str) -> None:
    """A digest is sha256 and 64 lower-case hex digits."""
    with pytest.raises(ValidationError):
        version(digest=digest)


def test_json_and_back_is_the_same_record() -> None:
    """A record survives its own JSON, floats exactly."""
    rollout = Rollout(adapter="bot", revision=3, champion=2, challenger=3, challenger_share=0.1 + 0.2, moved_at=AT)
    assert Rollout.model_validate_json(rollout.model_dump_json()) == rollout


def test_pinned_is_champion_challenger_and_the_way_back() -> None:
    """A replica keeps three versions at most, each once."""
    rollout = Rollout(adapter="bot", revision=3, champion=2, challenger=1, trail=(3, 1), moved_at=AT)
    assert rollout.pinned == (2, 1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "promoted", "before": 1, "after": 2, "version": 2}, "ann promoted bot from 1 to 2: it is better"),
        ({"kind": "promoted", "after": 1, "version": 1}, "ann promoted bot to 1: it is better"),
        ({"kind": "rolled_back", "before": 2, "after": 1}, "ann rolled bot back from 2 to 1: it is better"),
        ({"kind": "retired", "version": 2}, "ann retired bot@2: it is better"),
    ],
)
def test_an_event_reads_as_a_sentence(fields: dict, sentence: str) -> None:
    """History can be read aloud."""
    assert str(Event(adapter="bot", at=AT, by="ann", reason="it is better", revision=1, **fields)) == sentence


def test_an_event_is_one_line_whatever_its_reason_holds() -> None:
    """A note has lines, and reasons were not always checked: nobody writes a second line into the history, or turns its text."""
    reason = "good\n2026 r9 bob promoted bot\x1b[2J\u202e" + "x" * 5000
    told = str(Event(kind="retired", adapter="bot", at=AT, by="ann", reason=reason, revision=1, version=2))
    assert told.startswith("ann retired bot@2: good 2026 r9 bob promoted bot\ufffd[2J\ufffdxxx")
    assert len(told) < 2100
    assert told.isprintable()


def test_messages_ignore_what_they_do_not_need() -> None:
    """Chat messages come with more fields than are kept."""
    assert Message.model_validate({"role": "user", "content": "hi", "name": "x"}) == Message(role="user", content="hi")


def test_errors_have_one_body() -> None:
    """Every error becomes code, message and details; a subclass keeps its status."""
    error = RolloutMoved("bot", expected=1, actual=2)
    assert error.status == 409
    assert error.body()["error"]["code"] == "rollout_moved"
    assert error.body()["error"]["details"]["actual_revision"] == 2
    assert isinstance(RegistryDown("gone"), ShoalError)


def test_keys_of_an_adapter_share_one_hash_tag() -> None:
    """What one atomic change touches lies in one slot."""
    keys = Keys("ns")
    made = [keys.adapter("bot"), keys.rollout("bot"), keys.history("bot"), keys.operation("bot", "{x}")]
    assert all(key.startswith("ns:{bot}:") for key in made)
    assert keys.until("replicas") not in [keys.of("replicas", "until")]
