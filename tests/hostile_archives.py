"""Archives of a small adapter, sound ones and hostile ones, made byte by byte: what uploads and the fuzz send."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from registry.artifacts import CONFIG, TENSORS
from tests.peft_folders import write_adapter

Files = dict[str, bytes]
Build = Callable[[Files], bytes]


def adapter_files(**written: Any) -> Files:
    """The files of ``write_adapter``, by name."""
    with tempfile.TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in sorted(write_adapter(Path(folder), **written).iterdir())}


def zipped(files: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def tarred(files: Files, *others: tarfile.TarInfo) -> bytes:
    """A tar; ``others``: members without content, after the files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in others:
            archive.addfile(member)
    return out.getvalue()


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


def special(kind: bytes, name: str = "extra.txt", to: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


# Each answers a builder: the adapter's files -> the bytes that are uploaded ------------------------------------------


def zip_with(name: str, content: bytes = b"x") -> Build:
    return lambda files: zipped({**files, name: content})


def tar_with(name: str, content: bytes = b"x") -> Build:
    return lambda files: tarred({**files, name: content})


def tar_and(*others: tarfile.TarInfo) -> Build:
    return lambda files: tarred(files, *others)


def zip_entry(**changed: Any) -> Build:
    """A zip with one more member, whose entry says what ``changed`` says."""

    def build(files: Files) -> bytes:
        out = io.BytesIO(zipped(files))
        with zipfile.ZipFile(out, "a") as archive:
            member = zipfile.ZipInfo("extra.txt")
            for name, value in changed.items():
                setattr(member, name, value)
            archive.writestr(member, "/etc/passwd")
        return out.getvalue()

    return build


def zip_patched(local: tuple[int, bytes] | None = None, central: tuple[int, bytes] | None = None) -> Build:
    """A zip whose first member's header, or its entry in the directory, has other bytes at an offset."""

    def build(files: Files) -> bytes:
        content = bytearray(zipped(files))
        for signature, patch in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
            if patch:
                place = content.index(signature) + patch[0]
                content[place : place + len(patch[1])] = patch[1]
        return bytes(content)

    return build


def zip_of_zeros(declared: bytes) -> Build:
    """Both sides of a zip declare another size of its first member."""
    return zip_patched((22, declared), (24, declared))


def flat_bomb(files: Files) -> bytes:
    """The directory names the first member's bytes a second time (https://www.bamsoftware.com/hacks/zipbomb/)."""
    content = zipped(files)
    end = content.index(b"PK\x05\x06")
    start = content.index(b"PK\x01\x02")
    entry = content[start : content.index(b"PK\x01\x02", start + 4)]
    count = len(files) + 1
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, end - start + len(entry), start, 0)
    return content[:end] + entry + tail


def hidden_in_zip(files: Files) -> bytes:
    """A member that the directory does not name, before the named ones."""
    hidden = zipped({"hidden.txt": b"x"})
    hidden = hidden[: hidden.index(b"PK\x01\x02")]
    return hidden + zipped(files)


def raw_member(kind: bytes, content: bytes, name: str = "pax", size: int | None = None) -> bytes:
    """A header and its content as they lie in a tar, padded."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(content) if size is None else size
    return member.tobuf(tarfile.USTAR_FORMAT) + content + b"\0" * (-len(content) % 512)


def tar_before(*raw: bytes) -> Build:
    return lambda files: b"".join(raw) + tarred(files)


def pax(key: str, value: str) -> bytes:
    record = f" {key}={value}\n".encode()
    size = len(record) + len(str(len(record) + 2))
    return str(size).encode() + record


def damaged_header(files: Files) -> bytes:
    content = bytearray(tarred(files))
    second = content.rindex(b"ustar") - 257
    content[second + 148] ^= 1  # in its checksum
    return bytes(content)


def config(**changed: Any) -> Build:
    return lambda files: zipped({**files, CONFIG: json.dumps(json.loads(files[CONFIG]) | changed).encode()})


def raw_config(content: bytes) -> Build:
    return lambda files: zipped({**files, CONFIG: content})


def twice_in_config(files: Files) -> bytes:
    return zipped({**files, CONFIG: files[CONFIG].replace(b"{", b'{"r": 8,', 1)})


def with_tensors(**tensors: np.ndarray) -> Build:
    return lambda files: zipped(adapter_files(tensors=tensors))


def weights(change: Callable[[bytes], bytes]) -> Build:
    return lambda files: zipped({**files, TENSORS: change(files[TENSORS])})


def header(change: Callable[[dict[str, Any]], object]) -> Build:
    """The tensors' header, changed in place, before the same bytes of tensors."""

    def rewrite(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        entries = json.loads(content[8 : 8 + length])
        change(entries)
        raw = json.dumps(entries).encode()
        return struct.pack("<Q", len(raw)) + raw + content[8 + length :]

    return weights(rewrite)


def raw_header(raw: bytes, length: int | None = None) -> Build:
    return weights(lambda content: struct.pack("<Q", len(raw) if length is None else length) + raw)
