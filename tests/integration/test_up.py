"""`shoal up` with real processes: a real Redis, and small ones in the places of the workers and the service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.connection import connect
from shoal import leftovers, redis_server
from shoal.errors import UpError
from shoal.ports import free_port
from shoal.processes import MARK, ProcessSpec
from shoal.settings import UpSettings
from shoal.up import Up
from tests.redis_server import RedisServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl are Linux's")

SERVICE = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = {"adapters": [{"name": "support-bot", "rollout": {"champion": 3}}], "env": dict(os.environ)}
        body = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *told):
        pass
print("serving", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
SLEEPER = "import time; print('awake', flush=True); time.sleep(600)"
# Says when it is told to stop, in a file that all of them share.
POLITE = """
import signal, sys, time
def stop(number, frame):
    open(sys.argv[1], "a").write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("polite", flush=True)
time.sleep(600)
"""
# Does not stop, and has a child in a session of its own that does not stop either.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"],
                         start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""
# Has a child that gives itself a title, as vLLM's engine does.
TITLE = """
import os, setproctitle, time
setproctitle.setproctitle("title")
print("titled", os.getpid(), flush=True)
time.sleep(600)
"""
TITLED = """
import os, subprocess, sys, time
if sys.argv[1]:
    del os.environ["SPT_NOENV"]
subprocess.Popen([sys.executable, "-c", sys.argv[2]])
time.sleep(600)
"""
Table = Callable[[UpSettings], list[ProcessSpec]]
Start = Callable[..., Up]


def python(script: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script, *arguments)


def service(settings: UpSettings) -> ProcessSpec:
    return ProcessSpec("service", python(SERVICE, str(settings.port)), layer=2, probed=True)


def table(*more: ProcessSpec) -> Table:
    return lambda settings: [*more, service(settings)]


def alive(pid: int) -> bool:
    return leftovers.started_at(pid) is not None


def eventually(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOAL_REDIS_URL", "SHOAL_API_KEY", "SHOAL_HOME", "SHOAL_BASE", "SHOAL_PORT", "SHOAL_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Make an ``Up`` whose processes are all gone when the test ends."""
    made: list[Up] = []

    def begin(processes: Table, **given: Any) -> Up:
        up = Up(UpSettings.load(home=home, base="some/model", **{"port": free_port(), **given}), table=processes)
        made.append(up)
        return up

    yield begin
    for up in made:
        up.ask_stop(kill=True)
        up.stop()


def test_logs_as_json_are_json_to_the_last_line(start: Start, home: Path) -> None:
    """Lines of a process that writes JSON stand as they are; those of others become objects in the files."""
    said = json.dumps({"message": "mine"})
    speaker = f"import time; print({said!r}, flush=True); print('not json', flush=True); time.sleep(600)"
    with start(table(ProcessSpec("control", python(speaker))), log_format="json") as up:
        assert up.wait_ready(20)
        eventually(lambda: "not json" in (home / "logs" / "control.log").read_text())
    written = {name: (home / "logs" / f"{name}.log").read_text().splitlines() for name in ("control", "redis")}
    told = {name: [json.loads(line) for line in lines] for name, lines in written.items()}
    assert {"message": "mine"} in told["control"]
    assert {line["message"] for line in told["control"]} >= {"mine", "not json"}
    assert {line["logger"] for line in told["redis"]} == {"redis"}


def test_everything_starts_is_ready_and_stops(start: Start, home: Path) -> None:
    """Processes find where everything is in their environment; afterwards none is left, and the home is free."""
    with start(table(ProcessSpec("control", python(SLEEPER)))) as up:
        assert up.wait_ready(20)
        pids = up.processes
        assert set(pids) == {"redis", "control", "service"}
        mark = json.loads((home / "up.json").read_text())["id"]
        env = httpx.get(f"{up.url}/env").json()["env"]
        with connect(up.redis_url) as redis:
            assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        eventually(lambda: "awake" in (home / "logs" / "control.log").read_text())
    assert env["SHOAL_REDIS_URL"] == up.redis_url
    assert env["SHOAL_ARTIFACTS_URL"] == str(home / "artifacts")
    assert env["SHOAL_BASE"] == "some/model"
    assert (env["SHOAL_HOST"], env["SHOAL_PORT"]) == ("127.0.0.1", str(up.settings.port))
    assert env["BENTOML_DO_NOT_TRACK"] == "1"
    assert not any(alive(pid) for pid in pids.values())
    assert leftovers.marked(mark) == []
    assert not (home / "up.json").exists()


