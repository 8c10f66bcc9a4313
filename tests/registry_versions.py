"""What ``shoal rebuild`` reads, straight from a registry: for tests that have no service."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from registry.records import Version
from registry.registry import Registry


@dataclass(frozen=True)
class RegistryVersions:
    registry: Registry

    def version(self, adapter: str, number: int) -> Version:
        return self.registry.version(adapter, number)

    def fetch(self, version: Version, into: Path) -> Path:
        return Path(shutil.copytree(self.registry.artifacts.fetch(version.digest), into))
