"""How logs are written, in a process of their own: a test's own handlers stay as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.errors import BadInput
from registry.logs import LogSettings

ROOT = Path(__file__).parents[2]


def lines(code: str, **environment: str) -> tuple[list[str], str]:
    """What a process that runs ``code`` wrote to standard error, line by line, and to standard output."""
    given = os.environ | {"PYTHONPATH": str(ROOT), "SHOAL_LOG_FORMAT": "json"} | environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=given, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stderr.splitlines(), done.stdout


def objects(code: str, **environment: str) -> list[dict[str, Any]]:
    written, printed = lines(code, **environment)
    assert printed == ""
    return [json.loads(line) for line in written]


def test_a_line_carries_what_is_bound_where_it_is_written() -> None:
    """Also in threads and tasks that were started within; not after the end of it."""
    code = """
import asyncio, logging
from registry import logs
logs.configure(); logs.name_process(worker="w1")
log = logging.getLogger("shoal.x")
async def request(number):
    logs.bind(request_id=number)
    await asyncio.sleep(0)
    log.info("in a task")
    await asyncio.to_thread(log.info, "in a thread")
async def main():
    await asyncio.gather(request(1), request(2))
with logs.bound(run="r", adapter="a"):
    log.info("one\\nline")
    asyncio.run(main())
log.info("after")
"""
    told = objects(code)
    assert told[0] == told[0] | {"run": "r", "adapter": "a", "worker": "w1", "message": "one\nline", "level": "info"}
    assert sorted(line["request_id"] for line in told[1:5]) == [1, 1, 2, 2]
    assert all(line["run"] == "r" for line in told[1:5])
    assert told[5].keys() == {"time", "level", "logger", "message", "worker"}


def test_whatever_is_written_is_json() -> None:
    """Handlers that libraries set up before, what is printed, warnings, errors with their traceback, the last error of all."""
    code = """
import logging, warnings
other = logging.getLogger("library"); other.addHandler(logging.StreamHandler()); other.propagate = False
from registry import logs
logs.configure()
other.warning("from a library")
print("a banner"); print("and more", end="")
print(" of it")
warnings.warn("old")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("shoal").exception("it failed")
raise SystemError("the end")
"""
    told = objects(code)
    said = [line["message"] for line in told]
    assert said[:3] == ["from a library", "a banner", "and more of it"]
    assert "old" in said[3]
    assert "ZeroDivisionError" in told[4]["exception"]
    assert (told[5]["level"], "SystemError: the end" in told[5]["exception"]) == ("critical", True)


def test_the_level_is_shoals_own() -> None:
    """SHOAL_LOG_LEVEL: of what Shoal says. Libraries keep their own, or the one that the process was told."""
    code = """
import logging
from registry import logs
logs.configure(level=logging.ERROR)
for name in ("shoal.a", "service.b", "library"):
    logging.getLogger(name).debug("debug"); logging.getLogger(name).warning("warning")
"""
    assert [(line["logger"], line["level"]) for line in objects(code, SHOAL_LOG_LEVEL="debug")] == [
        ("shoal.a", "debug"), ("shoal.a", "warning"), ("service.b", "debug"), ("service.b", "warning"),
    ]  # fmt: skip
    assert [line["logger"] for line in objects(code, SHOAL_LOG_LEVEL="error")] == []


def test_text_leaves_everything_as_it_is() -> None:
    code = "from registry import logs; logs.configure(); print('printed'); raise SystemError('the end')"
    written, printed = lines(code, SHOAL_LOG_FORMAT="text")
    assert printed == "printed\n"
    assert written[-1] == "SystemError: the end"


def test_a_wrong_format_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one sentence that names the variable."""
    monkeypatch.setenv("SHOAL_LOG_FORMAT", "xml")
    with pytest.raises(BadInput, match="SHOAL_LOG_FORMAT"):
        LogSettings.load()
