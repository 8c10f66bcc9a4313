"""Unpacking an uploaded archive without trusting it: .zip, .tar, .tar.gz."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

from registry.artifacts import CONFIG
from registry.errors import AdapterRefused

MAX_MEMBERS = 200
_SLACK = 1 << 20  # what headers and padding of a tar may add to its content, bytes
_GZIP = b"\x1f\x8b"
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


def unpack(archive: bytes | Path, into: Path, *, max_bytes: int = 512_000_000, max_members: int = MAX_MEMBERS) -> Path:
    """Unpacks into ``into`` and answers the one folder in it that holds an adapter_config.json.

    ``AdapterRefused`` for: another format or a damaged one, ``..`` or absolute paths, links and devices, a name twice,
    more than ``max_members``, more than ``max_bytes`` unpacked (counted while unpacking, so a bomb stops there), no
    adapter or more than one. What was unpacked until then is left in ``into``; the caller deletes the folder.
    """
    into.mkdir(parents=True, exist_ok=True)
    writer = _Writer(into, max_bytes, max_members)
    try:
        with _open(archive) as source:
            head = source.read(4)
            source.seek(0)
            if head == b"PK\x03\x04":
                _unzip(source, writer)
            else:
                _untar(source, writer, compressed=head[:2] == _GZIP)
    except AdapterRefused:
        raise
    except _DAMAGED as error:
        raise AdapterRefused(
            "archive_invalid", f"The archive cannot be read as .zip, .tar or .tar.gz: {error}"
        ) from error
    return _adapter_in(into)


class _Writer:
    """Writes members under one folder, and counts."""

    def __init__(self, into: Path, max_bytes: int, max_members: int) -> None:
        self.into = into
        self.left = max_bytes
        self.max_bytes = max_bytes
        self.max_members = max_members
        self.members = 0

    def count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise AdapterRefused("archive_too_big", f"The archive unpacks to more than {self.max_bytes} bytes.")

    def enter(self, name: str) -> Path:
        """Where a member goes. Refuses a name that leads anywhere else."""
        self.members += 1
        if self.members > self.max_members:
            raise AdapterRefused("archive_too_many", f"The archive has more than {self.max_members} members.")
        path = PurePosixPath(name)
        odd = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name
        if odd or len(name) > 500:
            raise AdapterRefused("archive_unsafe_path", f"The archive has a member {name[:200]!r}: not a safe path.")
        return self.into.joinpath(*path.parts)

    def write(self, path: Path, source: IO[bytes]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                while chunk := source.read(1 << 20):
                    self.count(len(chunk))
                    file.write(chunk)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise AdapterRefused("archive_unsafe_path", f"The archive names {path.name!r} twice.") from error


class _Counted(io.RawIOBase):
    """A stream that refuses to give more than a bomb's worth: pax headers are read whole by tarfile."""

    def __init__(self, source: Any, writer: _Writer) -> None:
        self._source = source
        self._left = writer.max_bytes + _SLACK
        self._writer = writer

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._source.read(size)
        self._left -= len(content)
        if self._left < 0:
            self._writer.count(self._writer.max_bytes + 1)
        return content


def _unzip(source: IO[bytes], writer: _Writer) -> None:
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            path = writer.enter(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise AdapterRefused("archive_link", f"The archive has a link or device: {member.filename!r}.")
            if not member.is_dir():
                if member.file_size > writer.left:
                    writer.count(member.file_size)
                with archive.open(member) as file:
                    writer.write(path, file)


def _untar(source: IO[bytes], writer: _Writer, *, compressed: bool) -> None:
    plain = gzip.GzipFile(fileobj=source) if compressed else source
    with tarfile.open(fileobj=_Counted(plain, writer), mode="r|") as archive:
        for member in archive:
            path = writer.enter(member.name)
            if member.isdir():
                continue
            file = archive.extractfile(member) if member.isreg() else None
            if file is None or member.issparse():
                raise AdapterRefused("archive_link", f"The archive has a link or device: {member.name!r}.")
            if member.size > writer.left:
                writer.count(member.size)
            with file:
                writer.write(path, file)


def _open(archive: bytes | Path) -> IO[bytes]:
    return io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")


def _adapter_in(into: Path) -> Path:
    found = sorted(path.parent for path in into.rglob(CONFIG) if "__MACOSX" not in path.parts)
    if len(found) == 1:
        return found[0]
    if not found:
        raise AdapterRefused("archive_no_adapter", f"No folder of the archive holds an {CONFIG}.")
    names = ", ".join(str(path.relative_to(into)) for path in found[:5])
    raise AdapterRefused("archive_many_adapters", f"The archive holds {len(found)} adapters ({names}): upload one.")
