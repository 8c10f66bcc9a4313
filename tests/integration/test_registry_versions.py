"""Registering, moving and explaining versions: the whole facade on a real Redis."""

from __future__ import annotations

import inspect
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from registry.artifacts import digest_of_folder
from registry.canonical import digest
from registry.connection import connect
from registry.errors import AdapterRefused, ArtifactMissing, BadInput, RegistryDown, ShoalError
from registry.guard_policy import GuardPolicy
from registry.policy import Policy
from registry.records import ExpertRef, Feedback, Interaction, Lineage, Replica, Version, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.suites import Suite
from shoal.ports import free_port
from tests.peft_folders import write_adapter, write_base
from tests.redis_server import RedisServer


def test_a_folder_becomes_a_version_once(registry: Registry, tmp_path: Path) -> None:
    """Registering creates the adapter, stores the bytes and adds the version; the same bytes are the same version."""
    folder = write_adapter(tmp_path / "mine")

    version, new = registry.register("bot", folder, by="ann", label="science", note="first")
    again, new_again = registry.register("bot", shutil.copytree(folder, tmp_path / "copy"), by="bob")
    second, _ = registry.register("bot", write_adapter(tmp_path / "other", seed=1, rank=2), by="ann")

    assert (new, new_again) == (True, False)
    assert version == again
    assert (version.engine_name, version.rank, version.label, version.origin) == ("bot@1", 4, "science", "import")
    assert (second.version, second.rank) == (2, 2)
    assert digest_of_folder(registry.artifacts.fetch(version.digest)) == version.digest
    assert [held.version for held in registry.versions("bot")] == [2, 1]
    assert str(registry.history("bot")[1]) == "ann registered bot@1: first"


def test_the_same_bytes_under_two_adapters_are_two_versions(registry: Registry, tmp_path: Path) -> None:
    """A digest belongs to no adapter: two lines may share bytes."""
    folder = write_adapter(tmp_path / "mine")
    assert registry.register("a", folder, by="ann")[0].digest == registry.register("b", folder, by="ann")[0].digest
    assert [adapter.name for adapter in registry.adapters()] == ["a", "b"]


def test_what_is_refused_leaves_nothing(registry_settings: RegistrySettings, tmp_path: Path) -> None:
    """An adapter for another base is refused by the registry that knows its base: no adapter, no bytes, no event."""
    base = write_base(tmp_path / "base", width=16)
    registry = Registry.open(registry_settings.model_copy(update={"base": str(base)}))

    with pytest.raises(AdapterRefused):
        registry.register("bot", write_adapter(tmp_path / "mine"), by="ann")

    assert registry.adapters() == []
    assert not (tmp_path / "artifacts").exists() or not list((tmp_path / "artifacts").rglob("*.safetensors"))
    registry.close()


def test_a_digest_must_be_stored(registry: Registry, tmp_path: Path) -> None:
    """A record never names bytes that are not there; bytes that are become a version of any adapter."""
    with pytest.raises(ArtifactMissing):
        registry.register_digest("bot", digest("nothing"), by="ann", rank=4, size=1)
    artifact = registry.artifacts.put_folder(write_adapter(tmp_path / "mine"))

    version, new = registry.register_digest("bot", artifact.digest, by="ann", rank=4, size=artifact.size)

    assert new
    assert version.size == artifact.size


def test_adapters_are_created_once_and_named_well(registry: Registry) -> None:
    """Creating again answers the adapter there is; a name that is none is refused with the rule."""
    assert registry.create_adapter("bot", by="ann") == registry.create_adapter("bot", by="bob")
    for name in ("", "Bot", "a/b", "a@1", "../x", "bot\n"):
        with pytest.raises(BadInput, match="not an adapter name"):
            registry.create_adapter(name, by="ann")


def test_threads_that_register_get_numbers_without_gaps(registry: Registry, tmp_path: Path) -> None:
    """Twelve imports of six different adapters at once: six versions, each number once."""
    folders = [write_adapter(tmp_path / str(index), seed=index) for index in range(6)]
    answers: list[tuple[Version, bool]] = []
    threads = [
        threading.Thread(target=lambda folder=folder: answers.append(registry.register("bot", folder, by="ann")))
        for folder in folders * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new for _, new in answers) == 6
    assert [version.version for version in registry.versions("bot")] == [6, 5, 4, 3, 2, 1]


def mixed(registry: Registry, folder: Path, *experts: Version) -> Version:
    lineage = Lineage(
        run_id="run-1",
        experts=tuple(ExpertRef(version=v.version, digest=v.digest, name=v.label or "base") for v in experts),
        coefficients=tuple(0.1 + 0.2 * place for place in range(len(experts))),
        space="delta",
        formula="...",
        rank=4,
        retained_energy=0.99,
        optimizer="cma_es",
        seed=0,
        snapshot=digest("snapshot"),
    )
    return registry.register("bot", folder, by="run-1", origin="run", lineage=lineage)[0]


