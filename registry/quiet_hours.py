"""Hours of the day, on the clock of one place: when it is quiet, and when its day began. Pure.

The clock is the one on the wall: where it is put forward, an hour of the window may not come; where it is put back, one may
come twice.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from registry.errors import BadInput

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def window(text: str) -> tuple[time, time]:
    """``22:00-06:00`` as its two times; over midnight where the second is the earlier. ValueError for anything else."""
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError("write two times of the day such as '22:00-06:00'")
    hour, minute, to_hour, to_minute = (int(part) for part in found.groups())
    begins, ends = time(hour, minute), time(to_hour, to_minute)
    if begins == ends:
        raise ValueError("the two times are the same: to start nothing by itself, write 'adapt: never'")
    return begins, ends


def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name; BadInput where this machine knows none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadInput(
            f"'time_zone': '{name[:64]}' is no time zone that this machine knows. Give an IANA name such as 'Europe/Berlin'; "
            "where that is unknown, install tzdata.",
            field="time_zone",
        ) from error


def is_quiet(hours: str, where: ZoneInfo, at: datetime) -> bool:
    """Whether ``at`` lies in the window, its beginning included and its end not."""
    begins, ends = window(hours)
    clock = at.astimezone(where).time()
    if begins < ends:
        return begins <= clock < ends
    return clock >= begins or clock < ends


def day_began(where: ZoneInfo, at: datetime) -> datetime:
    """The midnight before ``at``, in UTC."""
    midnight = datetime.combine(at.astimezone(where).date(), time.min, where)
    return midnight.astimezone(UTC)
