"""Make a version's bytes again from its lineage, and say how near they come: the proof that lineage leaves nothing out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from registry.artifacts import digest_of_folder
from registry.errors import ShoalError
from registry.records import Environment, Lineage, Version
from swarm_worker.difference import Difference, difference
from swarm_worker.environment import here
from swarm_worker.expert import UnusableExpert
from swarm_worker.materialise import materialise

TOLERANCE = 1e-5
"""How far an entry of a module's dW = B A may be from the registered one on another CPU or another lock."""

Outcome = Literal["import", "trained", "same", "equal", "different"]


class CannotRebuild(ShoalError):
    """The bytes of the version or of an expert of it are gone, or are not what their digest says."""

    code = "cannot_rebuild"


class Versions(Protocol):
    """Where versions are read. ``fetch`` writes the version's PEFT folder below ``into`` and answers where; nobody has
    verified it yet. Both raise ``ShoalError``."""

    def version(self, adapter: str, number: int) -> Version: ...

    def fetch(self, version: Version, into: Path) -> Path: ...


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came out. ``import``, ``trained``: nothing was mixed, the registered bytes were fetched and verified; ``same``:
    the same bytes; ``equal``: every entry of dW within ``TOLERANCE``; else ``different``. ``difference``: of the last two."""

    version: Version
    outcome: Outcome
    digest: str
    folder: Path
    environment: Environment
    difference: Difference | None = None

    def to_json(self) -> dict[str, Any]:
        recorded = self.version.lineage.environment if self.version.lineage else None
        return {
            "adapter": self.version.adapter,
            "version": self.version.version,
            "outcome": self.outcome,
            "expected_digest": self.version.digest,
            "actual_digest": self.digest,
            "tolerance": TOLERANCE,
            "largest_difference": self.difference.largest if self.difference else None,
            "module": self.difference.module if self.difference else None,
            "largest_entry": self.difference.entry if self.difference else None,
            "recorded_environment": recorded.model_dump() if recorded else None,
            "environment": self.environment.model_dump(),
        }


def rebuild(versions: Versions, adapter: str, number: int, scratch: Path) -> Rebuilt:
    """Rebuild a version in the empty folder ``scratch``. Retired versions and experts are rebuilt as any.

    The registered bytes are fetched only where they are needed: the same bytes are known by their digest, also when the
    registered ones are lost. Raises ``CannotRebuild``, and what ``versions`` raises.
    """
    version = versions.version(adapter, number)
    if version.lineage is None:
        kind: Outcome = "trained" if version.training else "import"
        what = "was trained" if version.training else "is an import"
        folder = fetched(versions, version, scratch / kind, f"{version.engine_name} {what}, and")
        return Rebuilt(version, kind, version.digest, folder, here())
    folder = scratch / "rebuilt"
    digest = build(versions, adapter, version.lineage, folder, name=version.engine_name)
    if digest == version.digest:
        return Rebuilt(version, "same", digest, folder, here())
    registered = fetched(
        versions,
        version,
        scratch / "registered",
        f"{version.engine_name} was rebuilt, not to the same bytes ({digest}), and to compare",
    )
    try:
        found = difference(registered, folder)
    except UnusableExpert as error:
        raise CannotRebuild(
            f"{version.engine_name} cannot be compared with what was rebuilt: {error.reason}."
        ) from error
    return Rebuilt(version, "equal" if found.largest <= TOLERANCE else "different", digest, folder, here(), found)


def build(versions: Versions, adapter: str, lineage: Lineage, folder: Path, *, name: str) -> str:
    """Materialise ``lineage`` as ``folder`` and answer its digest: the experts are fetched beside it, each verified."""
    experts = []
    for index, expert in enumerate(lineage.experts):
        why = f"{name} cannot be rebuilt: its expert {expert.name} ({adapter}@{expert.version})"
        held = versions.version(adapter, expert.version)
        if held.digest != expert.digest:
            raise CannotRebuild(f"{why} has digest {expert.digest} in the lineage, {held.digest} in the registry.")
        experts.append(fetched(versions, held, folder.parent / f"expert-{index}", why))
    try:
        materialise(
            experts,
            lineage.coefficients,
            folder,
            space=lineage.space,
            max_rank=lineage.rank,
            hull=lineage.hull,
            dtype=lineage.dtype,
        )
    except ValueError as error:
        raise CannotRebuild(f"{name} cannot be rebuilt from its lineage: {error}") from error
    return digest_of_folder(folder)


def fetched(versions: Versions, version: Version, into: Path, why: str) -> Path:
    """The verified folder of a version; ``why`` begins the sentence where its bytes are gone or damaged."""
    remedy = f"Import the same weights again to put them back: shoal import {version.adapter} DIR."
    try:
        folder = versions.fetch(version, into)
    except ShoalError as error:
        if error.code != "artifact_missing":
            raise
        found = error.details.get("why") or error.message
        raise CannotRebuild(f"{why} has no bytes any more: {found}. {remedy}", digest=version.digest) from error
    if (actual := digest_of_folder(folder)) != version.digest:
        raise CannotRebuild(
            f"{why} came as {actual or 'something unreadable'}, not as {version.digest}: its bytes are damaged. {remedy}",
            digest=version.digest,
        )
    return folder
