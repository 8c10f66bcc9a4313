"""Every kind of hostile or broken upload is refused by a reason of its own, and leaves nothing behind."""

from __future__ import annotations

import bz2
import io
import lzma
import pickle
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.archives import unpack
from registry.artifacts import CONFIG, TENSORS
from registry.errors import AdapterRefused
from registry.registry import Registry
from registry.settings import RegistrySettings
from tests.hostile_archives import (
    Build,
    Files,
    adapter_files,
    config,
    damaged_header,
    flat_bomb,
    gzipped,
    header,
    hidden_in_zip,
    pax,
    raw_config,
    raw_header,
    raw_member,
    special,
    tar_and,
    tar_before,
    tar_with,
    tarred,
    twice_in_config,
    weights,
    with_tensors,
    zip_entry,
    zip_of_zeros,
    zip_patched,
    zip_with,
    zipped,
)
from tests.peft_folders import MODULES, WIDTH, write_adapter, write_base

A = f"base_model.model.{MODULES[0]}.lora_A.weight"
B = f"base_model.model.{MODULES[0]}.lora_B.weight"
GIGABYTE = (1 << 30).to_bytes(4, "little")


def first(entries: dict[str, Any], **changed: Any) -> None:
    entries[A].update(changed)


def move(entries: dict[str, Any], by: int) -> None:
    begin, end = entries[B]["data_offsets"]
    entries[B]["data_offsets"] = [begin + by, end + by]


def zeroed(files: Files) -> bytes:
    names = [f"base_model.model.{module}.lora_B.weight" for module in MODULES]
    return zipped(adapter_files(tensors={name: np.zeros((WIDTH, 4), np.float32) for name in names}))


def many_names() -> bytes:
    names = [b'"%d":1' % number for number in range(90_000)]
    return b"{" + b",".join([*names, names[-1]]) + b"}"


def number(value: float) -> Build:
    wrong = np.ones((4, WIDTH), np.float32)
    wrong[-1, -1] = value
    return with_tensors(**{A: wrong})


