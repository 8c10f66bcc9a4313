"""The rules of a rollout, pure: each move takes the rollout as it is and answers the rollout as it will be.

Who may call them and what is written when is the store's business; here is only what a move means.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import groupby

from registry.errors import BadInput, Conflict, NothingEarlier, VersionWithdrawn
from registry.records import Rollout

TRAIL_STEPS = 1000  # the way back is so many champions long: a rollout is read at every poll and must stay small
MOST_PINS = 64


def promote(rollout: Rollout, version: int, *, at: datetime, by_itself: bool = False) -> Rollout:
    """The champion moves forward to ``version``; the one before it joins the trail.

    ``by_itself``: no person asked for this move; then a version that was rolled back stays back, and so does one beside another's
    trial. Promoting the champion again is a move too (it ends a trial), but leaves the trail as it is.
    """
    if by_itself and version in rollout.withdrawn:
        raise VersionWithdrawn(rollout.adapter, version)
    if by_itself:
        _beside_no_other(rollout, version)
    moved = rollout.champion is not None and rollout.champion != version
    return rollout.model_copy(
        update={
            "revision": rollout.revision + 1,
            "champion": version,
            "challenger": None,
            "challenger_share": 0.0,
            "shadow": False,
            "trail": (*rollout.trail, rollout.champion)[-TRAIL_STEPS:] if moved else rollout.trail,
            "withdrawn": tuple(held for held in rollout.withdrawn if held != version),
            "moved_at": at,
        }
    )


def roll_back(rollout: Rollout, to: int | None = None, *, at: datetime) -> Rollout:
    """The champion moves back: without ``to`` to the champion before this one, else to an earlier version.

    Earlier means: it was champion before (it is on the trail), or its number is below the champion's. What the trail
    held after it is cut off, so that the next rollback goes further back and never forward.
    """
    if rollout.champion is None or (to is None and not rollout.trail):
        raise NothingEarlier(rollout.adapter, rollout.champion)
    target = rollout.trail[-1] if to is None else to
    if target == rollout.champion or (target not in rollout.trail and target > rollout.champion):
        raise NothingEarlier(rollout.adapter, rollout.champion, target)
    return rollout.model_copy(
        update={
            "revision": rollout.revision + 1,
            "champion": target,
            "challenger": None,
            "challenger_share": 0.0,
            "shadow": False,
            "trail": _cut(rollout.trail, target),
            "withdrawn": tuple(dict.fromkeys((*(v for v in rollout.withdrawn if v != target), rollout.champion))),
            "moved_at": at,
        }
    )


def start_canary(
    rollout: Rollout, version: int, share: float, *, at: datetime, shadow: bool = False, by_itself: bool = False
) -> Rollout:
    """``version`` goes on trial and answers ``share`` (0 to 1) of the traffic; the champion keeps the rest.

    ``shadow``: it answers nobody; the champion answers everything and the trial is scored on the side. ``by_itself``: no person
    asked; then a version that was rolled back stays back, and so does one beside another's trial.
    """
    if by_itself and version in rollout.withdrawn:
        raise VersionWithdrawn(rollout.adapter, version)
    if by_itself:
        _beside_no_other(rollout, version)
    if rollout.champion is None:
        raise BadInput(f"'{rollout.adapter}' has no champion yet: promote a version first.", field="version")
    if version == rollout.champion:
        raise BadInput(f"{rollout.adapter}@{version} is the champion: a trial needs another version.", field="version")
    if not 0.0 <= share <= 1.0:
        raise BadInput(f"'share' is {share}; it must be between 0 and 1.", field="share")
    return rollout.model_copy(
        update={
            "revision": rollout.revision + 1,
            "challenger": version,
            "challenger_share": 0.0 if shadow else share,
            "shadow": shadow,
            "moved_at": at,
        }
    )


def end_canary(rollout: Rollout, *, at: datetime, withdraw: bool = False) -> Rollout:
    """The trial ends and the champion answers everything again. ``withdraw``: the version was found worse; nothing promotes
    it by itself."""
    if rollout.challenger is None:
        raise BadInput(f"'{rollout.adapter}' has no version on trial.", field="version")
    return rollout.model_copy(
        update={
            "revision": rollout.revision + 1,
            "challenger": None,
            "challenger_share": 0.0,
            "shadow": False,
            "withdrawn": tuple(dict.fromkeys((*rollout.withdrawn, rollout.challenger)))
            if withdraw
            else rollout.withdrawn,
            "moved_at": at,
        }
    )


def pin(rollout: Rollout, version: int, *, at: datetime) -> Rollout:
    """Every replica keeps ``version`` loaded, whoever answers, until it is unpinned. Pinning it again changes nothing else."""
    if version not in rollout.pins and len(rollout.pins) >= MOST_PINS:
        raise Conflict(
            f"'{rollout.adapter}' has {MOST_PINS} pinned versions, the most there may be. Unpin one first.",
            adapter=rollout.adapter,
            pins=list(rollout.pins),
        )
    pins = tuple(dict.fromkeys((*rollout.pins, version)))
    return rollout.model_copy(update={"revision": rollout.revision + 1, "pins": pins, "moved_at": at})


def unpin(rollout: Rollout, version: int, *, at: datetime) -> Rollout:
    """``version`` is kept loaded only while it is champion, on trial, or the way back."""
    if version not in rollout.pins:
        raise Conflict(
            f"{rollout.adapter}@{version} is not pinned.",
            adapter=rollout.adapter,
            version=version,
            pins=list(rollout.pins),
        )
    pins = tuple(held for held in rollout.pins if held != version)
    return rollout.model_copy(update={"revision": rollout.revision + 1, "pins": pins, "moved_at": at})


def change_policy(rollout: Rollout, *, at: datetime) -> Rollout:
    """The policy beside the rollout changes; who answers does not."""
    return rollout.model_copy(update={"revision": rollout.revision + 1, "moved_at": at})


def retire(rollout: Rollout, version: int, *, at: datetime) -> Rollout:
    """``version`` is served no more: it leaves the trail, so that no rollback leads to it.

    A version that is kept loaded (champion, challenger, the way back, pinned) is not retired while it is.
    """
    if version in rollout.pinned:
        raise Conflict(
            f"{rollout.adapter}@{version} cannot be retired: {_needed(rollout, version)}",
            adapter=rollout.adapter,
            version=version,
            pinned=list(rollout.pinned),
        )
    return rollout.model_copy(
        update={
            "revision": rollout.revision + 1,
            "trail": _steps(held for held in rollout.trail if held != version),
            "withdrawn": tuple(held for held in rollout.withdrawn if held != version),
            "moved_at": at,
        }
    )


def _needed(rollout: Rollout, version: int) -> str:
    if version == rollout.champion:
        return "it is the champion. Promote another version first."
    if version == rollout.challenger:
        return "it is on trial. End the trial first."
    if version in rollout.pins:
        return f"it is pinned. Unpin it first: `shoal unpin {rollout.adapter} {version}`."
    return "it is the way back from the champion. Promote another version first."


def _beside_no_other(rollout: Rollout, version: int) -> None:
    if rollout.challenger not in (None, version):
        raise Conflict(
            f"{rollout.adapter}@{rollout.challenger} is on trial. End that trial first (`shoal canary {rollout.adapter} --end`), "
            "or wait until it is decided.",
            adapter=rollout.adapter,
            version=rollout.challenger,
        )


def _cut(trail: tuple[int, ...], target: int) -> tuple[int, ...]:
    """The trail as it was before ``target`` was champion the last time."""
    if target in trail:
        return trail[: len(trail) - 1 - trail[::-1].index(target)]
    return _steps(version for version in trail if version < target)


def _steps(champions: Iterable[int]) -> tuple[int, ...]:
    """A trail has no step from a version to itself."""
    return tuple(version for version, _ in groupby(champions))
