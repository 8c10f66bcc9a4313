"""A real S3-compatible server for tests: moto's, on a free port, with a fresh bucket each time."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
from moto.server import ThreadedMotoServer

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """The environment that leads to a server while it runs: the endpoint and the keys."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    finally:
        server.stop()


def bucket(endpoint: str) -> str:
    """A new bucket; its name."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")  # noqa: S310 (our own server)
    urllib.request.urlopen(request).close()  # noqa: S310
    return name


def forget_connections() -> None:
    """fsspec keeps file systems by their arguments: the next test's server is another one."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
