"""A backup holds everything that Redis and the place for weights keep; a restore is checked, whole, and never silently older."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from registry import backup_records
from registry import restore as restoring
from registry.backup import back_up
from registry.backup_cli import redis_of
from registry.errors import BackupDamaged, BackupRefused, RecordNewer, TargetNotEmpty, WouldGoBack
from registry.keys import Keys
from registry.policy import Policy
from registry.records import Feedback, Interaction, Replica, Run, RunSpec, now
from registry.registry import Registry
from registry.restore import restore
from registry.settings import RegistrySettings
from shoal import redis_server
from shoal.cli import plugins
from shoal.cli.app import run as shoal
from tests.integration.test_replica import a_replica, an_adapter, answers, until
from tests.peft_folders import write_adapter
from tests.redis_server import RedisServer

BOT = "bot"
Change = Callable[[dict[str, bytes]], None]


@pytest.fixture
def target(redis_process: RedisServer, tmp_path: Path) -> Any:
    """An empty Redis and an empty place for weights."""
    settings = RegistrySettings(
        redis_url=redis_process.url,
        namespace="shoal",
        artifacts_url=str(tmp_path / "other-artifacts"),
        cache_dir=str(tmp_path / "other-cache"),
    )
    opened = Registry.open(settings)
    yield opened
    opened.close()


def filled(registry: Registry, tmp_path: Path) -> dict[str, Any]:
    """Something of every kind, and what is asked of it afterwards."""
    for number in range(3):
        write_adapter(tmp_path / f"expert-{number}", seed=number)
        registry.register(BOT, tmp_path / f"expert-{number}", by="ann", label=f"e{number}")
    registry.create_adapter("empty", by="ann")
    registry.promote(BOT, 1, by="ann", operation_id="first")
    registry.set_policy(BOT, Policy(adapt_min_new=77), by="ann")
    registry.pin(BOT, 3, by="ann", reason="to compare")
    middle = now()
    registry.promote(BOT, 2, by="ann", operation_id="second")
    registry.roll_back(BOT, by="ann")
    registry.retire(BOT, 2, by="ann")
    registry.interactions.add_many(
        [Interaction(request_id="r1", adapter=BOT, version=1, prompt="p", answer="ä\n{}", at=now())]
    )
    # More than a page, in an order that their ids do not tell.
    registry.feedback.add_many(
        [
            Feedback(id=f"f{n * 7 % 1201}", adapter=BOT, version=1, prompt="p", answer="a", rating=n % 2, at=now())
            for n in range(1201)
        ]
    )
    run = registry.runs.create(Run(id="run1", spec=RunSpec(adapter=BOT), created_at=now(), created_by="ann"))
    registry.runs.save(run.model_copy(update={"status": "searching"}), search={"generation": 1})
    registry.artifacts.put_json({"named": "by nobody"})
    registry.api_keys.create("ci", ["infer"], by="ann")
    return {"middle": middle}


def told(registry: Registry, middle: Any) -> dict[str, Any]:
    """Everything that can be asked of a registry."""
    return {
        "adapters": registry.adapters(),
        "versions": registry.versions(BOT),
        "history": registry.history(BOT, 1000),
        "at": registry.rollout_at(BOT, middle),
        "lineage": registry.lineage(BOT, 1),
        "policies": registry.policies(),
        "rollout": registry.rollout(BOT),
        "feedback": registry.feedback.all(BOT),
        "page": registry.feedback.list(BOT, 10, before="f7"),
        "figures": registry.figures.read(BOT),
        "interaction": registry.interactions.get("r1"),
        "runs": registry.runs.list(),
        "of_adapter": registry.runs.list(BOT),
        "search": registry.runs.search_state("run1"),
        "states": registry.runs.changes_after("run1", "0"),
        "keys": registry.api_keys.every(),
        "key_history": registry.api_keys.history(),
        "bytes": {version.version: registry.artifacts.fetch(version.digest).name for version in registry.versions(BOT)},
    }


def test_after_a_restore_everything_answers_as_before(registry: Registry, target: Registry, tmp_path: Path) -> None:
    """History, --at, lineage, feedback and its order, runs, policy, pins, keys; and an operation id is answered again."""
    asked = filled(registry, tmp_path)
    manifest = back_up(registry, tmp_path / "all.tar")
    assert (tmp_path / "all.tar").stat().st_mode & 0o077 == 0
    assert manifest.counts["versions"] == 3
    assert manifest.counts["feedback"] == 1201
    assert manifest.counts["artifacts"] == 3
    restored = restore(target, tmp_path / "all.tar", by="test")
    assert restored.accepted == ()
    before, after = told(registry, **asked), told(target, **asked)
    for question in before:
        assert after[question] == before[question], question
    again = target.promote(BOT, 2, by="ann", operation_id="second")
    assert again.champion == 2
    assert target.rollout(BOT) == before["rollout"]  # answered, not done again
    assert target.redis.ttl(target.store._keys.operation(BOT, "second")) > 0  # type: ignore[attr-defined]
    assert target.redis.ttl(target.store._keys.interaction("r1")) > 0  # type: ignore[attr-defined]
    target.promote(BOT, 3, by="ann")
    assert target.history(BOT, 1)[0].number == before["history"][0].number + 1


def rewritten(source: Path, change: Change) -> Path:
    with tarfile.open(source) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
    change(members)
    changed = source.with_name("changed.tar")
    with tarfile.open(changed, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return changed


def _manifest(**fields: Any) -> Change:
    def change(members: dict[str, bytes]) -> None:
        members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | fields).encode()

    return change


def _damage(end: str) -> Change:
    def change(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith(end))
        members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])

    return change


def _drop(end: str) -> Change:
    def change(members: dict[str, bytes]) -> None:
        del members[next(name for name in members if name.endswith(end))]

    return change


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (_damage("adapters.jsonl"), BackupDamaged),
        (_damage("adapter_model.safetensors"), BackupDamaged),
        (_damage("adapter_config.json"), BackupDamaged),
        (_drop("feedback.jsonl"), BackupDamaged),
        (_drop("adapter_model.safetensors"), BackupDamaged),
        (_drop("manifest.json"), BackupDamaged),
        (lambda members: members.update({"../outside": b"x"}), BackupDamaged),
        (_manifest(artifacts=["../../etc/passwd"]), BackupDamaged),
        (_manifest(format=2), RecordNewer),
        (_manifest(schema_number=99), RecordNewer),
    ],
    ids=[
        "records",
        "tensors",
        "config",
        "no feedback",
        "no tensors",
        "no manifest",
        "outside",
        "a path",
        "format",
        "schema",
    ],
)
def test_what_is_damaged_or_newer_is_refused_and_nothing_changes(
    registry: Registry, target: Registry, tmp_path: Path, change: Change, refusal: type[Exception]
) -> None:
    write_adapter(tmp_path / "expert")
    registry.register(BOT, tmp_path / "expert", by="ann")
    back_up(registry, tmp_path / "all.tar")
    with pytest.raises(refusal):
        restore(target, rewritten(tmp_path / "all.tar", change), by="test")
    assert target.redis.dbsize() == 0
    assert target.artifacts.place.listing() == []


def test_a_file_that_ends_too_early_is_refused(registry: Registry, target: Registry, tmp_path: Path) -> None:
    """At any length."""
    write_adapter(tmp_path / "expert")
    registry.register(BOT, tmp_path / "expert", by="ann")
    back_up(registry, tmp_path / "all.tar")
    whole = (tmp_path / "all.tar").read_bytes()
    for length in range(0, whole.rindex(b"manifest.json"), 1999):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(BackupDamaged):
            restoring.check(tmp_path / "cut.tar")
    assert restoring.check(tmp_path / "all.tar").counts["adapters"] == 1


def test_a_restore_goes_back_only_deliberately_and_says_so(registry: Registry, tmp_path: Path) -> None:
    """Not into records that are there; not behind moves, versions or feedback; accepted, it leaves an event, a revision
    above all that were known, and gives no number again. A key revoked since stays revoked."""
    asked = filled(registry, tmp_path)
    back_up(registry, tmp_path / "all.tar")
    (key,) = registry.api_keys.every()
    with pytest.raises(TargetNotEmpty):
        restore(registry, tmp_path / "all.tar", by="test")
    before = told(registry, **asked)
    assert restore(registry, tmp_path / "all.tar", by="test", into_existing=True).accepted == ()
    assert told(registry, **asked) == before

    registry.feedback.add(Feedback(id="late", adapter=BOT, version=1, prompt="p", answer="a", rating=1, at=now()))
    with pytest.raises(WouldGoBack):
        restore(registry, tmp_path / "all.tar", by="test", into_existing=True)
    write_adapter(tmp_path / "expert-4", seed=4)
    registry.register(BOT, tmp_path / "expert-4", by="ann")
    moved = registry.promote(BOT, 4, by="ann")
    registry.api_keys.revoke(key.id, by="ann")
    with pytest.raises(WouldGoBack, match="accept-older"):
        restore(registry, tmp_path / "all.tar", by="test", into_existing=True)
    assert registry.rollout(BOT) == moved

    done = restore(registry, tmp_path / "all.tar", by="test", reason="4 is bad", into_existing=True, accept_older=True)
    assert [rollout.revision for rollout in done.accepted] == [moved.revision + 1]
    newest = registry.history(BOT, 1)[0]
    assert (newest.kind, newest.reason, newest.by) == ("registry_accepted", "4 is bad", "test")
    assert registry.rollout(BOT).champion == before["rollout"].champion
    assert done.keys_kept
    assert registry.api_keys.get(key.id).revoked_at is not None
    write_adapter(tmp_path / "expert-5", seed=5)
    assert registry.register(BOT, tmp_path / "expert-5", by="ann")[0].version == 5


def test_an_interrupted_restore_still_knows_what_was_there(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends between clearing and writing; repeated without --accept-older it is refused all the same."""
    filled(registry, tmp_path)
    back_up(registry, tmp_path / "all.tar")
    moved = registry.promote(BOT, 3, by="ann")

    def ended(*_: Any) -> None:
        raise KeyboardInterrupt

    put = restoring._put_records
    monkeypatch.setattr(restoring, "_put_records", ended)
    with pytest.raises(KeyboardInterrupt):
        restore(registry, tmp_path / "all.tar", by="test", into_existing=True, accept_older=True)
    monkeypatch.setattr(restoring, "_put_records", put)
    assert registry.adapters() == []
    with pytest.raises(WouldGoBack):
        restore(registry, tmp_path / "all.tar", by="test", into_existing=True)
    done = restore(registry, tmp_path / "all.tar", by="test", into_existing=True, accept_older=True)
    assert [rollout.revision for rollout in done.accepted] == [moved.revision + 1]