def test_what_redis_held_is_there_at_the_next_start(start: Start) -> None:
    with start(table()) as up, connect(up.redis_url) as redis:
        redis.set("shoal:kept", "yes")
    with start(table()) as up, connect(up.redis_url) as redis:
        assert redis.get("shoal:kept") == "yes"


def test_a_redis_at_work_in_the_folder_stops_the_start(start: Start, home: Path) -> None:
    """Started by hand by the file that it had: refused with the command that ends it, and nothing is changed. When it has
    ended, the next start has what it was told."""
    with start(table()) as up:
        pass
    config = home / "redis" / "redis.conf"
    before = config.read_text()
    with subprocess.Popen([redis_server.found(), str(config)], stdout=subprocess.DEVNULL) as by_hand:
        try:
            eventually(lambda: redis_server.answers(up.redis_url))
            with pytest.raises(UpError, match=rf"`kill {by_hand.pid}`"):
                start(table()).start()
            assert config.read_text() == before
            with connect(up.redis_url) as redis:
                redis.set("shoal:kept", "by hand")
        finally:
            by_hand.terminate()
    with start(table()) as up, connect(up.redis_url) as redis:
        assert redis.get("shoal:kept") == "by hand"


def test_a_copy_of_a_home_is_not_taken_for_it(start: Start, home: Path, tmp_path: Path) -> None:
    """Its configuration leads to the server of the other home, which does not write here."""
    (tmp_path / "copy").mkdir()
    with start(table()) as up:
        shutil.copy(home / "redis" / "redis.conf", tmp_path / "copy")
        assert redis_server.at_work(home / "redis") == up.processes["redis"]
        assert redis_server.at_work(tmp_path / "copy") is None
    assert redis_server.at_work(home / "redis") is None


def test_redis_needs_its_password_and_nobody_else_may_read_it(start: Start, home: Path) -> None:
    with start(table()) as up:
        port = up.redis_url.rpartition(":")[2].removesuffix("/0")
        with socket.create_connection(("127.0.0.1", int(port))) as link:
            link.sendall(b"KEYS *\r\n")
            assert link.recv(100).startswith(b"-NOAUTH")
        assert [(home / name).stat().st_mode & 0o077 for name in ("up.json", "redis/redis.conf")] == [0, 0]
        assert up.redis_url.split("@")[0].rpartition(":")[2] not in (home / "logs" / "redis.log").read_text()


@pytest.mark.parametrize("name", ["redis", "control", "service"])
def test_a_process_that_dies_is_started_again(start: Start, home: Path, name: str) -> None:
    """Also Redis, at the same address; and a line says so."""
    with start(table(ProcessSpec("control", python(SLEEPER)))) as up:
        up.wait_ready(20)
        before = up.processes
        up.kill(name, signal.SIGKILL)
        after = eventually(
            lambda: len(up.processes) == len(before) and up.processes[name] != before[name] and up.processes
        )
        assert {key for key in before if before[key] != after[key]} == {name}
        eventually(lambda: redis_server.answers(up.redis_url))
    told = (home / "logs" / "shoal.log").read_text()
    assert f"{name} ended (killed by SIGKILL); starting it again in 0.5 s" in told


def test_the_children_of_a_process_that_died_die_before_its_restart(start: Start, home: Path) -> None:
    """A worker's engine in a session of its own would otherwise live on beside the next one's."""
    with start(table(ProcessSpec("score", python(STUBBORN), stop_seconds=0.2))) as up:
        log = home / "logs" / "score.log"
        child = int(eventually(lambda: log.exists() and log.read_text().split()[-1:])[0])
        assert alive(child)
        up.kill("score", signal.SIGKILL)
        eventually(lambda: not alive(child))


def test_three_quick_deaths_stop_everything(start: Start) -> None:
    """What cannot be kept running is told with its last lines, and nothing else is left running."""
    broken = "import sys; print('no such model'); sys.exit(7)"
    up = start(table(ProcessSpec("score", python(broken))))
    up.start()
    pids = eventually(lambda: up.processes)
    with pytest.raises(UpError, match=r"score ended 3 times in a row .* exit code 7") as told:
        up.wait()
    assert told.value.details["lines"] == ["no such model"]
    assert not any(alive(pid) for pid in pids.values())
    with pytest.raises(UpError, match="3 times"):
        up.wait_ready(5)


