"""The last known rollouts, on disk: what a replica starts from while Redis is gone, and holds against Redis when it is there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from registry.errors import RegistryDown
from registry.files import write_atomically
from registry.record import SCHEMA, check_schema
from registry.records import Rollout, Version
from registry.store import Reached


class LastKnown(NamedTuple):
    """``highest``: the highest version number of each adapter that was ever there."""

    rollouts: list[Rollout]
    versions: list[Version]
    highest: dict[str, int]

    @property
    def reached(self) -> dict[str, Reached]:
        """How far each adapter was."""
        return reached(self.rollouts, self.highest)


def reached(rollouts: Iterable[Rollout], highest: Mapping[str, int]) -> dict[str, Reached]:
    """How far adapters were of which these rollouts and highest version numbers are known."""
    revisions = {rollout.adapter: rollout.revision for rollout in rollouts}
    return {name: Reached(revisions.get(name, 0), highest.get(name, 0)) for name in revisions.keys() | highest.keys()}


class Known:
    """One file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def write(self, rollouts: Iterable[Rollout], versions: Iterable[Version], highest: Mapping[str, int]) -> None:
        """Keep the rollouts, the records of the versions that they pin, as far as ``versions`` has them, and ``highest``."""
        rollouts = list(rollouts)
        names = {f"{rollout.adapter}@{number}" for rollout in rollouts for number in rollout.pinned}
        content = {
            "schema_number": SCHEMA,
            "rollouts": [rollout.model_dump(mode="json") for rollout in rollouts],
            "versions": [version.model_dump(mode="json") for version in versions if version.engine_name in names],
            "highest": dict(highest),
        }
        write_atomically(self._path, json.dumps(content).encode())

    def read(self) -> LastKnown:
        """What was kept last. ``RegistryDown`` where nothing was: there is nothing to start from."""
        if not self._path.exists():
            raise RegistryDown("and this replica has no last known rollouts to start from")
        content = json.loads(self._path.read_bytes())
        check_schema("file of last known rollouts", content.get("schema_number"))
        rollouts = [Rollout.model_validate(value) for value in content["rollouts"]]
        versions = [Version.model_validate(value) for value in content["versions"]]
        return LastKnown(rollouts, versions, content.get("highest", {}))
