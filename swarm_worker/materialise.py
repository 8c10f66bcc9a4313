"""A mix as the adapter that is registered: the one way that runs write their finalist, and that ``shoal rebuild`` repeats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from registry.records import Hull
from swarm_worker.environment import one_thread
from swarm_worker.hull import Cut, ExpertStack, ExportDtype, HullOptions, Space

DTYPE: ExportDtype = "bfloat16"
"""What a run's adapters are written in."""


def materialise(
    experts: Sequence[Path],
    coefficients: Sequence[float],
    folder: Path,
    *,
    space: Space,
    max_rank: int,
    hull: Hull | None = None,
    dtype: ExportDtype = DTYPE,
) -> Cut:
    """Write the mix of PEFT folders at a position of their hull as the PEFT folder ``folder``, cut to ``max_rank``.

    The same arguments give the same bytes: on one machine in every process, whatever its threads; a mix that needs no cut
    (its rank is at most ``max_rank``) on every CPU, as it is sums and products alone, rounded in one order. A cut is
    LAPACK's, which another CPU may round otherwise in the last bits. ``max_rank`` may as well be the rank that came out.
    Errors as ``ExpertStack.load`` and ``ExpertStack.write``.
    """
    options = HullOptions(**(hull or Hull()).model_dump())
    with one_thread():
        return ExpertStack.load(experts, options).write(
            coefficients, folder, space=space, max_rank=max_rank, dtype=dtype
        )