def test_a_redis_that_cannot_start_is_told(start: Start, home: Path) -> None:
    (home / "redis").mkdir(parents=True)
    (home / "redis" / "appendonly.aof").write_bytes(b"this is no append-only file")
    (home / "redis" / "appendonly.aof").with_name("appendonlydir").touch()
    up = start(table())
    with pytest.raises(UpError):
        up.start()
    assert up.started is False or up.processes == {}


def test_the_service_stops_first_and_redis_last(start: Start, tmp_path: Path) -> None:
    told = tmp_path / "told"
    polite = [
        ProcessSpec("control", python(POLITE, str(told), "control")),
        ProcessSpec("service", python(POLITE, str(told), "service"), layer=2),
    ]
    up = start(lambda settings: polite)
    with up:
        pid = up.processes["redis"]
        for name in ("control", "service"):
            eventually(
                lambda log=up.settings.home / "logs" / f"{name}.log": log.exists() and "polite" in log.read_text()
            )
        assert alive(pid)
    assert told.read_text().split() == ["service", "control"]


def test_what_does_not_stop_is_killed_with_its_children(start: Start, home: Path) -> None:
    up = start(table(ProcessSpec("score", python(STUBBORN), stop_seconds=0.3)))
    with up:
        log = home / "logs" / "score.log"
        child = int(eventually(lambda: log.exists() and log.read_text().split()[-1:])[0])
        parent = up.processes["score"]
    assert "score does not stop; killing it" in (home / "logs" / "shoal.log").read_text()
    assert not alive(parent)
    assert not alive(child)


def test_a_home_is_used_by_one(start: Start) -> None:
    """The second is told which process has it; the first is not disturbed."""
    with start(table()) as up:
        with pytest.raises(UpError, match=f"process {os.getpid()}"):
            start(table()).start()
        assert up.wait_ready(20)
        assert len(up.processes) == 2


def test_a_taken_port_refuses_before_anything_starts(start: Start, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UpError, match=f"--port {port + 1}"):
            start(table(), port=port).start()
    assert not (home / "redis").exists()
    with start(table()) as up:  # and the home is free again
        assert up.wait_ready(20)


def test_a_redis_of_yours_is_used_as_it_is(start: Start, redis_url: str, home: Path) -> None:
    with start(table(), redis_url=redis_url) as up:
        up.wait_ready(20)
        assert set(up.processes) == {"service"}
        assert httpx.get(up.url).json()["env"]["SHOAL_REDIS_URL"] == redis_url
    assert not (home / "redis").exists()


def test_a_redis_of_yours_that_can_lose_records_is_warned_of(
    start: Start, redis_process: RedisServer, home: Path
) -> None:
    """One that evicts, answers before its file has what it was told, or has none, is used, and each is named with its mend."""
    (told,) = redis_server.warnings(redis_process.url)
    assert "appendfsync always" in told
    with connect(redis_process.url) as redis:
        redis.config_set("appendfsync", "always")
        assert redis_server.warnings(redis_process.url) == []
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.config_set("appendonly", "no")
    with start(table(), redis_url=redis_process.url) as up:
        assert up.wait_ready(20)
    told = [line for line in (home / "logs" / "shoal.log").read_text().splitlines() if "WARNING" in line]
    assert len(told) == 2
    assert "maxmemory-policy noeviction" in told[0]
    assert "appendonly yes" in told[1]


def test_a_redis_of_yours_that_does_not_answer_is_told_without_its_password(start: Start) -> None:
    with pytest.raises(UpError, match="does not answer") as told:
        start(table(), redis_url=f"redis://:s3cret@127.0.0.1:{free_port()}/0").start()
    assert "s3cret" not in told.value.message


def test_a_service_that_is_not_ready_in_time_is_told(start: Start) -> None:
    up = start(lambda settings: [ProcessSpec("service", python(SLEEPER), layer=2, probed=True)])
    with up, pytest.raises(UpError, match=r"not ready after 0\.3 seconds"):
        up.wait_ready(0.3)


