"""The folder that an archive is unpacked into: which names it takes, how many, and how many bytes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from registry.artifacts import CONFIG, TENSORS
from registry.errors import AdapterRefused

MAX_MEMBERS = 200
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill")  # in an archive or a folder
BOMB_BYTES = 16 << 20  # below this, what it unpacks to is no burden, however well it was packed
BOMB_RATIO = 100  # weights pack to about nine tenths of themselves; deflate's best, on zeros, is 1:1032
_MAX_NAME, _MAX_PART, _MAX_DEPTH = 500, 200, 16  # bytes, bytes, folders
_ODD = (
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
)  # control, format and bidi, lone surrogates, private, none, separators
_PICKLE_HEADS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar", ".whl", ".npz")
FORMATS = {
    b"PK\x03\x04": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
}


class Unpacked:
    """Takes the members of one archive, one after the other. Its reader asks ``enter``, then writes what it got.

    Every byte is counted before it is written: against ``max_bytes``, and against what ``packed`` bytes may become.
    """

    def __init__(self, into: Path, *, packed: int, max_bytes: int, max_members: int) -> None:
        self.into = into
        self.left = max_bytes
        self._max_bytes = max_bytes
        self._packed = packed
        self._max_members = max_members
        self.members = 0
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def count(self, size: int) -> None:
        """``size`` more bytes are to be unpacked. Refuses once they are too many."""
        self.left -= size
        if self.left < 0:
            raise AdapterRefused(
                "archive_too_big", f"The archive unpacks to more than {self._max_bytes} bytes (SHOAL_MAX_UPLOAD_MB)."
            )
        if self._max_bytes - self.left > max(BOMB_BYTES, BOMB_RATIO * self._packed):
            raise AdapterRefused(
                "archive_bomb", f"The archive unpacks to more than {BOMB_RATIO} times its {self._packed} bytes: a bomb?"
            )

    def too_many(self, members: int) -> None:
        if members > self._max_members:
            raise AdapterRefused("archive_too_many", f"The archive has more than {self._max_members} members.")

    def enter(self, name: str, *, folder: bool = False) -> Path:
        """Where a member goes. Refuses a name that leads elsewhere, hides something, is taken, or is a pickle's."""
        self.members += 1
        self.too_many(self.members)
        parts = _safe(name)
        if not parts and not folder:
            raise AdapterRefused("archive_unsafe_path", "The archive has a file without a name.")
        self._take(parts, folder=folder)
        if not folder:
            _harmless_name(name)
        return self.into.joinpath(*parts)

    def write(self, path: Path, chunks: Iterator[bytes]) -> int:
        """Writes a member where ``enter`` said; answers its bytes."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        except (FileExistsError, NotADirectoryError) as error:  # a file system with rules of its own
            raise self._twice(path.name) from error
        size = 0
        with file:
            for chunk in chunks:
                if not size and path.name not in (CONFIG, TENSORS):  # those two are inspected themselves
                    _harmless_content(path, chunk)
                size += len(chunk)
                self.count(len(chunk))
                file.write(chunk)
        return size

    def _take(self, parts: tuple[str, ...], *, folder: bool) -> None:
        """No two names may be one to any file system: compared as composed characters without case."""
        above = parts if folder else parts[:-1]
        for depth in range(1, len(above) + 1):
            name = "/".join(above[:depth])
            alike = _alike(name)
            if alike in self._files or self._folders.setdefault(alike, name) != name:
                raise self._twice(name)
        if not folder:
            name = "/".join(parts)
            alike = _alike(name)
            if alike in self._folders or alike in self._files:
                raise self._twice(name)
            self._files[alike] = name

    def _twice(self, name: str) -> AdapterRefused:
        return AdapterRefused(
            "archive_duplicate", f"The archive names {name[:200]!r} twice, or two names that differ in case only."
        )


def _safe(name: str) -> tuple[str, ...]:
    """The parts of a name that stays below the folder, and that looks like what it is."""
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name
    encoded = [part.encode(errors="surrogateescape") for part in path.parts]
    too_long = len(name) > _MAX_NAME or len(encoded) > _MAX_DEPTH or any(len(part) > _MAX_PART for part in encoded)
    if leads_out or too_long:
        raise AdapterRefused("archive_unsafe_path", f"The archive has a member {name[:200]!r}: not a safe path.")
    if any(unicodedata.category(character) in _ODD for character in name):
        raise AdapterRefused(
            "archive_odd_name", f"The archive has a member {name[:200]!a}: it holds characters that do not show."
        )
    return path.parts


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _harmless_name(name: str) -> None:
    last = name.lower()
    if last.endswith(PICKLES):
        raise AdapterRefused(
            "not_safetensors",
            f"'{name}' is a pickle, which can run code when it is loaded. Save as safetensors, leave this out.",
            file=name,
        )
    if last.endswith(_ARCHIVES):
        raise AdapterRefused(
            "archive_nested", f"'{name}' is an archive in the archive. Pack the PEFT folder itself.", file=name
        )


def _harmless_content(path: Path, head: bytes) -> None:
    """A pickle or an archive under another name. Other weights are not asked: a header's length may look like either."""
    if path.suffix.lower() == ".safetensors":
        return
    if head.startswith(_PICKLE_HEADS):
        raise AdapterRefused(
            "not_safetensors", f"'{path.name}' is a pickle by its first bytes. Leave it out.", file=path.name
        )
    if head.startswith(tuple(FORMATS)):
        raise AdapterRefused(
            "archive_nested", f"'{path.name}' is an archive by its first bytes. Leave it out.", file=path.name
        )
