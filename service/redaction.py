"""Redaction: hooks that text passes before it is stored. Text in, text out; what a hook fails on is not stored.

A hook is a function of one text: the one that ``SHOAL_REDACT`` names (``package.module:function``, or a redactor's name) for
everything, then the one that the adapter's policy names. A policy comes over HTTP, so it may only name what is installed: an
entry point of the group ``shoal.redactors``. A hook may meet its own work again (feedback that waited on disk): it must leave
that as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from registry.errors import BadInput, RedactionFailed
from registry.records import Interaction, Message

GROUP = "shoal.redactors"
TEXTS = ("prompt", "answer", "correction", "preferred", "rejected", "comment")
Hook = Callable[[str], str]
log = logging.getLogger("shoal.redaction")


class Redaction:
    """The hooks of this service. ``BadInput`` where the setting names none that can be called."""

    def __init__(self, setting: str | None = None) -> None:
        self._installed = {point.name: point for point in entry_points(group=GROUP)}
        self._loaded: dict[str, Hook] = {}
        self._always = self._named(setting) if setting else None

    @property
    def installed(self) -> list[str]:
        """The names that a policy may use."""
        return sorted(self._installed)

    def interaction(self, interaction: Interaction, names: Iterable[str]) -> Interaction:
        """The interaction as it may be stored. ``RedactionFailed``."""
        hooks = self._hooks(names)
        if not hooks:
            return interaction
        update: dict[str, Any] = {"answer": _passed(interaction.answer, hooks)}
        if interaction.prompt is not None:
            update["prompt"] = _passed(interaction.prompt, hooks)
        if interaction.messages is not None:
            update["messages"] = tuple(
                Message(role=message.role, content=_passed(message.content, hooks)) for message in interaction.messages
            )
        return interaction.model_copy(update=update)

    def fields(self, fields: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """The fields of feedback as they may be stored: every text in them. ``RedactionFailed``."""
        hooks = self._hooks(names)
        if not hooks:
            return fields
        passed: dict[str, Any] = {name: _passed(fields[name], hooks) for name in TEXTS if fields.get(name) is not None}
        if fields.get("messages"):
            passed["messages"] = [one | {"content": _passed(one["content"], hooks)} for one in fields["messages"]]
        return fields | passed

    def _hooks(self, names: Iterable[str]) -> list[Hook]:
        hooks = [self._always] if self._always else []
        for name in names:
            try:
                hooks.append(self._loaded.get(name) or self._named(name))
            except BadInput as error:
                raise RedactionFailed(error.message) from error
        return hooks

    def _named(self, name: str) -> Hook:
        """An installed redactor by its name; ``package.module:function`` is the operator's alone to say."""
        if name in self._installed:
            hook = self._installed[name].load()
        elif ":" in name:
            hook = _imported(name)
        else:
            known = ", ".join(self.installed) or "none is installed"
            raise BadInput(
                f"There is no redactor '{name[:64]}' (entry point group '{GROUP}': {known}).", field="redact"
            )
        if not callable(hook):
            raise BadInput(f"The redactor '{name[:64]}' is no function.", field="redact")
        self._loaded[name] = hook
        return hook  # type: ignore[no-any-return]


def _imported(name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"SHOAL_REDACT names '{name}', which cannot be imported: {error}.", field="redact") from error


def _passed(text: str, hooks: list[Hook]) -> str:
    """The text behind every hook. Whatever a hook raises, its words may repeat the text: only its kind is told."""
    for hook in hooks:
        try:
            text = hook(text)
        except Exception as error:
            raise RedactionFailed(f"The redaction hook raised {type(error).__name__}.") from None
        if not isinstance(text, str):
            raise RedactionFailed(f"The redaction hook answered {type(text).__name__}, not text.")
    return text
