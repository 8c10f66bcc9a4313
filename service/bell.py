"""Ring for the workers: put a run on the control queue. By task name only; the service never imports a worker."""

from __future__ import annotations

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from registry.queues import ADVANCE, celery_options
from registry.settings import RegistrySettings


class Bell:
    """A Celery producer. A ring that gets lost is no loss: the tick finds every run that waits."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._app = Celery("shoal-bell")
        options = celery_options(settings.redis_url, settings.namespace)
        # A caller waits for this ring: a broker that hangs is as good as none.
        options["broker_transport_options"] |= {"socket_timeout": 2, "socket_connect_timeout": 2}
        self._app.conf.update(options)

    def advance(self, run_id: str) -> bool:
        """Ask the control workers to move a run on; False where the broker cannot be reached."""
        try:
            self._app.send_task(ADVANCE, args=[run_id], retry=False)
        except (OperationalError, RedisError, OSError):
            return False
        return True
