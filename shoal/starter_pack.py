"""The starter pack as ``shoal up`` sees it: a base, and experts to import. Found without importing it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shoal.client import Client
from shoal.errors import UpError

REMEDY = "Give a base of your own: `shoal up --base PATH_OR_HF_ID`."


@dataclass(frozen=True, slots=True)
class StarterPack:
    """``starter/pack.json`` with absolute paths; ``experts`` in the order of their versions."""

    adapter: str
    base: Path
    experts: tuple[Path, ...]

    @classmethod
    def found(cls) -> StarterPack:
        """The pack that is installed beside Shoal. ``UpError`` where there is none, or one that is not whole."""
        spec = importlib.util.find_spec("starter")
        for folder in (spec and spec.submodule_search_locations) or ():
            if (Path(folder) / "pack.json").is_file():
                return cls.read(Path(folder))
        raise UpError(f"The starter pack is not installed. {REMEDY}")

    @classmethod
    def read(cls, folder: Path) -> StarterPack:
        try:
            pack = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
            experts = tuple(folder / "experts" / str(name) for name in pack["experts"])
            read = cls(adapter=str(pack["adapter"]), base=folder / str(pack["base"]), experts=experts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UpError(f"The starter pack in {folder} cannot be read ({error!r}). {REMEDY}") from error
        missing = [path for path in (read.base, *read.experts) if not path.is_dir()]
        if missing:
            raise UpError(f"The starter pack lacks {missing[0]}. {REMEDY}")
        return read

    def imported(self, client: Client, say: Callable[[str], None]) -> None:
        """Import the experts that the adapter does not have yet; the first becomes its champion. One line each.

        Repeatable: an import that was interrupted goes on where it was.
        """
        known = {version["label"] for version in client.versions(self.adapter)} if self._there(client) else set()
        for expert in self.experts:
            if expert.name in known:
                continue
            answer = client.import_version(self.adapter, expert, label=expert.name, note="starter pack")
            version = answer["version"]["version"]
            say(f"imported {expert.name} as {self.adapter}@{version}")

    def _there(self, client: Client) -> bool:
        return any(adapter["name"] == self.adapter for adapter in client.adapters())
