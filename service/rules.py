"""Which scope which path needs: one table, read from above. What stands nowhere in it needs ``admin``; for any other key it
is not there (404).

Pure. ``service/gate.py`` asks it before anything else of a request is looked at, on BentoML's own routes too; a test
walks all routes of the running service and fails for one that no line of the table names. So no line takes whatever may
come under ``/api`` or ``/v1``: a new route is closed until it is named here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Need = Literal["open", "any", "infer", "feedback", "operate", "admin"]
"""``open``: no key; ``any``: any key that is not limited to adapters; else the scope."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``methods``: empty for all; ``adapter``: the part of the path that names one is held against the key's own."""

    methods: str
    path: re.Pattern[str]
    need: Need

    def fits(self, method: str, path: str) -> re.Match[str] | None:
        return self.path.fullmatch(path) if not self.methods or method in self.methods.split() else None


def _rule(methods: str, path: str, need: Need) -> Rule:
    return Rule(methods, re.compile(path), need)


_ADAPTER = r"/api/adapters/(?P<adapter>[^/]+)"
RULES: tuple[Rule, ...] = (
    _rule("", r"/v1/(chat/)?completions", "infer"),
    _rule("GET HEAD", r"/(livez|readyz|healthz)", "open"),
    _rule("GET HEAD", r"/metrics", "any"),
    _rule("", r"/v1/models(/.*)?", "infer"),  # the name of a base may have slashes
    _rule("POST", r"/api/feedback", "feedback"),
    _rule("", r"/api/feedback(/export)?", "operate"),
    _rule("", r"/api/keys(/[^/]+)?", "admin"),
    _rule("", r"/api/artifacts/(check|gc)", "admin"),
    _rule("", r"/api/status/accept-registry", "admin"),
    _rule("", r"/api/status(/engine)?", "operate"),
    _rule("", r"/api/adapters", "operate"),
    _rule("", _ADAPTER, "operate"),
    _rule("", rf"{_ADAPTER}/(promote|rollback|canary|pin|unpin|retire)", "operate"),
    _rule("", rf"{_ADAPTER}/(history|lineage|metrics|policy)", "operate"),
    _rule("", rf"{_ADAPTER}/guards(/[^/]+)?", "operate"),
    _rule("", rf"{_ADAPTER}/versions(/[^/]+(/artifact)?)?", "operate"),
    _rule("", r"/api/runs(/[^/]+(/(cancel|events))?)?", "operate"),
    _rule("", r"/api/snapshots/[^/]+", "operate"),
    _rule("", r"/api/workers", "operate"),
    _rule("GET HEAD", r"/(docs|docs/oauth2-redirect|openapi\.json)", "operate"),
    # BentoML's own: the page of the service, its description of itself, its files.
    _rule("GET HEAD", r"/(docs\.json|schema\.json|static_content(/.*)?)?", "operate"),
)
OTHERWISE = _rule("", r".*", "admin")


def rule_for(method: str, path: str) -> tuple[Rule, str | None]:
    """The first rule that fits, and the adapter that the path names, if it does."""
    for rule in RULES:
        if found := rule.fits(method, path):
            return rule, found.groupdict().get("adapter")
    return OTHERWISE, None
