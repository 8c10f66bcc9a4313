"""Where the starter pack lies and what it says about itself: the base, the experts, the blend its users ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

STARTER = Path(__file__).resolve().parent
BASE_NAME = "shoal-starter"
"""What every expert names as its base model."""


@dataclass(frozen=True)
class Effect:
    """What a run on this pack usually gains over the first champion, and how much that varies from item to item, as shares:
    what the power of a gate is reckoned from. Measured by the build, on items of its own."""

    difference: float
    spread: float


@dataclass(frozen=True)
class Pack:
    """The starter pack, read from ``pack.json``.

    ``experts`` are in their order; the first is the adapter's first champion, the expert of the blend's first skill.
    """

    adapter: str
    base: Path
    experts: dict[str, Path]
    blend: tuple[str, ...]
    effect: Effect

    @property
    def champion(self) -> str:
        """The expert that answers before any adaptation."""
        return next(iter(self.experts))


class IncompletePack(FileNotFoundError):
    """A part that ``pack.json`` names is not on disk: ``make starter`` makes it."""

    def __init__(self, missing: Path):
        super().__init__(f"the starter pack lacks {missing}; run `make starter`")


def load_pack(root: Path = STARTER) -> Pack:
    """Read ``root/pack.json`` (paths in it are relative to ``root``). Raises ``IncompletePack`` for a missing part."""
    manifest = root / "pack.json"
    if not manifest.is_file():
        raise IncompletePack(manifest)
    declared = json.loads(manifest.read_text())
    base = root / declared["base"]
    experts = {name: root / "experts" / name for name in declared["experts"]}
    needed = [base / "model.safetensors", *(folder / "adapter_model.safetensors" for folder in experts.values())]
    for part in needed:
        if not part.is_file():
            raise IncompletePack(part)
    return Pack(declared["adapter"], base, experts, tuple(declared["blend"]), Effect(**declared["effect"]))
