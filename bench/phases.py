"""What each phase of a bench costs, printed as it ends; and the processes that a short run can do without."""

from __future__ import annotations

import time

from shoal.processes import ProcessSpec, processes
from shoal.settings import UpSettings


class Phases:
    """One phase after the other, from the moment this is made. ``seconds``: by name, in the JSON of the bench."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def ended(self, name: str) -> None:
        """The phase ``name`` ends here, and the next one begins."""
        at = time.monotonic()
        self.seconds[name], self._began = round(at - self._began, 1), at
        print(f"{name}: {self.seconds[name]} s", flush=True)


def service_alone(settings: UpSettings) -> list[ProcessSpec]:
    """The table of ``shoal up`` without its workers and beat: idle in these benches, but they cost cores while they start."""
    return [spec for spec in processes(settings) if spec.name == "service"]
