"""PEFT folders as tar archives: packed for an upload, unpacked from a download that is not trusted."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from shoal.errors import LocalProblem

CONFIG = "adapter_config.json"
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
SPOOL_BYTES = 16 << 20  # archives below this size never touch the disk


@contextmanager
def opened(source: str | Path) -> Iterator[tuple[str, BinaryIO]]:
    """``(file name, bytes)`` of an archive to upload: the archive itself, or a folder packed on the way.

    Of a folder only what an adapter is made of travels (its config and its weights): a training checkpoint also
    holds the optimiser's state, which is large, and pickles, which no server should take.
    Raises ``LocalProblem`` for what is neither.
    """
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            with packed(path) as archive:
                yield f"{path.resolve().name}.tar", archive
        elif not path.is_file():
            raise LocalProblem(f"There is no file or folder {path}.")
        elif not path.name.lower().endswith(ARCHIVES):
            raise LocalProblem(f"{path} is no archive ({', '.join(ARCHIVES)}). Give one, or the PEFT folder itself.")
        else:
            with path.open("rb") as archive:
                yield path.name, archive
    except OSError as error:
        raise LocalProblem(f"{path} cannot be read: {error.strerror or error}.") from error


@contextmanager
def packed(folder: Path) -> Iterator[BinaryIO]:
    """A tar of the adapter in ``folder``, links followed, as Hugging Face's cache is made of them."""
    if not (folder / CONFIG).is_file():
        raise LocalProblem(f"{folder} is not a PEFT folder: it has no {CONFIG}.")
    wanted = [folder / CONFIG, *sorted(folder.glob("adapter_model*"))]
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        archive = cast("BinaryIO", spool)
        with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
            for path in wanted:
                if path.is_file():
                    tar.add(path, arcname=path.name)
        archive.seek(0)
        yield archive


def unpack(archive: BinaryIO, folder: str | Path) -> Path:
    """Write the plain files of a tar into ``folder``, which must be new or empty: all of them or none.

    Links, devices and names that lead out of the folder refuse the whole archive. Returns the folder.
    """
    target = Path(folder).expanduser().absolute()
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise LocalProblem(f"{target} is not empty. Give a new folder: nothing is overwritten.")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the move at the end stays on one file system and is atomic.
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            arriving = Path(scratch) / target.name
            arriving.mkdir()
            _extract(archive, arriving)
            held = list(arriving.iterdir())
            if len(held) == 1 and held[0].is_dir():
                arriving = held[0]  # the archive's own folder: its content is what was asked for
            arriving.replace(target)  # an empty folder may be replaced, a filled one not
    except (tarfile.TarError, EOFError) as error:
        raise LocalProblem(f"The archive cannot be read: {error}.") from error
    except OSError as error:
        raise LocalProblem(f"{target} cannot be written: {error.strerror or error}.") from error
    return target


def keep(archive: BinaryIO, file: str | Path) -> Path:
    """Write a tar as it is to ``file``, which must be new: all of it or nothing. Returns the file."""
    target = Path(file).expanduser().absolute()
    try:
        if target.exists():
            raise LocalProblem(f"{target} exists. Give a new name: nothing is overwritten.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            arriving = Path(scratch) / target.name
            with arriving.open("wb") as written:
                shutil.copyfileobj(archive, written)
            with tarfile.open(arriving) as tar:
                tar.getmembers()  # read to its end: half an archive is told now, not when it is needed
            arriving.replace(target)
    except tarfile.TarError as error:
        raise LocalProblem(f"The archive cannot be read: {error}.") from error
    except OSError as error:
        raise LocalProblem(f"{target} cannot be written: {error.strerror or error}.") from error
    return target


def _extract(archive: BinaryIO, scratch: Path) -> None:
    with tarfile.open(fileobj=archive, mode="r:*") as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if member.isdir():
                continue
            if not member.isfile() or name.is_absolute() or ".." in name.parts or "\\" in member.name:
                raise LocalProblem(f"The archive holds {member.name!r}, which is not unpacked. Nothing was written.")
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            if content is not None:
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file)
