"""The composition root: every part of the service is made here, once, and handed to those who use it.

``bentoml serve service.app:ShoalService``. One worker, one engine; more GPUs are more replicas behind a balancer.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import shlex
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml
from fastapi import FastAPI

from registry import logs
from registry.errors import RecordNewer, RegistryDown, RegistryWentBack
from registry.registry import Registry
from registry.run_spans import RunSpans
from registry.settings import RegistrySettings
from registry.tracing import Tracer
from service.api import (
    adapters,
    artifacts,
    feedback,
    feedback_export,
    figures,
    guards,
    imports,
    keys,
    pins,
    policy,
    runs,
    snapshots,
    status,
    workers,
)
from service.api.errors import add_error_handlers, add_unknown_routes
from service.api.parts import Parts
from service.auth import Auth
from service.bell import Bell
from service.drain import Drain, DrainGate
from service.engine import EngineSettings, EngineUnavailable
from service.engines import make_engine
from service.engines.die_with_parent import die_with_parent
from service.feedback_path import FeedbackPath
from service.gate import Gate, Gatekeeper
from service.gateway import BASE, ShoalGateway
from service.intake import Intake
from service.keyring import Keyring
from service.leases import Leases
from service.listening import refuse_open_address
from service.openai_api import openai_router
from service.openai_path import OpenAIPath
from service.posts import Posts
from service.recorder import Recorder
from service.recording_rules import RecordingRules
from service.redaction import Redaction
from service.replica import Replica
from service.residents import ResidentEvent, Residents
from service.settings import ServiceSettings
from service.spans import Spans
from service.spool import Spool
from service.tally import Tally

log = logging.getLogger("shoal.service")
THREADS = 64
ENGINE_LOOK_SECONDS = 0.5


class Service:
    """One replica's parts, from start to stop."""

    def __init__(self, settings: ServiceSettings, registry_settings: RegistrySettings) -> None:
        self.settings = settings
        registry = Registry.open(registry_settings)
        self.engine = make_engine(settings.engine, engine_settings(settings, registry_settings))
        self.residents = Residents(
            self.engine, Leases(), drain_timeout=settings.drain_timeout, on_event=_count_residents
        )
        replica = Replica(
            registry,
            self.residents,
            replica_id=settings.replica_id,
            poll_seconds=settings.poll_seconds,
            known=settings.home / f"rollouts-{settings.port}.json",
        )
        rules, redaction = RecordingRules(registry_settings, registry.policies), Redaction(registry_settings.redact)
        recorder = Recorder(registry.interactions, rules, redaction)
        intake = Intake(registry, rules, redaction, recorder.waits_beside)
        spool = Spool(
            settings.home / f"feedback-{settings.port}.jsonl",
            lambda items: _take_spooled(registry, intake, items),
            keeps=(RegistryDown, RecordNewer, RegistryWentBack),
        )
        keyring = Keyring(
            registry.api_keys, settings.home / f"keys-{settings.port}.json", every=min(settings.poll_seconds, 0.5)
        )
        posts = Posts(lambda some: feedback.keep_posts(some, intake, spool, lambda: bool(replica.problems)))
        bell, tally = Bell(registry_settings), Tally(registry.figures, rollout=replica.rollout)
        self.parts = Parts(settings, registry, replica, keyring, bell, recorder, intake, posts, spool, tally)
        self.tracer = Tracer.from_environment("shoal-service", settings.replica_id)
        spans = Spans(self.tracer) if self.tracer else None
        if self.tracer:
            registry.runs.on_move = RunSpans(self.tracer, registry.runs).moved  # a run may be cancelled here
        base_names = _base_names(registry_settings.base)
        self.gateway = ShoalGateway(self.parts, self.engine, base_names=base_names, spans=spans)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Ready when this returns: the engine answers and every champion is loaded."""
        await self.engine.start()
        await self.parts.replica.start()
        await self.parts.keyring.start()
        self.parts.recorder.start()
        self.parts.spool.start()
        work = (self._watch_engine(), self.parts.tally.run(), self.gateway.shadow.run(), self.parts.keyring.keep_up())
        self._tasks = [asyncio.create_task(task) for task in work]
        # What starting made stays for ever: without this the collector looks through all of it, in the middle of answers.
        gc.collect()
        gc.freeze()
        log.info(
            "%s is ready: %s", self.settings.replica_id, ", ".join(sorted(self.residents.ready)) or "no adapter yet"
        )

    async def stop(self) -> None:
        """Requests have ended by now; what they left to be recorded is written, then the engine ends."""
        for task in self._tasks:
            task.cancel()
        await self.parts.tally.flush()
        await self.parts.replica.stop()
        self.parts.spool.stop()
        self.parts.recorder.stop()
        await self.residents.close()
        await self.engine.stop()
        self.parts.registry.close()
        if self.tracer:
            await asyncio.to_thread(self.tracer.close)

    async def _watch_engine(self) -> None:
        """A dead engine does not come back: this process ends, so that its supervisor starts a whole replica."""
        while self.engine.alive:  # noqa: ASYNC110  # an engine tells nobody that it died: it is asked
            await asyncio.sleep(ENGINE_LOOK_SECONDS)
        log.critical("the engine has died; this process ends, to be started again")
        signal.raise_signal(signal.SIGTERM)

    def open(self, keeper: Gatekeeper) -> None:
        """From here on the gate lets in whoever may."""
        keeper.rate = self.settings.rate_limit or None
        keeper.max_body = self.settings.max_body_mb << 20
        keeper.max_upload = self.parts.registry.settings.max_bytes + (1 << 20)  # and what the form around it takes
        keeper.auth = Auth(self.settings, self.parts.keyring)

    @property
    def ready(self) -> bool:
        return self.engine.alive and self.parts.replica.ready


def engine_settings(settings: ServiceSettings, registry_settings: RegistrySettings) -> EngineSettings:
    """How the engine is started; the process ends where no base model is named."""
    if registry_settings.base is None:
        raise SystemExit("SHOAL_BASE names no base model: set it to a folder or a Hugging Face id.")
    return EngineSettings(
        base=registry_settings.base,
        served_base_name=BASE,
        dtype=settings.dtype,
        max_loras=settings.max_loras,
        max_lora_rank=registry_settings.max_lora_rank,
        max_model_len=settings.max_model_len,
        kv_cache_gib=settings.kv_cache_gib,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        lora_modules=None if settings.lora_modules == "all" else tuple(settings.lora_modules.split(",")),
        tool_call_parser=settings.tool_call_parser,
        chat_template=settings.chat_template,
        extra_args=tuple(shlex.split(settings.engine_args)),
    )


def make_app() -> FastAPI:
    """The routes. What they work on arrives in ``app.state`` when the service has started."""
    app = FastAPI(title="Shoal", version="0.1.0", docs_url="/docs", redoc_url=None)
    app.state.drain, app.state.gatekeeper = Drain(), Gatekeeper()
    add_error_handlers(app)
    moved = (adapters, artifacts, imports, pins, policy, guards)
    for noun in (*moved, feedback, feedback_export, figures, runs, snapshots, keys, status, workers):
        app.include_router(noun.router)
    app.include_router(openai_router(LateGateway(app)))
    add_unknown_routes(app)
    return app


class LateGateway:
    """The gateway, for routes that are made before it: BentoML mounts an app when it reads the service's class."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        gateway = getattr(self._app.state, "gateway", None)
        if gateway is None:
            raise EngineUnavailable("The service is starting.")
        return getattr(gateway, name)


