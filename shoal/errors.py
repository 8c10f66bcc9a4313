"""What can go wrong on the caller's side, under the registry's root so that one ``except ShoalError`` is enough.

::

    ShoalError
    |-- ApiError              the service answered with an error; keeps its status, code and details
    |-- Unreachable           nothing answered, or it stopped answering
    |-- NotShoal              something answered that is not Shoal's API
    |-- LocalProblem          a file, folder or value on this side is not what it has to be
    `-- UpError               `shoal up` cannot start, or gave up; the message says what to do
"""

from __future__ import annotations

from typing import Any

from registry.errors import ShoalError


class ApiError(ShoalError):
    """The service refused: ``status`` and ``code`` are its own, ``message`` is written for a person."""

    def __init__(self, status: int, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}
        self.status = status
        self.code = code


class Unreachable(ShoalError):
    status = 503
    code = "unreachable"

    def __init__(self, url: str, why: str = "") -> None:
        told = f" ({why})" if why else ""
        super().__init__(f"Nothing answers at {url}{told}: is `shoal up` running? Another address: --url or SHOAL_URL.")
        self.url = url


class NotShoal(ShoalError):
    status = 502
    code = "not_shoal"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"What answers at {url} is not Shoal's API: {why}. Check --url or SHOAL_URL.")
        self.url = url


class LocalProblem(ShoalError):
    status = 422
    code = "local_problem"


class UpError(ShoalError):
    status = 500
    code = "up_failed"
