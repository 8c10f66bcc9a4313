"""The suites that an adapter's policy may name as guards."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from registry.non_inferiority import least_tolerance
from registry.suites import Suite, SuiteRef
from service.api.adapters import Name
from service.api.parts import Body, Caller, Parts, PartsOf

router = APIRouter(prefix="/api/adapters", tags=["adapters"])
SuiteName = Annotated[str, Path(max_length=64)]


class NewSuite(Body):
    suite: dict[str, Any]


@router.get("/{name}/guards")
def list_guards(name: Name, parts: PartsOf, _: Caller) -> Any:
    """Every suite by name, with the tolerance and the level that the policy has for it, where it is a guard."""
    return {"guards": [_shown(parts, name, ref) for ref in parts.registry.suites.list(name)]}


@router.put("/{name}/guards/{suite}", status_code=201)
def put_guard(name: Name, suite: SuiteName, body: NewSuite, parts: PartsOf, caller: Caller, answer: Response) -> Any:
    """Keep a suite under this name. The same again changes nothing; other items are for runs that begin later."""
    ref, new = parts.registry.suites.put(name, suite, Suite.read(body.suite), by=caller)
    if not new:
        answer.status_code = 200
    return {"guard": _shown(parts, name, ref), "new": new}


@router.get("/{name}/guards/{suite}")
def get_guard(name: Name, suite: SuiteName, parts: PartsOf, _: Caller) -> Any:
    """The suite with its items."""
    ref = parts.registry.suites.get(name, suite)
    whole = parts.registry.suites.read(ref.digest)
    return {"guard": _shown(parts, name, ref), "suite": whole.model_dump(mode="json", by_alias=True)}


@router.delete("/{name}/guards/{suite}")
def remove_guard(name: Name, suite: SuiteName, parts: PartsOf, _: Caller) -> Any:
    """Forget the name; refused while the policy names it."""
    return {"guard": parts.registry.suites.remove(name, suite)}


def _shown(parts: Parts, name: str, ref: SuiteRef) -> dict[str, Any]:
    asked = next((g for g in parts.registry.policy(name)[0].guards if g.suite in (ref.name, ref.digest)), None)
    level = asked.level if asked else 0.95
    return {
        **ref.model_dump(mode="json"),
        "tolerance": asked.tolerance if asked else None,
        "level": level,
        "least_tolerance": round(least_tolerance(ref.items, level), 4),
    }
