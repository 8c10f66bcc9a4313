"""The shape of a base model: which matrices it has. Read from headers, without loading a weight."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from registry.canonical import digest
from registry.errors import BadInput
from registry.tensors import HeaderWrong, read_header

_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}


@dataclass(frozen=True, slots=True)
class BaseShape:
    """Module name -> (out, in) of its weight, as the checkpoint names it (``model.layers.0.mlp.up_proj``)."""

    matrices: dict[str, tuple[int, int]]
    config_digest: str = ""
    """sha256 over the base's config.json, without what says how a copy was loaded: it names the base, not its place."""

    def of(self, module: str) -> tuple[int, int] | None:
        """The shape of the module's matrix, (out, in); None: the base has no such module."""
        return self.matrices.get(module)

    @classmethod
    def read(cls, path: str | Path) -> BaseShape:
        """From a folder with config.json and *.safetensors. ``BadInput`` when there is no such thing."""
        folder = Path(path)
        files = sorted(folder.glob("*.safetensors"))
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            tensors = [tensor for file in files for tensor in read_header(file, whole=False).values()]
        except (OSError, ValueError, HeaderWrong) as error:
            raise BadInput(f"'{path}' is not a base model's folder: {error}", field="base") from error
        if not tensors:
            raise BadInput(f"'{path}' holds no *.safetensors: adapters cannot be checked against it.", field="base")
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        matrices = {
            name.removesuffix(".weight"): (shape[0], shape[1])
            for name, shape in shapes.items()
            if name.endswith(".weight") and len(shape) == 2
        }
        tied = config.get("tie_word_embeddings", False)
        embedding = next((shape for name, shape in matrices.items() if name.endswith("embed_tokens")), None)
        if tied and embedding:
            matrices.setdefault("lm_head", embedding)
        told = {key: value for key, value in config.items() if key not in _NOT_THE_MODEL}
        return cls(matrices, digest(told))

    @classmethod
    def find(cls, base: str) -> BaseShape:
        """From a folder, or from a Hugging Face id (its copy on this machine, else downloaded)."""
        if Path(base).is_dir():
            return cls.read(base)
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise BadInput(
                f"There is no folder '{base}', and huggingface_hub is not installed.", field="base"
            ) from error
        wanted = ["config.json", "*.safetensors"]
        try:
            return cls.read(snapshot_download(base, allow_patterns=wanted, local_files_only=True))
        except (OSError, ValueError):
            pass
        try:
            return cls.read(snapshot_download(base, allow_patterns=wanted))
        except (OSError, ValueError) as error:
            raise BadInput(f"The base model '{base}' cannot be found: {error}", field="base") from error
