"""Unpacking an uploaded archive without trusting it: .zip, .tar, .tar.gz."""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from registry.artifacts import CONFIG
from registry.errors import AdapterRefused
from registry.tar_archive import Inflated, untar
from registry.unpacked import FORMATS, MAX_MEMBERS, Unpacked
from registry.zip_archive import Sips, unzip

_ZIPS = (b"PK\x03\x04", b"PK\x05\x06")  # the second: without a member
_GZIP = b"\x1f\x8b"
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OverflowError, struct.error)


def unpack(archive: bytes | Path, into: Path, *, max_bytes: int = 512_000_000, max_members: int = MAX_MEMBERS) -> Path:
    """Unpacks into ``into`` and answers the one folder in it that holds an adapter_config.json.

    ``AdapterRefused`` for: another format or a damaged one, members that are encrypted, sparse, links or devices, names
    that lead elsewhere, hide something or come twice, pickles and archives inside, more than ``max_members``, more than
    ``max_bytes`` unpacked (counted while unpacking, so a bomb stops there), no adapter or more than one. The slugs:
    docs/api.md. What was unpacked until then is left in ``into``; the caller deletes the folder. Memory stays at a few
    megabytes whatever the archive says.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        with _open(archive) as source:
            unpacked = Unpacked(into, packed=_size(source), max_bytes=max_bytes, max_members=max_members)
            _unpack(source, unpacked)
    except _DAMAGED as error:
        raise _damaged(error) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # a full disk is no fault of the archive
            raise
        raise _damaged(error) from error
    return _adapter_in(into)


def _unpack(source: BinaryIO, unpacked: Unpacked) -> None:
    head = source.read(8)
    source.seek(0)
    if head.startswith(_ZIPS):
        unzip(source, unpacked)
    elif head.startswith(_GZIP):
        untar(io.BufferedReader(Inflated(source)), unpacked)  # type: ignore[type-var]
    elif other := next((name for magic, name in FORMATS.items() if head.startswith(magic)), None):
        raise AdapterRefused("archive_format", f"The archive is {other}: send .zip, .tar or .tar.gz.", format=other)
    else:
        untar(source, unpacked)


def _damaged(error: Exception) -> AdapterRefused:
    told = str(error) or type(error).__name__
    return AdapterRefused("archive_invalid", f"The archive cannot be read as .zip, .tar or .tar.gz: {told[:300]}")


def _open(archive: bytes | Path) -> BinaryIO:
    return Sips(io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb", buffering=0))  # type: ignore[arg-type]


def _size(source: BinaryIO) -> int:
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return size


def _adapter_in(into: Path) -> Path:
    found = sorted(path.parent for path in into.rglob(CONFIG) if "__MACOSX" not in path.parts)
    if len(found) == 1:
        return found[0]
    if not found:
        raise AdapterRefused("archive_no_adapter", f"No folder of the archive holds an {CONFIG}.")
    names = ", ".join(str(path.relative_to(into)) for path in found[:5])
    raise AdapterRefused("archive_many_adapters", f"The archive holds {len(found)} adapters ({names}): upload one.")
