"""How each adapter's answers are recorded now: the settings, under the adapter's policy as it was last read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from registry.policy import Policy
from registry.recording import Recording
from registry.settings import RegistrySettings

EVERY_SECONDS = 2.0


class RecordingRules:
    """Safe for threads. ``refresh`` asks the registry at most every two seconds; the rest answers from memory. While the registry
    cannot be read, the policies stand as they were last read, and where they never were, the settings."""

    def __init__(self, settings: RegistrySettings, policies: Callable[[], Mapping[str, Policy]]) -> None:
        self._base = Recording(
            mode=settings.record_interactions,
            rate=settings.record_rate,
            keep_for=settings.interactions_days * 86400.0,
        )
        self._read = policies
        self._looked = float("-inf")
        self._failing = False
        self._held: dict[str, Recording] | None = None

    def refresh(self) -> None:
        """Read the policies, if it is time. ``RegistryDown``."""
        if self._fresh:
            return
        try:
            self._held = {name: self._base.under(policy.recording) for name, policy in self._read().items()}
        except Exception:
            self._failing = True
            raise
        self._failing, self._looked = False, time.monotonic()

    @property
    def failing(self) -> bool:
        """Whether they could not be read when they were last asked for."""
        return self._failing

    @property
    def current(self) -> bool:
        """Whether ``of`` says the most that can be known now: what was read a moment ago, or what stands while they cannot be
        read. Else ``refresh`` goes first."""
        return self._failing or self._fresh

    @property
    def _fresh(self) -> bool:
        return time.monotonic() - self._looked < EVERY_SECONDS

    def of(self, adapter: str) -> Recording:
        """How the adapter's answers are recorded."""
        return (self._held or {}).get(adapter, self._base)

    @property
    def redactors(self) -> list[str] | None:
        """Every redactor that a policy names; None where no policy was ever read."""
        if self._held is None:
            return None
        return sorted({rule.redact for rule in self._held.values() if rule.redact is not None})
