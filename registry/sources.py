"""Imports by address: ``hf://org/name[@revision]``, or a URL of a PEFT folder or of an archive of one.

An address comes from a caller, so it is opened only where the operator said so: it must begin with one of the prefixes of
``SHOAL_IMPORT_FROM``. That holds for this machine's disk too (``file:///srv/adapters/``). What is fetched is two files by
name, or one archive, within a bound; whether it may be registered is then the business of ``registry/inspection.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import httpx

from registry import hub
from registry.archives import unpack
from registry.errors import AdapterRefused, ShoalError, SourceDown, SourceRefused
from registry.inspection import SIDECAR
from registry.peft_bytes import CONFIG, TENSORS
from registry.settings import RegistrySettings
from registry.text import plain

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
LOCAL = ("file", "local")
LONGEST = 1000
_CHUNK = 1 << 20
_CONFIG_BYTES = 1 << 20
_SECONDS = httpx.Timeout(30.0, connect=10.0)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s?#%\\]+")
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A PEFT folder on this machine, not inspected, and the address that its version names: a repository's with its commit."""

    folder: Path
    source: str


def fetch(source: str, into: Path, settings: RegistrySettings) -> Arrived:
    """Fetches an address into the new folder ``into``, which the caller deletes.

    ``SourceRefused``: not allowed, malformed, or nothing there; ``SourceDown``: it cannot be reached now;
    ``AdapterRefused``: an archive that is not unpacked, or too many bytes.
    """
    prefix = admit(source, settings.import_prefixes)
    into.mkdir(parents=True)
    if source.startswith(hub.SCHEME):
        return Arrived(into, hub.download(source, into, max_bytes=settings.max_bytes))
    with _answering(source):
        if source.lower().endswith(ARCHIVES):
            _copy(source, into / "archive", settings.max_bytes, prefix)
            return Arrived(unpack(into / "archive", into / "unpacked", max_bytes=settings.max_bytes), source)
        for name, most in ((CONFIG, _CONFIG_BYTES), (TENSORS, settings.max_bytes)):
            _copy(f"{source.rstrip('/')}/{name}", into / name, most, prefix)
        try:
            _copy(f"{source.rstrip('/')}/{SIDECAR}", into / SIDECAR, _CONFIG_BYTES, prefix)
        except _NOT_THERE:
            (into / SIDECAR).unlink(missing_ok=True)
    return Arrived(into, source)


def admit(source: str, prefixes: Iterable[str]) -> str:
    """The prefix that allows the address; ``SourceRefused`` says what is wrong with it, and what to do."""
    plain(source, "source", LONGEST)
    if not _ADDRESS.fullmatch(source):
        raise SourceRefused(
            "'source' is no address: write hf://org/name[@revision], or a URL without spaces, '?', '#', '%' and '\\'."
        )
    if "@" in urlsplit(source).netloc:
        raise SourceRefused("'source' holds credentials: leave them out, and give them to the service's environment.")
    if ".." in source.split("/") or "::" in source:
        raise SourceRefused("'source' holds '..' or '::', which could lead elsewhere: write the plain address.")
    if prefix := next((prefix for prefix in prefixes if _begins(source, prefix)), None):
        return prefix
    told = ", ".join(prefixes) or "nowhere"
    raise SourceRefused(
        f"Imports may not come from {source}, only from: {told}. Upload the folder, or add the address to SHOAL_IMPORT_FROM "
        "where the service starts."
    )


def _begins(source: str, prefix: str) -> bool:
    """Whole parts only: ``s3://team`` allows nothing of ``s3://team-b``."""
    if prefix.endswith("/"):
        return source.startswith(prefix)
    further = (f"{prefix}/", f"{prefix}@") if prefix.startswith(hub.SCHEME) else (f"{prefix}/",)
    return source == prefix or source.startswith(further)


def _copy(url: str, path: Path, most: int, prefix: str) -> None:
    """One file, at most ``most`` bytes. Foreign errors: ``_answering`` knows them."""
    kind = urlsplit(url).scheme
    chunks = _http(url) if kind in ("http", "https") else _file_system(url, kind in LOCAL, prefix)
    size = 0
    with path.open("wb") as file:
        for chunk in chunks:
            size += len(chunk)
            if size > most:
                raise AdapterRefused(
                    "too_big", f"{url} has more than {most} bytes; SHOAL_MAX_UPLOAD_MB bounds adapters."
                )
            file.write(chunk)


def _http(url: str) -> Iterator[bytes]:
    """Nobody is followed anywhere: a redirect would leave what the operator allowed."""
    with httpx.stream("GET", url, timeout=_SECONDS, headers={"accept-encoding": "identity"}) as answer:
        if answer.is_redirect:
            raise SourceRefused(
                f"{url} redirects to another address: import from that one, if SHOAL_IMPORT_FROM allows it."
            )
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            raise FileNotFoundError(url)
        if answer.is_client_error:
            raise SourceRefused(
                f"{url} answers {answer.status_code} {answer.reason_phrase}: the service may not read it."
            )
        answer.raise_for_status()
        yield from answer.iter_bytes(_CHUNK)


def _file_system(url: str, local: bool, prefix: str) -> Iterator[bytes]:
    fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    if local:
        _stay_inside(Path(path), Path(fs._strip_protocol(prefix)))
    with fs.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _stay_inside(path: Path, allowed: Path) -> None:
    """A link may not lead out of the allowed folder, and only a plain file is opened: a pipe would wait for ever."""
    if not path.exists():
        raise FileNotFoundError(path)
    if not path.resolve().is_relative_to(allowed.resolve()) or not path.is_file():
        raise SourceRefused(f"{path} is no plain file inside {allowed}: copy the adapter there, without links.")


@contextmanager
def _answering(source: str) -> Iterator[None]:
    """No foreign error leaves."""
    try:
        yield
    except ShoalError:
        raise
    except _NOT_THERE as error:
        raise SourceRefused(
            f"There is no adapter at {source}: a folder holds {CONFIG} and {TENSORS}, an archive ends with "
            f"{', '.join(ARCHIVES)}."
        ) from error
    except PermissionError as error:
        raise SourceRefused(f"The service may not read {source}: give its environment credentials that may.") from error
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise SourceRefused(f"{source} cannot be read by this service: {error}.") from error
    except Exception as error:
        # botocore, httpx, gcsfs and the rest each have a tree of their own.
        raise SourceDown(source, str(error) or type(error).__name__) from error
