"""The commands that look after the place for weights say what was found and what went."""

from __future__ import annotations

import pytest

from shoal.cli.app import run
from tests.unit.fake_shoal import serving

FINDING = {"digest": "sha256:" + "a" * 64, "state": "damaged", "named_by": ["bot@2"]}


def test_the_check_fails_where_something_cannot_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and the version's name; 0 where all is whole."""
    with serving() as shoal:
        shoal.answers["POST /api/artifacts/check"] = {"checked": 3, "findings": [FINDING]}
        assert run(["artifacts", "check", "--url", shoal.url]) == 1
        assert "bot@2" in capsys.readouterr().out
        shoal.answers["POST /api/artifacts/check"] = {"checked": 3, "findings": []}
        assert run(["artifacts", "check", "--url", shoal.url]) == 0
        assert "All 3 artifacts are whole." in capsys.readouterr().out


def test_a_dry_run_is_asked_for_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    """`shoal gc --dry-run` sends it, and prints what would go and how much it is."""
    answer = {"collected": [{"what": FINDING["digest"], "size": 2_000_000}], "bytes": 2_000_000, "young": 1}
    with serving() as shoal:
        shoal.answers["POST /api/artifacts/gc"] = answer
        assert run(["gc", "--dry-run", "--url", shoal.url]) == 0
        assert shoal.asked[0].json == {"dry_run": True}
    assert "1 would be deleted" in capsys.readouterr().out
