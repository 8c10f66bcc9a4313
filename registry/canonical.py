"""One spelling for every JSON value, so that equal values have equal digests on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """``value`` as UTF-8 JSON with sorted keys, no spaces and no NaN. Floats print as their shortest exact form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def digest(value: Any) -> str:
    """The digest of a JSON value: sha256 over its canonical bytes."""
    return sha256(canonical(value))