def test_lineage_is_a_tree_down_to_the_imports(registry: Registry, tmp_path: Path) -> None:
    """A version shows what it was mixed from, and those what they were; a version is opened once."""
    one = registry.register("bot", write_adapter(tmp_path / "1", seed=1), by="ann", label="science")[0]
    two = registry.register("bot", write_adapter(tmp_path / "2", seed=2), by="ann", label="cot")[0]
    base = one.model_copy(update={"version": 1, "digest": digest("base"), "label": "base"})
    child = mixed(registry, write_adapter(tmp_path / "3", seed=3), one, two, base)
    grandchild = mixed(registry, write_adapter(tmp_path / "4", seed=4), child, one, child)

    tree = registry.lineage("bot", grandchild.version)

    assert registry.version("bot", grandchild.version) == grandchild
    names = [(node["version"], node["name"], node["coefficient"]) for node in tree["experts"]]
    assert names == [(3, "base", 0.1), (1, "science", 0.1 + 0.2), (3, "base", 0.5)]
    assert [node["name"] for node in tree["experts"][0]["experts"]] == ["science", "cot", "base"]
    assert "origin" not in tree["experts"][0]["experts"][2]
    assert tree["experts"][2]["repeated"]
    assert "experts" not in registry.lineage("bot", 1)


def test_history_and_state_survive_a_restart(redis_process: RedisServer, tmp_path: Path) -> None:
    """With the append-only file on, a restarted Redis holds what was promoted, and the old connection goes on."""
    settings = RegistrySettings(
        redis_url=redis_process.url, artifacts_url=str(tmp_path / "a"), cache_dir=str(tmp_path / "c")
    )
    registry = Registry.open(settings)
    registry.register("bot", write_adapter(tmp_path / "mine"), by="ann")
    registry.promote("bot", 1, by="ann", operation_id="first")
    heard = registry.changes(0.05)
    assert next(heard) is None

    redis_process.stop()
    with pytest.raises(RegistryDown):
        registry.ping()
    assert [next(heard), next(heard)] == [None, None]
    redis_process.start()

    assert registry.rollout("bot").champion == 1
    assert registry.promote("bot", 1, by="ann", operation_id="first").revision == 1
    deadline, names = time.monotonic() + 10, set()
    while "bot" not in names and time.monotonic() < deadline:
        registry.promote("bot", 1, by="ann")
        names.add(next(heard))
    assert "bot" in names
    heard.close()
    registry.close()


def calls(registry: Registry, folder: Path) -> dict[str, Any]:
    """One call of every public method that asks Redis."""
    by, zero = {"by": "ann"}, digest("x")
    feedback = Feedback(id="f", adapter="bot", at=now())
    suite = Suite.read({"kind": "refusal", "items": [{"prompt": "p", "refuse": True}]})
    interaction = Interaction(request_id="r", adapter="bot", version=1, answer="a", at=now())
    return {
        "ping": registry.ping,
        "adapters": registry.adapters,
        "adapter": lambda: registry.adapter("bot"),
        "create_adapter": lambda: registry.create_adapter("bot", **by),
        "register": lambda: registry.register("bot", folder, **by),
        "register_digest": lambda: registry.register_digest(
            "bot", registry.artifacts.put_folder(folder).digest, rank=1, size=1, **by
        ),
        "keep": lambda: registry.keep(folder),
        "version": lambda: registry.version("bot", 1),
        "versions": lambda: registry.versions("bot"),
        "newest": lambda: registry.newest(1),
        "rollout": lambda: registry.rollout("bot"),
        "reached": registry.reached,
        "moves_made": registry.moves_made,
        "history": lambda: registry.history("bot"),
        "lineage": lambda: registry.lineage("bot", 1),
        "promote": lambda: registry.promote("bot", 1, **by),
        "roll_back": lambda: registry.roll_back("bot", **by),
        "start_canary": lambda: registry.start_canary("bot", 1, 0.1, **by),
        "end_canary": lambda: registry.end_canary("bot", **by),
        "retire": lambda: registry.retire("bot", 1, **by),
        "pin": lambda: registry.pin("bot", 1, **by),
        "unpin": lambda: registry.unpin("bot", 1, **by),
        "set_policy": lambda: registry.set_policy("bot", Policy(), **by),
        "policy": lambda: registry.policy("bot"),
        "policies": registry.policies,
        "rollout_at": lambda: registry.rollout_at("bot", now()),
        "ready": lambda: registry.ready("bot", 1),
        "feedback.add": lambda: registry.feedback.add(feedback),
        "feedback.add_many": lambda: registry.feedback.add_many([feedback]),
        "feedback.list": lambda: registry.feedback.list("bot"),
        "feedback.count": lambda: registry.feedback.count("bot"),
        "feedback.all": lambda: registry.feedback.all("bot"),
        "feedback.add_each": lambda: registry.feedback.add_each([feedback]),
        "feedback.pages": lambda: list(registry.feedback.pages("bot")),
        "feedback.standing": lambda: registry.feedback.standing("bot"),
        "feedback.superseded": lambda: registry.feedback.superseded("bot", ["f"]),
        "feedback.superseded_count": lambda: registry.feedback.superseded_count("bot"),
        "figures.sums": lambda: registry.figures.sums("bot", [1]),
        "interactions.add_many": lambda: registry.interactions.add_many([interaction]),
        "interactions.get_many": lambda: registry.interactions.get_many(["r"]),
        "interactions.get": lambda: registry.interactions.get("r"),
        "replicas.beat": lambda: registry.replicas.beat(Replica(id="a", at=now())),
        "replicas.gone": lambda: registry.replicas.gone("a"),
        "replicas.live": registry.replicas.live,
        "figures.add_many": lambda: registry.figures.add_many({("bot", 1): {"requests": 1}}),
        "figures.read": lambda: registry.figures.read("bot"),
        "replicas.ask": lambda: registry.replicas.ask("bot", 1),
        "replicas.withdraw": lambda: registry.replicas.withdraw("bot", 1, 1),
        "replicas.wanted": registry.replicas.wanted,
        "replicas.wishes": registry.replicas.wishes,
        "replicas.readiness": lambda: registry.replicas.readiness("bot", 1),
        "replicas.getting_ready": lambda: registry.replicas.getting_ready("bot", 1),
        "suites.put": lambda: registry.suites.put("bot", "sums", suite, **by),
        "suites.list": lambda: registry.suites.list("bot"),
        "suites.get": lambda: registry.suites.get("bot", "sums"),
        "suites.remove": lambda: registry.suites.remove("bot", "sums"),
        "suites.resolve": lambda: registry.suites.resolve("bot", [GuardPolicy(suite="sums", tolerance=0.1)]),
        "store.version_of": lambda: registry.store.version_of("bot", zero),
    }


