"""The check of the place for weights: is every digest that a record names there, and are its bytes what they were?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from registry.keys import Keys
from registry.named import named

if TYPE_CHECKING:
    from registry.registry import Registry


@dataclass(frozen=True, slots=True)
class Finding:
    """One digest that cannot be served from the place, and who names it."""

    digest: str
    state: Literal["missing", "damaged"]
    named_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found: how many digests are whole, and those that are not."""

    checked: int
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "checked": self.checked,
            "findings": [{**asdict(finding), "named_by": list(finding.named_by)} for finding in self.findings],
        }


def check(registry: Registry) -> Check:
    """Reads every byte that a version, a lineage or a run names; the cache is not asked.

    A digest in a record that never was an artifact (of a feedback item, say) is not asked for: only what a version, its
    lineage or a run's experts, guards, champion and snapshot name. ``ArtifactsDown`` where the place does not answer.
    """
    place = registry.artifacts.place
    there = {stored.digest for stored in place.listing()}
    wanted = _wanted(registry)
    findings = []
    for digest in sorted(wanted):
        if digest not in there:
            findings.append(Finding(digest, "missing", tuple(wanted[digest])))
        elif place.actual(digest) != digest:
            findings.append(Finding(digest, "damaged", tuple(wanted[digest])))
    return Check(len(wanted), tuple(findings))


def _wanted(registry: Registry) -> dict[str, list[str]]:
    """digest -> who names it. Finalists of runs that came to nothing may be gone: a run's reports are not asked."""
    found = named(registry.redis, Keys(registry.settings.namespace))
    sure = {digest: by for digest, by in found.items() if any("@" in name for name in by)}
    for run in registry.runs.list(limit=10_000):
        digests = [ref.digest for ref in (*run.experts, *run.guards, run.champion, run.snapshot) if ref is not None]
        for digest in digests:
            by = sure.setdefault(digest, [])
            if run.id not in by:
                by.append(run.id)
    return sure
