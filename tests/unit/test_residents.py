"""Residents: loaded once, probed before they answer, evicted by rule, never more than there are places."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.engine import EngineError, EngineSettings, EngineUnavailable, Probe
from service.engines.stub import StubEngine
from service.leases import Leases
from service.residents import LoadFailed, NoRoom, ProbeFailed, ResidentEvent, Residents
from tests.contract.tiny_adapter import make_adapter


class CountingEngine(StubEngine):
    """The stub, with what was done to it, and the most that it ever held."""

    def __init__(self, room: int) -> None:
        super().__init__(EngineSettings(base="none", max_loras=room))
        self.adds: list[str] = []
        self.removes: list[str] = []
        self.most = 0
        self.stubborn = 0  # removals that will not work
        self.probe_seconds = 0.0
        self.probe_error: EngineError | None = None

    async def add(self, name: str, path: Path) -> None:
        await asyncio.sleep(0)
        await super().add(name, path)
        self.adds.append(name)
        self.most = max(self.most, len(await self.held()))

    async def remove(self, name: str) -> None:
        self.removes.append(name)
        if self.stubborn:
            self.stubborn -= 1
            return
        await super().remove(name)

    async def probe(self, name: str, within: float) -> Probe:
        async with asyncio.timeout(within):
            await asyncio.sleep(self.probe_seconds)
        if self.probe_error:
            raise self.probe_error
        return await super().probe(name, within)


class Bench:
    def __init__(self, folder: Path, room: int, **how: float) -> None:
        self.engine = CountingEngine(room)
        self.leases = Leases()
        self.events: list[ResidentEvent] = []
        self.residents = Residents(self.engine, self.leases, on_event=self.events.append, **how)
        self.paths = {name: make_adapter(folder / name, seed) for seed, name in enumerate(("a@1", "b@1", "c@1", "d@1"))}
        self.idle = make_adapter(folder / "idle@1", 9, size=0.0)

    async def ready(self, *names: str) -> None:
        for name in names:
            await self.residents.ensure(name, self.paths[name])

    def kinds(self) -> list[tuple[str, str]]:
        return [(event.kind, event.name) for event in self.events]


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path, room=2, probe_timeout=0.2, drain_timeout=0.1)
    await made.engine.start()
    return made


async def test_two_requests_for_a_cold_version_load_it_once(bench: Bench) -> None:
    await asyncio.gather(*(bench.residents.ensure("a@1", bench.paths["a@1"]) for _ in range(20)))
    assert bench.engine.adds == ["a@1"]
    assert bench.residents.ready == {"a@1"}
    assert bench.kinds() == [("loaded", "a@1")]


async def test_who_gives_up_waiting_does_not_stop_the_loading_for_others(bench: Bench) -> None:
    bench.engine.probe_seconds = 0.05
    impatient = asyncio.create_task(bench.residents.ensure("a@1", bench.paths["a@1"]))
    patient = asyncio.create_task(bench.residents.ensure("a@1", bench.paths["a@1"]))
    await asyncio.sleep(0.01)
    impatient.cancel()
    await patient
    assert bench.residents.ready == {"a@1"}


async def test_the_least_recently_asked_makes_room_before_the_next_comes(bench: Bench) -> None:
    await bench.ready("a@1", "b@1")
    bench.residents.hold("a@1").release()
    await bench.ready("c@1")
    assert bench.residents.ready == {"a@1", "c@1"} == await bench.engine.held()
    assert bench.engine.most == 2


async def test_a_pinned_version_stays_and_a_full_house_of_pins_refuses(bench: Bench) -> None:
    await bench.ready("a@1", "b@1")
    bench.residents.pin(["a@1"])
    await bench.ready("c@1")
    assert bench.residents.ready == {"a@1", "c@1"}
    bench.residents.pin(["a@1", "c@1"])
    with pytest.raises(NoRoom):
        await bench.ready("b@1")
    assert await bench.engine.held() == {"a@1", "c@1"}


async def test_a_version_with_a_lease_is_not_removed_under_its_request(bench: Bench) -> None:
    await bench.ready("a@1", "b@1")
    busy = [bench.residents.hold("a@1"), bench.residents.hold("b@1")]
    with pytest.raises(NoRoom):
        await bench.ready("c@1")
    assert bench.residents.ready == {"a@1", "b@1"} == await bench.engine.held()
    busy[1].release()
    await bench.ready("c@1")
    assert bench.residents.ready == {"a@1", "c@1"}
    busy[0].release()


async def test_a_version_that_drains_in_time_makes_room(bench: Bench) -> None:
    await bench.ready("a@1", "b@1")
    busy = [bench.residents.hold("a@1"), bench.residents.hold("b@1")]
    asyncio.get_running_loop().call_later(0.02, busy[0].release)
    await bench.ready("c@1")
    assert bench.residents.ready == {"b@1", "c@1"}
    busy[1].release()


async def test_an_adapter_that_does_nothing_never_answers(bench: Bench) -> None:
    with pytest.raises(ProbeFailed, match="the base's own") as caught:
        await bench.residents.ensure("idle@1", bench.idle)
    assert caught.value.probe is not None
    assert bench.residents.hold("idle@1") is None
    assert await bench.engine.held() == frozenset()


async def test_a_probe_without_an_answer_leaves_nothing_behind(bench: Bench) -> None:
    bench.engine.probe_seconds = 60
    with pytest.raises(ProbeFailed, match="no answer"):
        await bench.ready("a@1")
    assert await bench.engine.held() == frozenset()


async def test_a_probe_that_the_engine_breaks_off_leaves_nothing_behind(bench: Bench) -> None:
    """Any error of the engine, not only silence: the adapter is taken out, now or, where the engine will not, later."""
    bench.engine.probe_error = EngineError(500, "engine_error", "The probe's answers do not line up.")
    with pytest.raises(EngineError, match="line up"):
        await bench.ready("a@1")
    assert await bench.engine.held() == frozenset() == bench.residents.leftover
    bench.engine.stubborn = 3
    with pytest.raises(EngineError, match="line up"):
        await bench.ready("a@1")
    assert await bench.engine.held() == {"a@1"} == bench.residents.leftover
    bench.engine.probe_error = None
    await bench.residents.reconcile()
    assert await bench.engine.held() == frozenset() == bench.residents.leftover
    await bench.ready("a@1")
    assert bench.residents.ready == {"a@1"}


async def test_an_adapter_that_the_engine_refuses_leaves_nothing_behind_and_may_try_again(
    bench: Bench, tmp_path: Path
) -> None:
    with pytest.raises(LoadFailed, match="is missing"):
        await bench.residents.ensure("new@1", tmp_path / "new")
    assert ("refused", "new@1") in bench.kinds()
    make_adapter(tmp_path / "new", 5)
    await bench.residents.ensure("new@1", tmp_path / "new")
    assert bench.residents.ready == {"new@1"}


async def test_a_removed_adapter_that_comes_back_is_removed_again(bench: Bench) -> None:
    await bench.ready("a@1")
    bench.engine.stubborn = 1
    assert await bench.residents.remove("a@1")
    assert bench.engine.removes == ["a@1", "a@1"]
    assert await bench.engine.held() == frozenset()


async def test_a_removal_that_failed_shows_and_is_tried_again(bench: Bench) -> None:
    """The engine keeps what it was told to drop, or gives no answer: the version is a leftover until it is seen to be gone."""
    await bench.ready("a@1")
    bench.engine.stubborn = 5
    assert await bench.residents.remove("a@1")
    assert bench.residents.leftover == {"a@1"}
    assert ("leftover", "a@1") in bench.kinds()
    await bench.residents.reconcile()
    assert bench.residents.leftover == {"a@1"}
    bench.engine.stubborn = 0
    await bench.residents.reconcile()
    assert bench.residents.leftover == frozenset() == await bench.engine.held()


async def test_a_version_that_was_evicted_is_probed_again_when_it_returns(bench: Bench) -> None:
    await bench.ready("a@1", "b@1", "c@1")
    bench.engine.probe_seconds = 1.0
    with pytest.raises(ProbeFailed, match=r"within 0\.2 s"):
        await bench.residents.ensure("a@1", bench.paths["a@1"])
    assert "a@1" not in await bench.engine.held()


async def test_removing_waits_for_leases_takes_no_new_ones_and_gives_up_in_time(bench: Bench) -> None:
    await bench.ready("a@1")
    busy = bench.residents.hold("a@1")
    removing = asyncio.create_task(bench.residents.remove("a@1"))
    await asyncio.sleep(0)
    assert bench.residents.hold("a@1") is None
    await bench.ready("b@1")  # draining one version does not keep another from loading
    assert not await removing
    assert bench.residents.ready == {"a@1", "b@1"}
    busy.release()
    assert await bench.residents.remove("a@1")
    assert await bench.engine.held() == {"b@1"}


async def test_a_version_that_is_asked_for_while_it_leaves_stays(bench: Bench) -> None:
    await bench.ready("a@1")
    busy = bench.residents.hold("a@1")
    removing = asyncio.create_task(bench.residents.remove("a@1"))
    await asyncio.sleep(0)
    lease = await bench.residents.lease("a@1", bench.paths["a@1"])
    busy.release()
    lease.release()
    assert not await removing
    assert bench.residents.ready == {"a@1"} == await bench.engine.held()


async def test_what_the_engine_holds_and_should_not_is_swept_away(bench: Bench) -> None:
    await bench.ready("a@1")
    await bench.engine.add("stray@1", bench.paths["d@1"])
    assert await bench.residents.reconcile() == {"stray@1"}
    await bench.engine.add("stray@1", bench.paths["d@1"])
    await bench.ready("b@1")
    assert await bench.engine.held() == {"a@1", "b@1"}
    await bench.engine.remove("b@1")
    await bench.residents.reconcile()
    assert bench.residents.ready == {"a@1"}


async def test_many_requests_for_more_versions_than_places_are_all_answered(bench: Bench) -> None:
    names = list(bench.paths)

    async def ask(number: int) -> None:
        name = names[number % len(names)]
        with await bench.residents.lease(name, bench.paths[name]):
            assert name in await bench.engine.held()
            await asyncio.sleep(0.001)
            assert name in await bench.engine.held()

    await asyncio.gather(*(ask(number) for number in range(60)))
    assert bench.engine.most <= 2
    assert bench.leases.all() == {}


async def test_a_dead_engine_says_so(bench: Bench) -> None:
    await bench.engine.stop()
    with pytest.raises(EngineUnavailable):
        await bench.ready("a@1")
    assert bench.residents.ready == frozenset()


async def waits(*loads: asyncio.Task[None]) -> None:
    """Let everything that can happen now happen; the loads are then still waiting."""
    for _ in range(50):
        await asyncio.sleep(0)
    assert not any(load.done() for load in loads)


async def a_cold_load(bench: Bench, name: str, *, first: bool = False) -> asyncio.Task[None]:
    """A load that waits: all that may leave are answering."""
    load = asyncio.create_task(bench.residents.ensure(name, bench.paths[name], first=first))
    await waits(load)
    return load


@pytest.fixture
async def patient(tmp_path: Path) -> Bench:
    """Two places, and a drain timeout that no test waits for."""
    made = Bench(tmp_path, room=2, drain_timeout=3600.0)
    await made.engine.start()
    return made


async def test_a_promotion_goes_before_a_cold_load_that_waits_for_a_stream(patient: Bench) -> None:
    """What a move asked for gets the first place that is free, also where another load has waited for longer."""
    await patient.ready("a@1", "b@1")
    streams = [patient.residents.hold("a@1"), patient.residents.hold("b@1")]
    cold = await a_cold_load(patient, "c@1")
    wished = await a_cold_load(patient, "d@1", first=True)
    streams[1].release()  # not the one that was withdrawn for the cold load: any place will do
    await wished
    await cold
    assert patient.engine.adds == ["a@1", "b@1", "d@1", "c@1"]
    assert patient.engine.most == 2
    streams[0].release()


async def test_a_load_that_waits_can_be_hurried(patient: Bench) -> None:
    """A request named the version first, then a move wants it."""
    await patient.ready("a@1", "b@1")
    patient.residents.pin(["b@1"])
    stream = patient.residents.hold("a@1")
    cold, later = await a_cold_load(patient, "c@1"), await a_cold_load(patient, "d@1")
    patient.residents.hurry("d@1")
    stream.release()
    await later
    await cold  # nobody asks d@1, so it makes room
    assert patient.engine.adds == ["a@1", "b@1", "d@1", "c@1"]
    assert patient.residents.ready == {"b@1", "c@1"}


async def test_a_load_that_waits_for_a_stream_holds_up_nothing_else(patient: Bench) -> None:
    """The look at the engine and a removal go on meanwhile; the version that is to leave keeps its stream."""
    await patient.ready("a@1", "b@1")
    streams = [patient.residents.hold("a@1"), patient.residents.hold("b@1")]
    cold = await a_cold_load(patient, "c@1")
    assert patient.residents.ready == {"b@1"}
    assert patient.residents.loaded == {"a@1", "b@1"}
    assert await patient.residents.reconcile() == frozenset()
    streams[1].release()
    assert await patient.residents.remove("b@1")
    await cold
    assert patient.residents.loaded == {"a@1", "c@1"} == await patient.engine.held()
    streams[0].release()


async def test_a_version_that_was_to_make_room_and_is_pinned_answers_again_at_once(patient: Bench) -> None:
    """A rollback to it must not wait for its streams, nor for a load."""
    await patient.ready("a@1", "b@1")
    streams = [patient.residents.hold("a@1"), patient.residents.hold("b@1")]
    cold = await a_cold_load(patient, "c@1")
    assert patient.residents.hold("a@1") is None
    patient.residents.pin(["a@1"])
    again = patient.residents.hold("a@1")
    assert again is not None
    await waits(cold)
    streams[1].release()
    await cold
    assert patient.residents.ready == {"a@1", "c@1"}
    assert patient.engine.adds == ["a@1", "b@1", "c@1"]
    again.release()
    streams[0].release()


async def test_a_request_for_a_version_that_makes_room_waits_for_its_turn(patient: Bench) -> None:
    """It loads again behind the load that it made room for; where that one gives up, it never left."""
    await patient.ready("a@1", "b@1")
    streams = [patient.residents.hold("a@1"), patient.residents.hold("b@1")]
    cold = await a_cold_load(patient, "c@1")
    back = await a_cold_load(patient, "a@1")
    streams[0].release()
    await cold
    await back  # c@1 was idle once it was loaded
    assert patient.residents.ready == {"a@1", "b@1"}
    assert patient.engine.adds == ["a@1", "b@1", "c@1", "a@1"]
    streams[1].release()


async def test_a_retired_version_that_drains_to_make_room_is_removed(patient: Bench) -> None:
    await patient.ready("a@1", "b@1")
    streams = [patient.residents.hold("a@1"), patient.residents.hold("b@1")]
    cold = await a_cold_load(patient, "c@1")
    removing = asyncio.create_task(patient.residents.remove("a@1"))
    await waits(cold)
    streams[0].release()
    assert await removing
    await cold
    assert patient.residents.ready == {"b@1", "c@1"}
    streams[1].release()
