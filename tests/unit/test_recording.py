"""Which answers are recorded, through which hooks, and what is said of those that are not."""

from __future__ import annotations

import json
import sys
import traceback
import types
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from pydantic import ValidationError

from registry.errors import BadInput, RedactionFailed
from registry.policy import Policy
from registry.recording import Recording, RecordingPolicy
from registry.records import Interaction, Message
from service import redaction
from service.redaction import Redaction

AT = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Recording(mode="all", rate=0.1, keep_for=86400.0)


def shout(text: str) -> str:
    return text.upper()


def without_digits(text: str) -> str:
    return "".join("#" if letter.isdigit() else letter for letter in text)


def broken(text: str) -> str:
    raise ValueError(f"cannot read {text}")


def not_text(text: str) -> Any:
    return None


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redactors as an installed package brings them: entry points, and a module that can be imported."""
    module = types.ModuleType("some_redactors")
    for hook in (shout, without_digits, broken, not_text):
        setattr(module, hook.__name__, hook)
    monkeypatch.setitem(sys.modules, "some_redactors", module)
    points = [
        EntryPoint(name, f"some_redactors:{name}", redaction.GROUP) for name in ("without_digits", "broken", "not_text")
    ]
    monkeypatch.setattr(redaction, "entry_points", lambda group: points)


def test_a_policy_goes_before_the_settings_field_by_field() -> None:
    """What it leaves open is as the settings say."""
    assert SETTINGS.under(RecordingPolicy()) == SETTINGS
    policy = RecordingPolicy.model_validate({"mode": "sampled", "keep_for": "12h"})
    assert SETTINGS.under(policy) == Recording("sampled", 0.1, 43200.0)
    assert SETTINGS.under(RecordingPolicy(rate=0.5, redact="mail")) == Recording("all", 0.5, 86400.0, "mail")


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "some"},
        {"rate": 1.5},
        {"keep_for": 0},
        {"keep_for": "5000d"},
        {"redact": "os:system"},
        {"colour": "red"},
    ],
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """Also one that names a function by its module: that is for the operator's settings alone."""
    with pytest.raises(BadInput, match="recording"):
        Policy.read({"recording": wrong})
    with pytest.raises(ValidationError):
        RecordingPolicy.model_validate(wrong)


def test_a_sample_is_the_same_on_every_replica() -> None:
    """It follows from the request id, has about the rate asked for, and 0 and 1 are none and all."""
    ids = [f"req-{number}" for number in range(2000)]
    sampled = Recording("sampled", 0.3, 1.0)
    taken = [name for name in ids if sampled.takes(name)]
    assert taken == [name for name in ids if Recording("sampled", 0.3, 9.0).takes(name)]
    assert 500 < len(taken) < 700
    for rate, count in ((0.0, 0), (1.0, 2000)):
        assert sum(Recording("sampled", rate, 1.0).takes(name) for name in ids) == count
    assert not any(Recording("off", 1.0, 1.0).takes(name) for name in ids)
    assert all(Recording("all", 0.0, 1.0).takes(name) for name in ids)


def test_every_text_passes_the_hooks_in_order(hooks: None) -> None:
    """Of an interaction prompt, messages and answer; of feedback those and what was said of it. Names stay."""
    passing = Redaction("some_redactors:shout")
    chat = (Message(role="user", content="call 555"),)
    told = Interaction(request_id="r5", adapter="bot", version=1, messages=chat, prompt="p1", answer="a2", at=AT)

    kept = passing.interaction(told, ["without_digits"])

    assert kept.messages == (Message(role="user", content="CALL ###"),)
    assert (kept.prompt, kept.answer, kept.request_id) == ("P#", "A#", "r5")
    said = {"id": "f1", "rater": "ann5", "prompt": "p1", "correction": "c2", "comment": "x", "rating": 1.0}
    assert passing.fields(said, ["without_digits"]) == said | {"prompt": "P#", "correction": "C#", "comment": "X"}
    messages = {"messages": [{"role": "user", "content": "q1"}]}
    assert passing.fields(messages, []) == {"messages": [{"role": "user", "content": "Q1"}]}


def test_without_hooks_nothing_is_touched() -> None:
    """The same objects come back."""
    told = Interaction(request_id="r1", adapter="bot", version=1, prompt="p", answer="a", at=AT)
    said = {"prompt": "p"}
    assert Redaction().interaction(told, ()) is told
    assert Redaction().fields(said, ()) is said


@pytest.mark.parametrize("name", ["broken", "not_text", "never-installed"])
def test_a_hook_that_fails_lets_nothing_through_and_tells_no_text(hooks: None, name: str) -> None:
    """It raises, answers no text, or is not there: ``RedactionFailed``, whose words do not repeat the prompt."""
    told = Interaction(request_id="r1", adapter="bot", version=1, prompt="a secret", answer="another", at=AT)
    with pytest.raises(RedactionFailed) as failed:
        Redaction().interaction(told, [name])
    said = json.dumps(failed.value.body())
    assert "secret" not in said
    assert "cannot read" not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize("setting", ["some_redactors:nothing", "no_such_module:f", "json:__name__", "unknown"])
def test_a_setting_that_names_no_function_stops_the_start(hooks: None, setting: str) -> None:
    """A service that would record what it should redact does not start."""
    with pytest.raises(BadInput):
        Redaction(setting)


def test_the_setting_may_name_an_installed_redactor(hooks: None) -> None:
    """By name, like a policy."""
    assert Redaction("without_digits").fields({"prompt": "7"}, ()) == {"prompt": "#"}