ROWS: list[tuple[str, str, Build]] = [
    # What is no archive, or not the whole of one
    ("an empty file", "archive_invalid", lambda files: b""),
    ("a text", "archive_invalid", lambda files: b"<html>" * 500),
    ("a few bytes", "archive_invalid", lambda files: b"<html>"),
    ("bare safetensors", "archive_invalid", lambda files: files[TENSORS]),
    ("a tar in bzip2", "archive_format", lambda files: bz2.compress(tarred(files))),
    ("a tar in xz", "archive_format", lambda files: lzma.compress(tarred(files))),
    ("a zip cut off", "archive_invalid", lambda files: zipped(files)[:-30]),
    ("a zip with a wrong checksum", "archive_invalid", zip_patched((14, b"abcd"), (16, b"abcd"))),
    ("a tar with a damaged header", "archive_invalid", damaged_header),
    ("a tar cut off in a file", "archive_truncated", lambda files: tarred(files)[:1500]),
    ("a tar without an end", "archive_truncated", lambda files: tarred(files).rstrip(b"\0") + b"\0" * 512),
    ("a gzip cut off", "archive_truncated", lambda files: gzipped(tarred(files))[:-9]),
    ("a gzip with a wrong checksum", "archive_invalid", lambda files: gzipped(tarred(files))[:-8] + b"\0" * 8),
    ("a second gzip after the first", "archive_trailing", lambda files: gzipped(tarred(files)) * 2),
    ("a tar after a tar's end", "archive_trailing", lambda files: tarred(files) * 2),
    # What says one thing to a scanner and another to who unpacks it
    ("a zip with two names for a member", "archive_inconsistent", zip_patched(local=(30, b"X"))),
    ("a zip with two sizes of a member", "archive_inconsistent", zip_patched(central=(24, b"\1\0\0\0"))),
    ("a zip with an unnamed member", "archive_inconsistent", hidden_in_zip),
    ("a flat bomb", "archive_overlap", flat_bomb),
    ("a tar that names every member", "archive_inconsistent", tar_before(raw_member(b"g", pax("path", "x")))),
    ("a folder with content", "archive_inconsistent", tar_before(raw_member(tarfile.DIRTYPE, b"x" * 512, "d"))),
    # What cannot be read, or is read differently elsewhere
    ("an encrypted member", "archive_encrypted", zip_patched((6, b"\1"), (8, b"\1"))),
    ("lzma in a zip", "archive_compression", zip_entry(compress_type=14)),
    ("bzip2 in a zip", "archive_compression", zip_entry(compress_type=12)),
    # Names
    ("a path that leads out", "archive_unsafe_path", zip_with("../x")),
    ("an absolute path", "archive_unsafe_path", tar_with("/shoal-hostile")),
    ("a backslash", "archive_unsafe_path", zip_with("a\\..\\..\\x")),
    ("no name", "archive_unsafe_path", lambda files: zipped({**files, "aQb.md": b""}).replace(b"aQb", b"\0Qb")),
    ("a drive", "archive_unsafe_path", tar_with("C:x")),
    ("a NUL in a name", "archive_unsafe_path", lambda files: zipped({**files, "aQb.md": b""}).replace(b"aQb", b"a\0b")),
    ("an over-long name", "archive_unsafe_path", tar_with("n" * 300)),
    ("a path of a thousand folders", "archive_unsafe_path", tar_with("a/" * 1000 + "x")),
    ("a path out in a pax header", "archive_unsafe_path", tar_before(raw_member(b"x", pax("path", "../../x")))),
    ("a control character", "archive_odd_name", zip_with("a\x1b[2J.md")),
    ("right to left", "archive_odd_name", zip_with("gpj.\u202eexe.md")),
    ("no width", "archive_odd_name", tar_with("adapter\u200b_config.json")),
    ("bytes that are no UTF-8", "archive_odd_name", tar_with("x\udcff.md")),
    ("a name twice", "archive_duplicate", tar_before(raw_member(b"0", b"{}", CONFIG))),
    ("names alike without case", "archive_duplicate", zip_with(CONFIG.upper())),
    ("names alike once composed", "archive_duplicate", lambda files: zipped({**files, "\u00e9": b"", "e\u0301": b""})),
    ("a file that is a folder", "archive_duplicate", zip_with(f"{CONFIG}/x")),
    # What is no file
    ("a link in a tar", "archive_link", tar_and(special(tarfile.SYMTYPE, to="/etc/passwd"))),
    ("a link in a zip", "archive_link", zip_entry(external_attr=0o120777 << 16)),
    ("a hard link", "archive_hard_link", tar_and(special(tarfile.LNKTYPE, to="/etc/passwd"))),
    ("a device", "archive_special_file", tar_and(special(tarfile.CHRTYPE))),
    ("a pipe in a zip", "archive_special_file", zip_entry(external_attr=0o010777 << 16)),
    ("a sparse file", "archive_sparse", tar_before(raw_member(tarfile.GNUTYPE_SPARSE, b""))),
    ("a sparse file in pax", "archive_sparse", tar_before(raw_member(b"x", pax("GNU.sparse.major", "1")))),
    # Bombs
    ("a crowd", "archive_too_many", lambda files: zipped({**files, **{f"{n}.md": b"" for n in range(300)}})),
    ("a crowd of headers", "archive_too_many", tar_before(raw_member(b"x", pax("mtime", "1")) * 1001)),
    ("a member said to be a gigabyte", "archive_too_big", zip_of_zeros(GIGABYTE)),
    ("a tar member larger than allowed", "archive_too_big", tar_before(raw_member(b"0", b"", "x", 1 << 30))),
    ("zeros in a zip", "archive_bomb", zip_with("zeros.md", bytes(18 << 20))),
    ("zeros in a gzip", "archive_bomb", lambda files: gzipped(tarred({"zeros.md": bytes(18 << 20)}))),
    ("a header of a gigabyte", "archive_header_bomb", tar_before(raw_member(b"x", b"", size=1 << 30))),
    ("a name of a gigabyte", "archive_header_bomb", tar_before(raw_member(b"L", b"", size=1 << 30))),
    # What lies in it
    ("an archive in the archive", "archive_nested", lambda files: zip_with("more.zip", zipped(files))(files)),
    ("an archive by another name", "archive_nested", lambda files: zip_with("more.md", zipped(files))(files)),
    ("nothing", "archive_no_adapter", lambda files: zipped({})),
    ("no adapter", "archive_no_adapter", lambda files: tarred({"README.md": b"x"})),
    (
        "two adapters",
        "archive_many_adapters",
        lambda files: zipped({f"{at}/{name}": files[name] for at in "ab" for name in files}),
    ),
    ("a pickle", "not_safetensors", lambda files: zipped({CONFIG: files[CONFIG], "adapter_model.bin": b"x"})),
    ("a hidden pickle", "not_safetensors", zip_with(".cache.pt")),
    ("a pickle in another folder", "not_safetensors", tar_with("other/deep/optimizer.PT")),
    ("a pickle by another name", "not_safetensors", zip_with("README.md", pickle.dumps({}))),
    ("no weights", "not_safetensors", lambda files: zipped({CONFIG: files[CONFIG]})),
    ("a script", "unexpected_file", zip_with("run.py")),
    # The config
    ("a config that is no JSON", "config_invalid", raw_config(b"{")),
    ("a config that is a list", "config_invalid", raw_config(b"[]")),
    ("a config with a name twice", "config_duplicate_key", twice_in_config),
    ("a config of quotes without an end", "config_invalid", raw_config(b'"' + b'\\"' * 490_000 + b"\\")),
    ("a config of many levels", "config_too_deep", raw_config(b'{"r":' + b"[" * 500 + b"]" * 500 + b"}")),
    ("half a surrogate pair in the config", "config_text", config(note="\ud800")),
    ("a config of megabytes", "config_too_big", config(note="n" * 2_000_000)),
    ("a NaN in the config", "number_not_finite", config(lora_dropout=float("nan"))),
    ("a rank that is a text", "config_invalid", config(r="4")),
    ("an alpha of zero", "alpha", config(lora_alpha=0)),
    ("an alpha beyond reason", "alpha", config(lora_alpha=1e300)),
    ("another method", "not_lora", config(peft_type="IA3")),
    ("DoRA", "unsupported", config(use_dora=True)),
    ("PiSSA", "unsupported", config(init_lora_weights="pissa")),
    ("bias", "unsupported", config(bias="all")),
    ("aLoRA", "unsupported", config(alora_invocation_tokens=[1])),
    ("modules to save", "unsupported", config(modules_to_save=["lm_head"])),
    ("transposed weights", "unsupported", config(fan_in_fan_out=True)),
    ("code by name", "unsupported", config(auto_mapping={"parent_library": "os", "base_model_class": "system"})),
    ("modules by an expression", "target_modules", config(target_modules="(a+)+$")),
    ("a module without tensors", "missing_module", config(target_modules=["q_proj", "v_proj", "embed_tokens"])),
    ("a module that the base has not", "unknown_module", config(target_modules=["q_proj", "v_proj", "w_proj"])),
    ("tensors of a module not listed", "unknown_module", config(target_modules=["q_proj"])),
    ("the hash of another base", "wrong_base", config(shoal_base="sha256:" + "0" * 64)),
    ("another rank than said", "rank", config(r=3)),
    ("a rank above the service's", "rank_too_high", lambda files: zipped(adapter_files(rank=32))),
    # The tensors
    ("shapes of another base", "shape", lambda files: zipped(adapter_files(width=WIDTH * 2))),
    (
        "half a pair",
        "incomplete",
        header(lambda entries: entries.update({A.replace("layers.0", "layers.7"): entries.pop(A)})),
    ),
    ("doubles", "dtype", with_tensors(**{A: np.ones((4, WIDTH))})),
    ("NaN", "not_finite", number(np.nan)),
    ("infinity", "not_finite", number(-np.inf)),
    ("no effect", "no_effect", zeroed),
    ("weights cut off", "truncated", weights(lambda content: content[:-5])),
    ("bytes after the tensors", "trailing_bytes", weights(lambda content: content + b"x")),
    ("tensors that overlap", "overlap", header(lambda entries: move(entries, -4))),
    (
        "a gap between tensors",
        "gap",
        header(lambda entries: entries.pop("base_model.model." + MODULES[1] + ".lora_A.weight")),
    ),
    ("a shape that is not its bytes", "wrong_size", header(lambda entries: first(entries, shape=[5, WIDTH]))),
    ("a shape below zero", "header_entry", header(lambda entries: first(entries, shape=[-4, -WIDTH]))),
    ("a tensor without numbers", "zero_dimension", with_tensors(**{A: np.ones((0, WIDTH), np.float32)})),
    ("an odd tensor name", "odd_name", header(lambda entries: entries.update({"a\u202eb": entries.pop(A)}))),
    ("metadata that is no text", "header_metadata", header(lambda entries: entries.update(__metadata__={"a": {}}))),
    ("a header that is no JSON", "header_invalid", raw_header(b"nonsense")),
    ("a header of many levels", "header_too_deep", raw_header(b'{"a":' + b"[" * 500 + b"]" * 500 + b"}")),
    ("a header with a name twice", "header_duplicate_key", raw_header(b'{"a":1,"a":2}')),
    ("a header whose last name of many comes twice", "header_duplicate_key", raw_header(many_names())),
    ("a header said to be huge", "header_too_big", raw_header(b"{}", 1 << 62)),
    ("a header of too many values", "header_too_many", raw_header(b'{"a":[' + b"0," * 600_000 + b"0]}")),
    ("a zip for weights", "safetensors_is_zip", weights(lambda content: zipped({"data.pkl": b"x"}))),
    ("a pickle for weights", "safetensors_is_pickle", weights(lambda content: pickle.dumps([1] * 100))),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def held(redis_url: str, place: Path) -> Iterator[Registry]:
    """A registry that knows its base and holds one version; the same for every row, as none may change it."""
    opened = Registry.open(
        RegistrySettings(
            redis_url=redis_url,
            namespace=f"hostile-{place.parent.name}",
            artifacts_url=str(place / "artifacts"),
            cache_dir=str(place / "cache"),
            base=str(write_base(place / "base")),
            max_upload_mb=32,
        )
    )
    opened.register("bot", write_adapter(place / "mine", seed=1), by="ann")
    yield opened
    opened.close()


def state(registry: Registry, place: Path) -> Any:
    """Everything that a refusal must not change: records, events, and every file."""
    files = {str(path): path.stat().st_size for path in place.rglob("*") if path.is_file()}
    names = [adapter.name for adapter in registry.adapters()]
    return files, names, registry.versions("bot"), registry.history("bot"), registry.reached()


def upload(registry: Registry, content: bytes, scratch: Path) -> Any:
    """As ``POST /api/adapters/{name}/versions`` does it, see service/api/adapters.py."""
    packed = scratch / "archive"
    packed.write_bytes(content)
    folder = unpack(packed, scratch / "unpacked", max_bytes=registry.settings.max_bytes)
    return registry.register("bot", folder, by="mallory")


@pytest.mark.parametrize(("reason", "build"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_it_is_refused_by_its_reason_and_leaves_nothing(
    held: Registry, place: Path, tmp_path: Path, reason: str, build: Build
) -> None:
    """Refused at the door with its reason; no record, event or artifact changes; nothing is written but in scratch."""
    content = build(adapter_files())
    before = state(held, place)
    scratch = tmp_path / "deep" / "scratch"
    scratch.mkdir(parents=True)

    with pytest.raises(AdapterRefused) as refused:
        upload(held, content, scratch)

    assert refused.value.reason == reason, refused.value.message
    assert state(held, place) == before
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]
    assert list((tmp_path / "deep").iterdir()) == [scratch]
    assert {path.name for path in scratch.iterdir()} <= {"archive", "unpacked"}
    assert not Path("/shoal-hostile").exists()


def test_there_are_many_kinds_and_each_has_a_name() -> None:
    """At least forty reasons are shown; no kind is listed twice."""
    assert len({name for name, _, _ in ROWS}) == len(ROWS)
    assert len({reason for _, reason, _ in ROWS}) >= 40


def gnu_tar(files: Files) -> bytes:
    """As ``tar cz --format=gnu .``, with folders, long names and an owner."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(special(tarfile.DIRTYPE, "./"))
        below = "./" + "folder/" * 14
        for name, content in {"README.md": b"x", **files}.items():
            member = tarfile.TarInfo(below + name)
            member.size, member.uname = len(content), "ann"
            archive.addfile(member, io.BytesIO(content))
    return gzipped(out.getvalue())


def streamed_zip(files: Files) -> bytes:
    """A zip written to a pipe: the sizes follow each member."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: Any) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    import zipfile

    out = Pipe()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("mine")
        for name, content in files.items():
            archive.writestr(f"mine/{name}", content)
    return out.getvalue()


def git_archive(files: Files) -> bytes:
    """As ``git archive`` writes it, a comment for all members first; as macOS does, attributes before each."""
    attributes = raw_member(b"x", pax("LIBARCHIVE.xattr.com.apple.provenance", "AQ=="))
    return raw_member(b"g", pax("comment", "0" * 40)) + attributes + tarred(files)


@pytest.mark.parametrize("build", [gnu_tar, streamed_zip, git_archive])
def test_what_common_tools_write_is_taken(held: Registry, build: Build) -> None:
    """Strictness costs nobody: archives as tar, zip and git write them register; the same weights are no new version."""
    with tempfile.TemporaryDirectory() as scratch:
        version, new = upload(held, build(adapter_files(seed=1)), Path(scratch))
    assert (version.version, new) == (1, False)


@pytest.mark.parametrize("length", [0x280, 0x480, 0x4B50])
def test_a_header_length_that_looks_like_a_pickle_or_a_zip_is_taken(
    held: Registry, tmp_path: Path, length: int
) -> None:
    """640, 1152 and 19280 begin with the bytes of a pickle, a pickle and a zip; headers may be as long."""
    files = adapter_files(seed=1, modules=MODULES if length > 640 else MODULES[:2])
    size = int.from_bytes(files[TENSORS][:8], "little")
    files[TENSORS] = (
        length.to_bytes(8, "little") + files[TENSORS][8 : 8 + size].ljust(length) + files[TENSORS][8 + size :]
    )
    assert size <= length
    unpacked = unpack(zipped(files), tmp_path / "unpacked")
    assert held.keep(unpacked)[1].rank == 4
