"""Adapters on the Hugging Face Hub: a repository's two files at one commit, through ``huggingface_hub``.

A private or gated repository is read with the service's own token (``HF_TOKEN``); another hub is named by ``HF_ENDPOINT``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from registry.errors import AdapterRefused, ShoalError, SourceDown, SourceRefused
from registry.inspection import SIDECAR
from registry.peft_bytes import CONFIG, TENSORS

SCHEME = "hf://"
SECONDS = 10.0
_ADDRESS = re.compile(
    r"hf://(?P<name>[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(?:@(?P<revision>\w[\w./-]{0,199}))?", re.ASCII
)


def download(source: str, into: Path, *, max_bytes: int) -> str:
    """Fetches the adapter's files into ``into``; the address with the commit that they are of.

    The size is asked before a byte is fetched. ``SourceRefused``, ``SourceDown``, and ``AdapterRefused`` for a repository
    that holds too much.
    """
    if not (address := _ADDRESS.fullmatch(source)):
        raise SourceRefused(f"{source} names no repository: write hf://org/name, or hf://org/name@revision.")
    try:
        from huggingface_hub import errors, is_offline_mode
    except ImportError as error:
        raise SourceRefused("This service cannot read hf:// addresses: install huggingface_hub beside it.") from error
    if is_offline_mode():
        raise SourceRefused(
            f"This service does not ask the hub for {source}: it was started with HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."
        )
    try:
        return _download(address["name"], address["revision"], into, max_bytes)
    except ShoalError:
        raise
    except errors.RevisionNotFoundError as error:
        raise SourceRefused(f"{source}: the repository has no revision '{address['revision']}'.") from error
    except errors.RepositoryNotFoundError as error:
        raise SourceRefused(
            f"There is no repository {address['name']} that this service may read. If it is private or gated, give the "
            "service an HF_TOKEN that may."
        ) from error
    except Exception as error:
        # Its own errors, those of its HTTP client, of its download helper, and OSError: all say that the hub failed.
        raise SourceDown(source, str(error) or type(error).__name__) from error


def _download(name: str, revision: str | None, into: Path, max_bytes: int) -> str:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT") or None
    api = HfApi(endpoint=endpoint, library_name="shoal")
    commit = api.model_info(name, revision=revision, timeout=SECONDS).sha
    if commit is None:
        raise SourceDown(f"{SCHEME}{name}", "it does not say which commit it is at")
    found = api.get_paths_info(name, [CONFIG, TENSORS, SIDECAR], revision=commit)
    sizes: dict[str, int] = {each.path: int(getattr(each, "size", 0)) for each in found}
    _admit(name, sizes, max_bytes)
    for file in sizes:
        # By name, not as a snapshot: that would list the whole repository first.
        how: dict[str, Any] = {"revision": commit, "local_dir": into, "endpoint": endpoint, "etag_timeout": SECONDS}
        hf_hub_download(name, file, **how)
    return f"{SCHEME}{name}@{commit}"


def _admit(name: str, sizes: dict[str, int], max_bytes: int) -> None:
    missing = [file for file in (CONFIG, TENSORS) if file not in sizes]
    if missing:
        raise SourceRefused(
            f"The repository {name} has no {' and no '.join(missing)}: only LoRA adapters of peft, as safetensors, are taken."
        )
    if (size := sum(sizes.values())) > max_bytes:
        raise AdapterRefused(
            "too_big", f"The repository's adapter has {size} bytes, the limit is {max_bytes} (SHOAL_MAX_UPLOAD_MB)."
        )