def _base_names(base: str | None) -> tuple[str, ...]:
    """What the base model answers to: ``base``, and the name of its folder or its Hugging Face id."""
    if not base:
        return (BASE,)
    named = Path(base).name if Path(base).exists() else base
    return tuple(dict.fromkeys((BASE, named)))


def _take_spooled(registry: Registry, intake: Intake, items: list[dict[str, Any]]) -> None:
    """What was acknowledged while Redis was away. ``RegistryWentBack``: it stays spooled."""
    registry.guard.check()
    # An older Shoal wrote fields that say nothing, too.
    said = [{name: value for name, value in item.items() if value is not None} for item in items]
    feedback.count(intake.take(said))


def _count_residents(event: ResidentEvent) -> None:
    from service import metrics

    metrics.CHANGES.labels(event.kind).inc()
    if event.kind == "loaded":
        metrics.LOADS.observe(event.seconds)
    log.info("%s %s in %.3f s%s", event.kind, event.name, event.seconds, f": {event.reason}" if event.reason else "")


logs.configure()  # here, since BentoML's own processes read this file after they have set up theirs
app = make_app()


@bentoml.service(
    name="shoal_service",
    workers=1,
    # To the first byte: a stream is never cut. A long prompt on a busy CPU may take minutes.
    traffic={"timeout": 600},
    # A span for every chunk of every stream that nobody collects took a fifth of the throughput (docs/log.md).
    tracing={"excluded_urls": ".*"},
    metrics={"enabled": True},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(app, path="/")
class ShoalService:
    """BentoML's handle on one replica; everything is in ``Service``."""

    @bentoml.on_startup
    async def start(self) -> None:
        from service.exposition import Exposition  # not earlier: BentoML sets prometheus_client's folder first

        die_with_parent()
        # Registry calls block, and a move waits for its replicas: more of them at once than asyncio's default of cores + 4.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="registry"))
        settings = ServiceSettings.load()
        logs.name_process(replica=settings.replica_id)
        refuse_open_address(settings)
        service = Service(settings, RegistrySettings.load())
        await service.start()
        app.state.parts, app.state.gateway = service.parts, service.gateway
        service.open(app.state.gatekeeper)
        self._exposition = Exposition(service.parts)
        app.state.drain.install(service.parts.replica.stop, service.settings.stop_notice)
        self._service = service

    @bentoml.on_shutdown
    async def stop(self) -> None:
        await self._service.stop()

    async def __metrics__(self, counted: str) -> str:
        return counted + await self._exposition.text()

    async def __is_ready__(self) -> bool:
        return self._service.ready and not app.state.drain.stopping

    async def __is_alive__(self) -> bool:
        return self._service.engine.alive


# The first is the outermost.
ShoalService.add_asgi_middleware(Gate, keeper=app.state.gatekeeper)  # type: ignore[attr-defined]  # a bentoml Service
ShoalService.add_asgi_middleware(DrainGate, drain=app.state.drain)  # type: ignore[attr-defined]  # a bentoml Service
ShoalService.add_asgi_middleware(OpenAIPath, gateway=LateGateway(app))  # type: ignore[attr-defined]  # a bentoml Service
ShoalService.add_asgi_middleware(  # type: ignore[attr-defined]  # a bentoml Service
    FeedbackPath, parts=lambda: getattr(app.state, "parts", None)
)
