"""Thirty seconds of damaged uploads; ten minutes of them: ``python -m tests.fuzz --minutes 10``."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import Fuzz, registry_in


def test_damaged_uploads_are_refused_or_harmless(redis_url: str, tmp_path: Path) -> None:
    """Whatever bytes come, only a refusal comes out, and it leaves nothing: no record, no artifact, no file elsewhere.

    The time ends it, on a slow machine after fewer attempts; which attempts they are is always the same.
    """
    registry = registry_in(tmp_path, redis_url)
    try:
        found = Fuzz(registry, tmp_path, seed=4).run(seconds=30, attempts=2000)
    finally:
        registry.close()
    assert found.broken == []
    assert {"registered", "archive_invalid", "config_invalid"} <= found.answers.keys()
