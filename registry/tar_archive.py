"""The members of a .tar or .tar.gz, read front to back in bounded steps.

Headers are decoded by ``tarfile.TarInfo.frombuf``. The rest is done here: tarfile reads extended headers and maps of
sparse files whole, as long as they claim to be, and takes a damaged header for the end.
Format: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from registry.errors import AdapterRefused
from registry.unpacked import Unpacked

CHUNK = 1 << 20
BLOCK = tarfile.BLOCKSIZE
_MAX_EXTENDED = 1 << 20  # a long name or a file's attributes, bytes
_MAX_EXTENSIONS = 1000  # such headers in one archive
_MAX_PADDING = 1 << 20  # zeros after the end
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_ATTRIBUTES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)


class Inflated(io.RawIOBase):
    """What a gzip holds. Its header is skipped by zlib, its checksum compared, and nothing may follow it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(wbits=31)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._source.read(1 << 16)
            content = self._inflate.decompress(packed, len(buffer))
            if content:
                buffer[: len(content)] = content
                return len(content)
            if not packed and not self._inflate.eof:
                raise _cut("the gzip has no end")
        if self._inflate.unused_data or self._source.read(1):
            raise _trailing("the gzip")
        return 0


def untar(source: BinaryIO, unpacked: Unpacked) -> None:
    """Hands every member to ``unpacked``. ``AdapterRefused``, or ``zlib.error`` for a damaged gzip."""
    extensions = 0
    renamed: dict[str, str] = {}
    while (member := _header(source, unpacked)) is not None:
        kind = member.type
        if kind in (*_ATTRIBUTES, *_LONG):
            extensions += 1
            if extensions > _MAX_EXTENSIONS:
                raise AdapterRefused("archive_too_many", f"The archive has over {_MAX_EXTENSIONS} extended headers.")
            content = _extended(source, member, unpacked)
            if kind in _LONG:
                renamed[_LONG[kind]] = content.rstrip(b"\0").decode(errors="surrogateescape")
            else:
                told = _attributes(content)
                renamed |= told if kind != tarfile.XGLTYPE else _only_comments(told)
            continue
        _member(source, member, renamed, unpacked)
        renamed = {}
    _nothing_after(source)


def _header(source: BinaryIO, unpacked: Unpacked) -> tarfile.TarInfo | None:
    """The next header; None at the end, which is a block of zeros."""
    block = source.read(BLOCK)
    if len(block) < BLOCK:
        raise _cut("it has no end") if unpacked.members else _wrong("it is empty, or too short")
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if not any(block):
            return None
        raise _wrong(f"a header is damaged ({error})") from error


def _member(source: BinaryIO, member: tarfile.TarInfo, renamed: dict[str, str], unpacked: Unpacked) -> None:
    name = renamed.get("path", member.name)
    size = _number(renamed["size"]) if "size" in renamed else member.size
    if member.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in renamed):
        raise AdapterRefused("archive_sparse", f"{name[:200]!r} is a sparse file. Pack it without --sparse.")
    if member.type == tarfile.SYMTYPE:
        raise AdapterRefused("archive_link", f"The archive has a link: {name[:200]!r}. Pack the file itself.")
    if member.type == tarfile.LNKTYPE:
        raise AdapterRefused(
            "archive_hard_link", f"The archive has a hard link: {name[:200]!r}. Pack with --hard-dereference."
        )
    folder = member.type == tarfile.DIRTYPE
    if member.type not in _FILES and not folder:
        raise AdapterRefused("archive_special_file", f"The archive has a device, a pipe or the like: {name[:200]!r}.")
    if size < 0 or (folder and size):
        raise AdapterRefused("archive_inconsistent", f"The archive gives {name[:200]!r} a size of {size} bytes.")
    path = unpacked.enter(name, folder=folder)
    if folder:
        return
    if size > unpacked.left:
        unpacked.count(size)
    unpacked.write(path, _content(source, size))
    _exactly(source, -size % BLOCK)


def _content(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        chunk = source.read(min(CHUNK, size))
        if not chunk:
            raise _cut("it ends within a file")
        size -= len(chunk)
        yield chunk


def _exactly(source: BinaryIO, size: int) -> bytes:
    return b"".join(_content(source, size))


def _extended(source: BinaryIO, member: tarfile.TarInfo, unpacked: Unpacked) -> bytes:
    if not 0 <= member.size <= _MAX_EXTENDED:
        raise AdapterRefused(
            "archive_header_bomb", f"An extended header of {member.size} bytes; the most is {_MAX_EXTENDED}."
        )
    unpacked.count(member.size)
    content = _exactly(source, member.size)
    _exactly(source, -member.size % BLOCK)
    return content


def _attributes(content: bytes) -> dict[str, str]:
    """The records of a pax header, each ``LENGTH KEY=VALUE\\n``, its length counted over the whole record."""
    told = {}
    place = 0
    while place < len(content) and content[place]:
        digits = content[place : place + 8].partition(b" ")[0]
        length = _number(digits.decode("ascii", "replace"))
        record = content[place : place + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or len(record) != length or record[-1:] != b"\n":
            raise _wrong("a pax header is damaged")
        told[key.decode(errors="surrogateescape")] = value.decode(errors="surrogateescape")
        place += length
    return told


def _only_comments(told: dict[str, str]) -> dict[str, str]:
    """What a header for all members says; ``git archive`` writes a comment. None may name or measure them."""
    if {"path", "size", "linkpath"} & told.keys():
        raise AdapterRefused("archive_inconsistent", "The archive gives all its members one name or size.")
    return {key: value for key, value in told.items() if key.startswith("GNU.sparse")}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise _wrong(f"{text[:40]!r} is not a size")
    return int(text)


def _nothing_after(source: BinaryIO) -> None:
    padding = 0
    while chunk := source.read(1 << 16):
        padding += len(chunk)
        if padding > _MAX_PADDING or any(chunk):
            raise _trailing("the tar")


def _wrong(why: str) -> AdapterRefused:
    return AdapterRefused("archive_invalid", f"The archive cannot be read as .zip, .tar or .tar.gz: {why}.")


def _cut(why: str) -> AdapterRefused:
    return AdapterRefused("archive_truncated", f"The archive was cut off: {why}. Send it again.")


def _trailing(what: str) -> AdapterRefused:
    return AdapterRefused("archive_trailing", f"Something follows the end of {what}.")