def test_no_redis_error_leaks(tmp_path: Path) -> None:
    """With Redis away every call raises ``RegistryDown`` within seconds, and no method is forgotten here."""
    settings = RegistrySettings(
        redis_url=f"redis://127.0.0.1:{free_port()}/0",
        artifacts_url=str(tmp_path / "a"),
        cache_dir=str(tmp_path / "c"),
    )
    registry = Registry.open(settings)
    asked = calls(registry, write_adapter(tmp_path / "mine"))

    started = time.monotonic()
    for name, call in asked.items():
        with pytest.raises(RegistryDown) as down:
            call()
        assert not isinstance(down.value, RedisError), name
    assert time.monotonic() - started < 20

    public = {name for name, _ in inspect.getmembers(Registry, inspect.isfunction) if not name.startswith("_")}
    assert public - {"close", "changes", "base_shape"} <= set(asked)
    for part in ("feedback", "figures", "interactions", "replicas", "suites"):
        methods = inspect.getmembers(type(getattr(registry, part)), inspect.isfunction)
        forgotten = {f"{part}.{name}" for name, _ in methods if not name.startswith("_")} - set(asked)
        assert forgotten <= {"suites.read"}  # it asks the place for weights alone
    heard = registry.changes(0.05)
    assert next(heard) is None
    registry.close()


def test_a_hung_redis_is_down_too(redis_process: RedisServer, tmp_path: Path) -> None:
    """A server that accepts and does not answer is told as ``RegistryDown`` after the timeout, not waited for."""
    registry = Registry.open(
        RegistrySettings(redis_url=redis_process.url, artifacts_url=str(tmp_path / "a"), cache_dir=str(tmp_path / "c"))
    )
    registry.redis.connection_pool.connection_kwargs["socket_timeout"] = 0.2
    pauser = connect(redis_process.url)
    pauser.client_pause(3000)

    with pytest.raises(RegistryDown):
        registry.ping()

    registry.close()
    pauser.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHOAL_MAX_LORA_RANK", "17"),
        ("SHOAL_REDIS_URL", "http://x"),
        ("SHOAL_NAMESPACE", "a*"),
        ("SHOAL_RECORD_INTERACTIONS", "some"),
        ("SHOAL_INTERACTIONS_DAYS", "0"),
    ],
)
def test_bad_settings_stop_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A bad value stops the start with one sentence that names the variable; an unknown field does, too."""
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=name):
        RegistrySettings.load()
    monkeypatch.delenv(name)
    with pytest.raises(BadInput, match="SHOAL_COLOUR"):
        RegistrySettings.load(colour="red")
    assert issubclass(BadInput, ShoalError)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``SHOAL_*`` sets a value, an empty variable leaves the default, and nothing changes afterwards."""
    monkeypatch.setenv("SHOAL_MAX_LORA_RANK", "64")
    monkeypatch.setenv("SHOAL_BASE", "")
    settings = RegistrySettings.load()
    assert (settings.max_lora_rank, settings.base, settings.max_upload_mb) == (64, None, 512)
    with pytest.raises(ValueError, match="frozen"):
        settings.max_lora_rank = 8