PROGRAM = """
import sys
sys.path[:0] = [{root!r}]
from pathlib import Path
from shoal.cli import output, terminal
from shoal.errors import UpError
from shoal.processes import ProcessSpec
from shoal.settings import UpSettings
service = {service!r}
def table(settings):
    return [
        ProcessSpec("score", (sys.executable, "-c", {stubborn!r}), stop_seconds={patience}),
        ProcessSpec("service", (sys.executable, "-c", service, str(settings.port)), layer=2, probed=True),
    ]
try:
    terminal.serve(UpSettings.load(home=Path(sys.argv[1]), port=int(sys.argv[2]), base="some/model"), table)
except UpError as error:
    output.error(error)
    sys.exit(1)
"""


@pytest.fixture
def program(home: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`shoal up` as a process of its own, ready."""
    started: list[subprocess.Popen[str]] = []

    def begin(patience: float = 0.3) -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[2])
        source = PROGRAM.format(root=root, service=SERVICE, stubborn=STUBBORN, patience=patience)
        command = [sys.executable, "-c", source, str(home), str(free_port())]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    leftovers.clean(home)


def read_until(process: subprocess.Popen[str], *words: str) -> str:
    told = ""
    assert process.stdout
    for line in process.stdout:
        told += line
        if all(word in told for word in words):
            return told
    raise AssertionError(f"it ended before it said {words!r}:\n{told}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_all_in_order(program: Callable[..., subprocess.Popen[str]], home: Path, number: int) -> None:
    """The terminal shows whose each line is, and when what answers is ready; exit code 0, nothing left."""
    process = program()
    told = read_until(process, "next:", "score   | child")
    assert "(support-bot -> version 3)" in told
    assert "ready: http://127.0.0.1:" in told
    assert "\x1b" not in told
    mark = json.loads((home / "up.json").read_text())["id"]
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.rstrip().endswith("stopped")
    assert leftovers.marked(mark) == []


def test_a_second_signal_kills(program: Callable[..., subprocess.Popen[str]], home: Path) -> None:
    process = program(patience=60)
    read_until(process, "next:")
    mark = json.loads((home / "up.json").read_text())["id"]
    process.send_signal(signal.SIGINT)
    read_until(process, "stopping")
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert leftovers.marked(mark) == []


def test_nothing_outlives_a_kill_and_the_next_start(
    program: Callable[..., subprocess.Popen[str]], home: Path, start: Start
) -> None:
    """The kernel ends what `shoal up` started when it is killed; the next start ends what *they* had started."""
    process = program(patience=60)
    read_until(process, "next:")
    record = json.loads((home / "up.json").read_text())
    pids = {name: one["pid"] for name, one in record["processes"].items()}
    assert set(pids) == {"redis", "score", "service"}
    process.kill()
    process.wait()
    eventually(lambda: not any(alive(pid) for pid in pids.values()))
    strays = leftovers.marked(record["id"])
    assert strays, "the stubborn child of the scoring worker is in a session of its own"
    with start(table()) as up:
        assert not any(alive(pid) for pid in strays)
        assert up.wait_ready(20)
    assert "an earlier `shoal up`" in (home / "logs" / "shoal.log").read_text()


@pytest.mark.parametrize("kept", [True, False])
def test_a_process_that_writes_its_title_over_its_environment_is_found(start: Start, home: Path, *, kept: bool) -> None:
    """vLLM's engine does; the environment is kept from it, and where it is not, who its parent is tells."""
    with start(table(ProcessSpec("score", python(TITLED, "" if kept else "-u", TITLE)))) as up:
        (child,) = eventually(lambda: titled(home))
        mark = json.loads((home / "up.json").read_text())["id"]
        assert (f"{MARK}={mark}:score:".encode() in Path(f"/proc/{child}/environ").read_bytes()) == kept
        assert {child, up.processes["score"]} <= set(leftovers.marked(mark))
        up.kill("score", signal.SIGKILL)
        eventually(lambda: not alive(child))


def titled(home: Path) -> list[int]:
    """The children that say in the log that they have their title."""
    log = home / "logs" / "score.log"
    return [int(line.split()[-1]) for line in log.read_text().splitlines() if "titled" in line] if log.exists() else []


def test_somebody_elses_process_is_left_alone(home: Path) -> None:
    """A process id in up.json that was given away since then is not signalled."""
    with subprocess.Popen(
        python(SLEEPER), start_new_session=True, env={"PATH": os.environ["PATH"], MARK: "other:"}
    ) as other:
        home.mkdir()
        record = {"id": "mine", "processes": {"score": {"pid": other.pid, "start": "1"}}}
        leftovers.write(home, record)
        assert leftovers.clean(home) == []
        assert alive(other.pid)
        other.kill()