def test_a_restore_that_is_broken_off_never_shows_a_run_without_its_adapter(
    registry: Registry, target: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ends: what is listed is there, nothing is listed before all of it is; repeated, it goes through."""
    filled(registry, tmp_path)
    back_up(registry, tmp_path / "all.tar")
    write, passed, allowed = backup_records.write, 0, 0

    def passing(lines: Iterable[backup_records.Line]) -> Iterator[backup_records.Line]:
        nonlocal passed
        for line in lines:
            if passed == allowed:
                raise KeyboardInterrupt
            passed += 1
            yield line

    def broken_off(client: Any, keys: Keys, lines: Iterable[backup_records.Line]) -> None:
        for line in passing(lines):
            write(client, keys, [line])

    monkeypatch.setattr(backup_records, "write", broken_off)
    seen: list[tuple[int, int]] = []
    while True:
        passed = 0
        try:
            restore(target, tmp_path / "all.tar", by="test", into_existing=True)
        except KeyboardInterrupt:
            adapters = {adapter.name for adapter in target.adapters()}
            runs = target.runs.list()
            assert {run.spec.adapter for run in runs} <= adapters
            seen.append((len(adapters), len(runs)))
            allowed += 1
        else:
            break
    assert passed == allowed == len(seen)
    assert [one for one in seen if one != (0, 0)] == [(2, 0)]  # between the last two lines
    assert target.adapters() == registry.adapters()
    assert target.runs.list() == registry.runs.list() != []


def test_a_backup_beside_a_busy_shoal_is_one_state_of_each_adapter(
    registry: Registry, target: Registry, tmp_path: Path
) -> None:
    """Moves and feedback go on while it is taken: the history is one line that ends at the rollout's revision, every operation
    in it is answered, and the figures count the feedback that is there."""
    an_adapter(registry, tmp_path)
    ended = threading.Event()

    def move_on() -> None:
        for number in range(100_000):
            if ended.is_set():
                return
            registry.promote(BOT, 2 + number % 2, by="ann", operation_id=f"move-{number}")
            item = Feedback(id=f"f{number}", adapter=BOT, version=1, prompt="p", answer="a", rating=1, at=now())
            registry.feedback.add(item)

    mover = threading.Thread(target=move_on)
    mover.start()
    try:
        time.sleep(0.3)
        back_up(registry, tmp_path / "all.tar")
    finally:
        ended.set()
        mover.join()
    restore(target, tmp_path / "all.tar", by="test")
    events = target.history(BOT, 100_000)
    assert [event.number for event in reversed(events)] == list(range(1, len(events) + 1))
    newest = events[0]
    assert newest.revision == target.rollout(BOT).revision < registry.rollout(BOT).revision
    assert target.store.rollout(BOT, newest.operation_id).answered is not None
    assert target.rollout_at(BOT, newest.at).since.number == newest.number
    assert target.figures.read(BOT)[1]["ratings"] == target.feedback.count(BOT) > 0


def test_the_redis_of_a_home_is_found_without_a_service(tmp_path: Path) -> None:
    """Its address and password stand in the configuration that `shoal up` wrote, also when `shoal up` does not run."""
    assert redis_of(tmp_path) is None
    assert redis_server.RedisServer.configured(tmp_path).url == redis_of(tmp_path)


async def test_a_running_replica_follows_a_restore_into_the_redis_that_was_lost(
    registry: Registry, tmp_path: Path
) -> None:
    """It answers all the while, and moves are possible again without an acceptance; a backup that is older than what the
    replica knows is refused, although Redis is empty."""
    an_adapter(registry, tmp_path)
    back_up(registry, tmp_path / "older.tar")
    replica, _ = await a_replica(registry, tmp_path)
    await replica.start()
    registry.promote(BOT, 2, by="ann")
    back_up(registry, tmp_path / "newest.tar")
    await until(lambda: any(one.revisions.get(BOT) == 2 for one in registry.replicas.live()))
    for key in registry.redis.scan_iter(match=f"{registry.settings.namespace}:*"):
        if ":replicas" not in key:
            registry.redis.delete(key)
    await until(lambda: BOT in replica.problems)
    with pytest.raises(WouldGoBack):
        await asyncio.to_thread(restore, registry, tmp_path / "older.tar", by="test")
    assert await answers(replica) == f"{BOT}@2"
    await asyncio.to_thread(restore, registry, tmp_path / "newest.tar", by="test")
    await until(lambda: not replica.problems)
    await asyncio.to_thread(registry.promote, BOT, 3, by="ann")
    await until(lambda: replica.rollouts[BOT].champion == 3)
    assert await answers(replica) == f"{BOT}@3"
    await replica.stop()


def test_a_backup_without_a_version_that_a_replica_knows_of_is_refused(registry: Registry, tmp_path: Path) -> None:
    """The registration lies between the backup and the loss: no revision tells of it, and no record does any more."""
    an_adapter(registry, tmp_path)
    back_up(registry, tmp_path / "all.tar")
    for key in registry.redis.scan_iter(match=f"{registry.settings.namespace}:*"):
        registry.redis.delete(key)
    registry.replicas.beat(Replica(id="one", at=now(), revisions={BOT: 1}, versions={BOT: 4}))
    with pytest.raises(WouldGoBack):
        restore(registry, tmp_path / "all.tar", by="test")
    restored = restore(registry, tmp_path / "all.tar", by="test", accept_older=True)
    assert [rollout.revision for rollout in restored.accepted] == [3]
    assert registry.adapter(BOT).versions == 4  # the next one is 5
    registry.guard.check()


def test_damaged_weights_are_told_before_a_backup_is_trusted(registry: Registry, tmp_path: Path) -> None:
    """No file is written; with --allow-damaged the rest is, and the manifest names what is not in it."""
    write_adapter(tmp_path / "expert")
    version, _ = registry.register(BOT, tmp_path / "expert", by="ann")
    tensors = Path(registry.artifacts.place.path(version.digest)) / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(BackupRefused, match="artifacts check"):
        back_up(registry, tmp_path / "all.tar")
    assert not (tmp_path / "all.tar").exists()
    assert back_up(registry, tmp_path / "all.tar", allow_damaged=True).damaged == (version.digest,)


def test_the_commands_find_the_home_and_say_what_is_wrong(
    registry: Registry,
    redis_process: RedisServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`shoal backup` reads the Redis of HOME/up.json; `shoal restore` puts it back; errors are one line and exit code 1."""
    points = [EntryPoint(name, f"registry.backup_cli:{name}_app", plugins.GROUP) for name in ("backup", "restore")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    for name in ("SHOAL_REDIS_URL", "SHOAL_ARTIFACTS_URL", "SHOAL_CACHE_DIR", "SHOAL_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    home, file = tmp_path / "home", str(tmp_path / "home.tar")
    home.mkdir()
    (home / "up.json").write_text(json.dumps({"redis_url": redis_process.url}))
    own = Registry.open(RegistrySettings(redis_url=redis_process.url, artifacts_url=str(home / "artifacts")))
    write_adapter(tmp_path / "expert")
    own.register(BOT, tmp_path / "expert", by="ann")
    assert shoal(["backup", file, "--home", str(home)]) == 0
    assert "1 adapters, 1 versions" in capsys.readouterr().out
    assert shoal(["restore", file, "--home", str(home)]) == 1
    assert "--into-existing" in capsys.readouterr().err
    own.redis.flushdb()
    assert shoal(["restore", file, "--check"]) == 0
    assert own.adapters() == []
    capsys.readouterr()
    assert shoal(["restore", file, "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["versions"] == 1
    assert own.version(BOT, 1).label == ""
    own.close()
    redis_process.kill()
    assert shoal(["backup", str(tmp_path / "other.tar"), "--home", str(home)]) == 1
    assert "redis.conf" in capsys.readouterr().err
