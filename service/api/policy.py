"""An adapter's policy: what happens by itself, and how trials begin."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from registry.policy import Policy
from service.api.adapters import Name, followed
from service.api.parts import Caller, MoveBody, PartsOf

router = APIRouter(prefix="/api/adapters", tags=["adapters"])


class NewPolicy(MoveBody):
    policy: dict[str, Any]


@router.get("/{name}/policy")
def get_policy(name: Name, parts: PartsOf, _: Caller) -> Any:
    policy, revision = parts.registry.policy(name)
    return {"policy": policy, "revision": revision}


@router.put("/{name}/policy")
async def set_policy(name: Name, body: NewPolicy, parts: PartsOf, caller: Caller) -> Any:
    """Replace the policy; a field that is left out gets its default."""
    policy = Policy.read(body.policy)

    def check() -> None:
        parts.intake.check_redactor(policy.recording.redact)

    rollout = await asyncio.to_thread(
        lambda: parts.registry.set_policy(name, policy, check=check, by=caller, **body.conditions())
    )
    await followed(parts, rollout)
    return {"policy": policy, "revision": rollout.revision}
