"""A version's PEFT folder on its way out, as a tar."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from registry.inspection import SIDECAR
from registry.records import Version


class ExportResponse(FileResponse):
    """The folder's files and a word on which base they fit, packed when this is made. What it packs into is gone once the
    response has been sent, or could not be: also where packing fails or the client goes away."""

    def __init__(self, version: Version, folder: Path, base_digest: str | None) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="shoal-export-"))
        try:
            packed = _packed(self._scratch, version, folder, base_digest)
        except BaseException:
            self._drop()
            raise
        super().__init__(packed, media_type="application/x-tar", filename=packed.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._drop()

    def _drop(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)


def _packed(scratch: Path, version: Version, folder: Path, base_digest: str | None) -> Path:
    top = f"{version.adapter}-{version.version}"
    packed = scratch / f"{top}.tar"
    with tarfile.open(packed, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=f"{top}/{file.name}", recursive=False)
        told = {"adapter": version.engine_name, "digest": version.digest, "base": base_digest}
        (scratch / SIDECAR).write_text(json.dumps(told))
        tar.add(scratch / SIDECAR, arcname=f"{top}/{SIDECAR}")
    return packed
