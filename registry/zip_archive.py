"""The members of a .zip, where its two descriptions of each member agree.

A zip says everything twice: in a directory at its end, and before each member. Readers differ in which they believe,
so that an archive whose two sides differ holds one thing for a scanner and another for who unpacks it.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from typing import IO, BinaryIO

from registry.errors import AdapterRefused
from registry.unpacked import Unpacked

CHUNK = 1 << 20
_LOCAL = struct.Struct("<4sHHHHHIIIHH")  # signature, version, flags, method, time, date, crc, packed, size, name, extra
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # a member, a member "strongly", the directory
_DESCRIBED_AFTER = 0x8  # sizes follow the member, up to 24 bytes; before it they are 0
_IN_EXTRA = 0xFFFFFFFF  # the size is in a zip64 field
_MAX_GAP = 24
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Sips(io.BufferedReader):
    """A file that is never read by more than a few megabytes: zipfile reads the whole directory at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > 2 * CHUNK:
            content = super().read(2 * CHUNK + 1)
            if len(content) > 2 * CHUNK:
                raise AdapterRefused("archive_too_many", "The archive's directory is larger than two megabytes.")
            return content
        return super().read(size)


def unzip(source: BinaryIO, unpacked: Unpacked) -> None:
    """Hands every member to ``unpacked``. ``AdapterRefused``, or what zipfile raises for a damaged one."""
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        unpacked.too_many(len(members))
        for member in members:
            _plain(member)
        _side_by_side(source, members, archive.start_dir)
        for member in members:
            path = unpacked.enter(member.orig_filename, folder=member.is_dir())
            if member.is_dir():
                continue
            if member.file_size > unpacked.left:
                unpacked.count(member.file_size)
            with archive.open(member) as file:
                size = unpacked.write(path, _chunks(file, member.file_size))
            if size != member.file_size:
                _disagrees(member, f"it unpacks to {size} bytes, not {member.file_size}")


def _plain(member: zipfile.ZipInfo) -> None:
    name = member.filename[:200]
    if member.flag_bits & _ENCRYPTED:
        raise AdapterRefused("archive_encrypted", f"{name!r} is encrypted. Pack it without a password.")
    if member.compress_type not in _METHODS:
        raise AdapterRefused(
            "archive_compression",
            f"{name!r} is packed by method {member.compress_type}; pack it by deflate, or store it.",
            method=member.compress_type,
        )
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise AdapterRefused("archive_link", f"The archive has a link: {name!r}. Pack the file itself.")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise AdapterRefused("archive_special_file", f"The archive has a device, a pipe or a socket: {name!r}.")
    if not member.filename:  # zipfile's own is_dir falls over it
        raise AdapterRefused("archive_unsafe_path", "The archive has a file without a name.")
    if member.is_dir() and member.file_size:
        _disagrees(member, "it is a folder with content")


def _side_by_side(source: BinaryIO, members: list[zipfile.ZipInfo], end: int) -> None:
    """Each member lies where the last one ended: none in another's bytes (the flat bomb), none that goes unnamed."""
    place = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        gap = member.header_offset - place
        if gap < 0:
            raise AdapterRefused("archive_overlap", f"{member.filename[:200]!r} lies in the bytes of another member.")
        if gap > (_MAX_GAP if place else 0):
            _disagrees(member, f"{gap} bytes before it belong to no member")
        place = _end_of(source, member)
    if not 0 <= end - place <= _MAX_GAP:
        raise AdapterRefused("archive_inconsistent", "The archive's members do not end where its directory begins.")


def _end_of(source: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where the member ends by the header before it, once that agrees with the directory."""
    source.seek(member.header_offset)
    raw = source.read(_LOCAL.size)
    if len(raw) < _LOCAL.size or raw[:4] != b"PK\x03\x04":
        _disagrees(member, "there is no member at its place")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(raw)
    name = source.read(name_length).decode("utf-8" if flags & 0x800 else "cp437")
    if name != member.orig_filename:
        _disagrees(member, f"before it stands the name {name[:200]!r}")
    if method != member.compress_type or (flags ^ member.flag_bits) & (_ENCRYPTED | _DESCRIBED_AFTER):
        _disagrees(member, "before it stands another way of packing")
    after = bool(flags & _DESCRIBED_AFTER)
    told = ((crc, member.CRC), (packed, member.compress_size), (size, member.file_size))
    for index, (before, actual) in enumerate(told):
        if before != actual and not (after and not before) and not (index and before == _IN_EXTRA):
            _disagrees(member, "before it stand another size or checksum")
    return member.header_offset + _LOCAL.size + name_length + extra_length + member.compress_size


def _disagrees(member: zipfile.ZipInfo, how: str) -> None:
    raise AdapterRefused(
        "archive_inconsistent",
        f"The archive's directory and its content disagree about {member.filename[:200]!r}: {how}.",
        file=member.filename[:200],
    )


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    while chunk := file.read(min(CHUNK, size)):
        yield chunk
