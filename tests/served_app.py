"""The service's whole app on the stub engine, in the test's own process: routes, moves and engine, without a port."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from registry.settings import RegistrySettings
from service.app import Service, make_app
from service.gate import Gate
from service.settings import ServiceSettings


@asynccontextmanager
async def serving(registry: RegistrySettings, home: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app, started as ``bentoml serve`` starts it. Without ``base`` no adapter's shape is checked."""
    service = Service(ServiceSettings(engine="stub", home=home), registry.model_copy(update={"base": "stub"}))
    service.parts.registry.settings = registry
    app = make_app()
    app.state.parts, app.state.gateway = service.parts, service.gateway
    await service.start()
    service.open(app.state.gatekeeper)
    served = httpx.ASGITransport(Gate(app, app.state.gatekeeper))
    try:
        async with httpx.AsyncClient(transport=served, base_url="http://127.0.0.1") as client:
            yield client
    finally:
        await service.stop()
        gc.unfreeze()  # what a service's start froze
