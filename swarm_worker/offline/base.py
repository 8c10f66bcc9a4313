"""What a base model is, whatever its folder is called."""

from __future__ import annotations

import hashlib
from pathlib import Path

from registry.canonical import digest

PARTS = {".json", ".safetensors", ".bin", ".model", ".txt", ".jinja"}
"""What a model and its tokenizer are loaded from: config, tensors, vocabulary, chat template."""


def base_digest(base: str) -> str:
    """The digest of a folder's model, over the names and contents of its files: another one at the same path is another base.
    Of a Hugging Face id: the id. Costs a read of the tensors, which loading them costs too."""
    folder = Path(base)
    if not folder.is_dir():
        return base
    return digest({file.name: _sha256(file) for file in sorted(folder.iterdir()) if file.suffix in PARTS})


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
