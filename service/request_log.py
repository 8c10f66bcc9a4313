"""One line a request, once it has been answered: at the level debug, as a warning where it failed. Never what was said."""

from __future__ import annotations

import logging

from registry.logs import bound
from service.exchanges import Exchange

log = logging.getLogger("shoal.requests")


def tell(exchange: Exchange) -> None:
    """The version, how it ended, how long it took. With the level above debug an answer costs one comparison."""
    failed = exchange.error is not None
    level = logging.WARNING if failed else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    adapter = exchange.version.rpartition("@")[0]
    with bound(request_id=exchange.request_id, version=exchange.version, **({"adapter": adapter} if adapter else {})):
        how = "failed" if failed else "was broken off" if exchange.aborted else "answered"
        log.log(level, "%s %s in %.3f s (%s)", exchange.version, how, exchange.seconds, exchange.request_id)
