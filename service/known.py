"""The last known rollouts, on disk: what a replica starts from while Redis is gone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from registry.errors import RegistryDown
from registry.files import write_atomically
from registry.record import SCHEMA, check_schema
from registry.records import Rollout, Version


class Known:
    """One file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def write(self, rollouts: Iterable[Rollout], versions: Iterable[Version]) -> None:
        """Keep the rollouts, and the records of the versions that they pin, as far as ``versions`` has them."""
        rollouts = list(rollouts)
        names = {f"{rollout.adapter}@{number}" for rollout in rollouts for number in rollout.pinned}
        content = {
            "schema_number": SCHEMA,
            "rollouts": [rollout.model_dump(mode="json") for rollout in rollouts],
            "versions": [version.model_dump(mode="json") for version in versions if version.engine_name in names],
        }
        write_atomically(self._path, json.dumps(content).encode())

    def read(self) -> tuple[list[Rollout], list[Version]]:
        """What was kept last. ``RegistryDown`` where nothing was: there is nothing to start from."""
        if not self._path.exists():
            raise RegistryDown("and this replica has no last known rollouts to start from")
        content = json.loads(self._path.read_bytes())
        check_schema("file of last known rollouts", content.get("schema_number"))
        rollouts = [Rollout.model_validate(value) for value in content["rollouts"]]
        return rollouts, [Version.model_validate(value) for value in content["versions"]]
