"""What each version of an adapter did for its users."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from service.api.parts import Caller, PartsOf, adapter_name

router = APIRouter(prefix="/api/adapters", tags=["adapters"])
Name = Annotated[str, Depends(adapter_name)]


@router.get("/{name}/metrics")
def get_metrics(name: Name, parts: PartsOf, _: Caller) -> Any:
    """Requests, errors, speed and ratings of each version, over all replicas and restarts."""
    rollout = parts.registry.rollout(name)
    places = {rollout.champion: "champion", rollout.challenger: "shadow" if rollout.shadow else "challenger"}
    figures = parts.registry.figures.read(name)
    told = [{"version": number, "place": places.get(number), **of} for number, of in figures.items()]
    return {"adapter": name, "versions": told}
