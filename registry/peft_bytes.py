"""The bytes of an adapter: the two files that count, the digest that names them, and where a digest lies.

A digest is ``sha256:`` and 64 hex digits. Of an adapter it is taken over, in this order: ``shoal adapter 1\\n``; the
length in bytes of the canonical ``adapter_config.json`` (sorted keys, no spaces, UTF-8) as decimal digits and ``\\n``;
that config; the bytes of ``adapter_model.safetensors`` as they are.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import IO

from registry.canonical import canonical
from registry.errors import BadInput

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHUNK = 1 << 20


def digest_of(config: bytes, tensors: IO[bytes]) -> str:
    """The digest of an adapter whose tensors can be read once. ``ValueError``: the config is no JSON."""
    spelled = canonical(json.loads(config.decode("utf-8")))
    total = hashlib.sha256(b"shoal adapter 1\n%d\n" % len(spelled) + spelled)
    while chunk := tensors.read(_CHUNK):
        total.update(chunk)
    return f"sha256:{total.hexdigest()}"


def digest_of_folder(folder: Path) -> str:
    """The digest of the adapter in a PEFT folder. ``""``: it cannot be read."""
    try:
        with (folder / TENSORS).open("rb") as tensors:
            return digest_of((folder / CONFIG).read_bytes(), tensors)
    except (OSError, ValueError, RecursionError):
        return ""


def size_of_folder(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in (CONFIG, TENSORS))


def parts_of(digest: str) -> tuple[str, str, str, str]:
    """The steps of a path that lead to a digest. BadInput for what is none: a path is made from nothing else."""
    found = _DIGEST.fullmatch(digest)
    if not found:
        raise BadInput(f"'{digest[:80]}' is not a digest: 'sha256:' and 64 hex digits.", field="digest")
    name = found[1]
    return "sha256", name[:2], name[2:4], name


def write_synced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    sync(path)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(arriving: Path, final: Path) -> None:
    """Gives a written folder its name in one step; if another process was faster, its copy stays."""
    sync(arriving)
    while True:
        try:
            arriving.rename(final)
            break
        except OSError as error:
            if final.exists():
                break
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else somebody dropped the copy that stood in the way: the name is free now
    sync(final.parent)


def drop(folder: Path) -> None:
    """Takes a folder out of its name in one step, then deletes it."""
    aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
