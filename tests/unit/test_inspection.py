"""May this adapter be registered? Each refusal by its reason, and what is taken."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.archives import unpack
from registry.artifacts import CONFIG, TENSORS
from registry.base_shape import BaseShape
from registry.errors import AdapterRefused, BadInput
from registry.inspection import AdapterFacts, inspect
from registry.tensors import HeaderWrong, read_header
from tests.peft_folders import MODULES, WIDTH, write_adapter, write_base

A_MODULE = f"base_model.model.{MODULES[0]}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseShape:
    return BaseShape.read(write_base(tmp_path_factory.mktemp("base")))


def look(folder: Path, base: BaseShape | None, *, max_rank: int = 16, max_bytes: int = 10_000_000) -> AdapterFacts:
    return inspect(folder, base=base, max_rank=max_rank, max_bytes=max_bytes)


def bfloat16(folder: Path, bits: int) -> None:
    """Rewrites the header so that the float16 tensors are bfloat16, and sets one number."""
    path = folder / TENSORS
    content = path.read_bytes().replace(b'"F16"', b'"BF16"')
    length = int.from_bytes(content[:8], "little")
    grown = content.count(b'"BF16"')
    body = bytearray(content[8 + length + grown :])
    body[:2] = struct.pack("<H", bits)
    path.write_bytes(struct.pack("<Q", length + grown) + content[8 : 8 + length + grown] + body)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_plain_adapter_is_taken(tmp_path: Path, base: BaseShape, dtype: type) -> None:
    """A plain LoRA for this base may be registered; its facts are what the files say."""
    folder = write_adapter(tmp_path, dtype=dtype)
    (folder / "README.md").write_text("# mine")
    (folder / ".gitattributes").write_text("")

    facts = look(folder, base)

    size = (folder / CONFIG).stat().st_size + (folder / TENSORS).stat().st_size
    assert facts == AdapterFacts(rank=4, alpha=8.0, target_modules=("q_proj", "v_proj"), size=size)


def test_rank_patterns_count(tmp_path: Path, base: BaseShape) -> None:
    """The rank is the highest of any module, and each must be what the config says."""
    wide = {
        f"{A_MODULE}.lora_A.weight": np.ones((8, WIDTH), np.float32),
        f"{A_MODULE}.lora_B.weight": np.ones((WIDTH, 8), np.float32),
    }
    folder = write_adapter(tmp_path, tensors=wide, config={"rank_pattern": {"layers.0.self_attn.q_proj": 8}})
    assert look(folder, base).rank == 8
    with pytest.raises(AdapterRefused) as refused:
        look(folder, base, max_rank=4)
    assert refused.value.reason == "rank_too_high"
    with pytest.raises(AdapterRefused) as refused:
        look(write_adapter(tmp_path, tensors=wide), base)
    assert refused.value.reason == "rank"


CONFIGS = {
    "not_lora": {"peft_type": "IA3"},
    "unsupported dora": {"use_dora": True},
    "unsupported pissa": {"init_lora_weights": "pissa"},
    "unsupported pissa steps": {"init_lora_weights": "pissa_niter_16"},
    "unsupported loftq": {"init_lora_weights": "loftq"},
    "unsupported bias": {"bias": "all"},
    "unsupported lora_bias": {"lora_bias": True},
    "unsupported alora": {"alora_invocation_tokens": [1]},
    "unsupported modules_to_save": {"modules_to_save": ["lm_head"]},
    "unsupported transposed": {"fan_in_fan_out": True},
    "unsupported replication": {"layer_replication": [[0, 1]]},
    "config_invalid rank": {"r": "4"},
    "config_invalid no rank": {"r": 0},
    "config_invalid bool": {"r": True},
    "alpha none": {"lora_alpha": None},
    "alpha zero": {"lora_alpha": 0},
    "alpha huge": {"lora_alpha": 10**39},
    "config_invalid pattern": {"rank_pattern": {"(a+)+$": 4}},
    "target_modules none": {"target_modules": None},
    "target_modules expression": {"target_modules": "(a+)+$"},
    "target_modules listed expression": {"target_modules": ["q_proj", "v_proj", "(a+)+$"]},
    "target_modules excluded expression": {"exclude_modules": "(a+)+$"},
    "missing_module": {"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
    "unknown_module listed": {"target_modules": ["q_proj", "v_proj", "gate_proj"]},
    "wrong_base": {"shoal_base": "sha256:" + "0" * 64},
    "rank_too_high pattern": {"rank_pattern": {"elsewhere": 100_000}},
    "config_invalid pattern of floats": {"rank_pattern": {"q_proj": 4.0}},
    "config_invalid rslora": {"use_rslora": "yes"},
    "unsupported code": {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}},
    "unsupported task": {"task_type": "SEQ_CLS"},
    "unsupported engine": {"vllm_lora_scaling_factor": 9.0},
    "unsupported loftq config": {"loftq_config": {"loftq_bits": 4}},
    "unknown_module untargeted": {"target_modules": ["q_proj"]},
    "rank": {"r": 3},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_what_an_engine_would_refuse_or_serve_wrongly(tmp_path: Path, base: BaseShape, case: str) -> None:
    """Every feature beyond plain LoRA, and every wrong number of a config, is refused by its reason."""
    folder = write_adapter(tmp_path, config=CONFIGS[case])
    with pytest.raises(AdapterRefused) as refused:
        look(folder, base)
    assert refused.value.reason == case.split(maxsplit=1)[0]


@pytest.mark.parametrize(("flag", "reason"), [(True, "unsupported"), (False, "shape"), (None, "shape")])
def test_transposed_matrices_are_refused_whatever_the_config_says_of_them(
    tmp_path: Path, base: BaseShape, flag: bool | None, reason: str
) -> None:
    """Engines read lora_A (rank, in) and lora_B (out, rank) and nothing else: where in and out differ it cannot load others."""
    wide = replace(base, matrices={**base.matrices, MODULES[0]: (WIDTH, 2 * WIDTH)})
    taken = {
        f"{A_MODULE}.lora_A.weight": np.ones((4, 2 * WIDTH), np.float32),
        f"{A_MODULE}.lora_B.weight": np.ones((WIDTH, 4), np.float32),
    }
    crosswise = {
        f"{A_MODULE}.lora_A.weight": np.ones((4, WIDTH), np.float32),
        f"{A_MODULE}.lora_B.weight": np.ones((2 * WIDTH, 4), np.float32),
    }
    assert look(write_adapter(tmp_path, tensors=taken, config={"fan_in_fan_out": False}), wide).rank == 4
    with pytest.raises(AdapterRefused) as refused:
        look(write_adapter(tmp_path, tensors=crosswise, config={"fan_in_fan_out": flag}), wide)
    assert refused.value.reason == reason
    assert flag is not True or "Conv1D" in refused.value.message


@pytest.mark.parametrize("init", [True, False, "gaussian"])
def test_inits_that_leave_the_base_alone_are_taken(tmp_path: Path, base: BaseShape, init: object) -> None:
    """An init that changed only the adapter's own matrices is no obstacle."""
    assert look(write_adapter(tmp_path, config={"init_lora_weights": init}), base).rank == 4


def narrow(folder: Path) -> None:
    write_adapter(folder, width=WIDTH // 2)


def other_base(folder: Path) -> None:
    write_adapter(folder, modules=("transformer.h.0.attn.q_proj",))


def embedding(folder: Path) -> None:
    write_adapter(
        folder, tensors={"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((4, 16), np.float32)}
    )


def half(folder: Path) -> None:
    odd = {"base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight": np.ones((4, WIDTH), np.float32)}
    write_adapter(folder, tensors=odd)


def crossed(folder: Path) -> None:
    write_adapter(folder, tensors={f"{A_MODULE}.lora_B.weight": np.ones((WIDTH, 5), np.float32)})


def number(value: float, dtype: type = np.float32) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        wrong = np.ones((4, WIDTH), dtype)
        wrong[-1, -1] = value
        write_adapter(folder, dtype=dtype, tensors={f"{A_MODULE}.lora_A.weight": wrong})

    return write


def brain_float(bits: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        bfloat16(write_adapter(folder, dtype=np.float16), bits)

    return write


def empty(folder: Path) -> None:
    (folder / TENSORS).write_bytes(struct.pack("<Q", 2) + b"{}")


def beside(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"x") and None


def idle(folder: Path) -> None:
    write_adapter(
        folder, tensors={f"base_model.model.{m}.lora_B.weight": -np.zeros((WIDTH, 4), np.float32) for m in MODULES}
    )


def nothing(folder: Path) -> None:
    write_adapter(folder, tensors={f"{A_MODULE}.lora_A.weight": np.ones((0, WIDTH), np.float32)})


def linked(folder: Path) -> None:
    (folder / TENSORS).rename(folder.parent / "elsewhere")
    (folder / TENSORS).symlink_to(folder.parent / "elsewhere")


def subfolder(folder: Path) -> None:
    (folder / "checkpoint-1").mkdir()


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


@pytest.mark.parametrize(
    ("reason", "damage"),
    [
        ("shape", narrow),
        ("shape", crossed),
        ("unknown_module", other_base),
        ("unknown_module", embedding),
        ("incomplete", half),
        ("incomplete", empty),
        ("not_finite", number(np.nan)),
        ("not_finite", number(-np.inf, np.float16)),
        ("not_finite", brain_float(0x7F80)),
        ("not_finite", brain_float(0xFFC1)),
        ("dtype", number(1, np.float64)),
        ("not_safetensors", beside("adapter_model.bin")),
        ("not_safetensors", beside("training_args.PT")),
        ("not_safetensors", lambda folder: (folder / TENSORS).unlink()),
        ("config_missing", lambda folder: (folder / CONFIG).unlink()),
        ("config_invalid", text(CONFIG, "{")),
        ("config_invalid", text(CONFIG, "[]")),
        ("number_not_finite", text(CONFIG, '{"r": NaN}')),
        ("number_not_finite", text(CONFIG, '{"r": 1e999}')),
        ("config_too_deep", text(CONFIG, "[" * 1000 + "]" * 1000)),
        ("config_too_big", text(CONFIG, "[" * 100_001)),
        ("config_too_big", text(CONFIG, " " * 1_000_001)),
        ("config_duplicate_key", text(CONFIG, '{"r": 4, "r": 4}')),
        ("config_text", text(CONFIG, '{"r": "\\ud800"}')),
        ("no_effect", idle),
        ("zero_dimension", nothing),
        ("wrong_base", text("shoal.json", '{"base": "sha256:1"}')),
        ("unexpected_file", beside("run.py")),
        ("unexpected_file", subfolder),
        ("link", linked),
    ],
)
def test_each_defect_is_refused_by_its_reason(
    tmp_path: Path, base: BaseShape, reason: str, damage: Callable[[Path], None]
) -> None:
    """Wrong base, wrong numbers, wrong files: refused, with the slug that dashboards count."""
    folder = write_adapter(tmp_path / "mine")
    damage(folder)
    with pytest.raises(AdapterRefused) as refused:
        look(folder, base)
    assert refused.value.reason == reason


def test_bfloat16_is_taken(tmp_path: Path, base: BaseShape) -> None:
    """The largest finite bfloat16 is a number like any other."""
    brain_float(0x7F7F)(tmp_path)
    assert look(tmp_path, base).rank == 4


def test_too_big_and_too_high_are_refused(tmp_path: Path, base: BaseShape) -> None:
    """The service's limits hold for bytes and rank."""
    folder = write_adapter(tmp_path)
    for limits, reason in (({"max_bytes": 100}, "too_big"), ({"max_rank": 2}, "rank_too_high")):
        with pytest.raises(AdapterRefused) as refused:
            look(folder, base, **limits)
        assert refused.value.reason == reason


def test_without_a_base_names_and_shapes_are_not_asked(tmp_path: Path) -> None:
    """A registry that knows no base takes any plain LoRA."""
    assert look(write_adapter(tmp_path, modules=("a.b.c_proj",), width=3), None).target_modules == ("c_proj",)


def header(entries: object, body: bytes = b"", length: int | None = None) -> bytes:
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "truncated empty": b"",
    "truncated head": b"\0" * 7,
    "header_too_big": header({}, length=1 << 62),
    "truncated header": header({}, length=10_000),
    "header_invalid nonsense": header(b"nonsense"),
    "header_invalid list": header(b"[1]"),
    "header_invalid number": header(b'{"a":NaN}'),
    "header_duplicate_key": header(b'{"a":1,"a":2}'),
    "header_too_deep": header(b'{"a":' + b"[" * 50 + b"]" * 50 + b"}"),
    "header_too_many": header(b'{"a":[' + b"1," * 600_000 + b"1]}"),
    "header_metadata": header({"__metadata__": {"a": 1}}),
    "odd_name": header({"a\u202eb": entry(0, 4, [1])}, b"\0" * 4),
    "odd_name long": header({"a" * 301: entry(0, 4, [1])}, b"\0" * 4),
    "header_entry missing": header(b'{"__metadata__":{},"a":{"dtype":"F32"}}'),
    "header_entry negative": header({"a": entry(0, 4, [-1])}, b"\0" * 4),
    "header_entry float": header({"a": entry(0, 4, [1.0])}, b"\0" * 4),  # type: ignore[list-item]
    "header_entry dtype": header({"a": entry(0, 4, [1], "OBJ")}, b"\0" * 4),
    "header_entry dtypes": header({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "header_entry shape": header({"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}}, b"\0" * 4),
    "header_entry shapes": header({"a": entry(0, 4, [1] * 9)}, b"\0" * 4),
    "truncated tensor": header({"a": entry(0, 4, [1])}, b"\0" * 3),
    "trailing_bytes": header({"a": entry(0, 4, [1])}, b"\0" * 5),
    "overlap": header({"a": entry(0, 4, [1]), "b": entry(2, 6, [1])}, b"\0" * 6),
    "gap": header({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, b"\0" * 12),
    "wrong_size backwards": header({"a": entry(4, 0, [1])}, b"\0" * 4),
    "wrong_size overflow": header({"a": entry(0, 4, [1 << 62, 4])}, b"\0" * 4),
    "safetensors_is_zip": b"PK\3\4" + b"\0" * 60,
    "safetensors_is_pickle": b"\x80\4\x95" + b"\1" * 60,
}


@pytest.mark.parametrize("case", HEADERS)
def test_absurd_headers_are_refused(tmp_path: Path, case: str) -> None:
    """A header that lies about lengths, places or shapes is refused by its reason before anything is read by it."""
    (tmp_path / "x").write_bytes(HEADERS[case])
    with pytest.raises(HeaderWrong) as refused:
        read_header(tmp_path / "x")
    assert refused.value.reason == case.split(maxsplit=1)[0]


def test_a_bomb_of_brackets_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    """Millions of values in a few megabytes would take gigabytes as Python objects; they are counted as bytes."""
    (tmp_path / "x").write_bytes(header(b'{"__metadata__":[' + b"[]," * 3_000_000 + b"[]]}"))
    tracemalloc.start()
    with pytest.raises(HeaderWrong) as refused:
        read_header(tmp_path / "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.reason == "header_too_many"
    assert peak < 100_000_000


def test_an_adapter_made_for_this_base_says_so_and_is_taken(tmp_path: Path, base: BaseShape) -> None:
    """The hash of the base's config does not depend on where or by which version a copy was loaded."""
    folder = write_adapter(tmp_path / "mine", config={"shoal_base": base.config_digest})
    assert look(folder, base).rank == 4
    copy = write_base(tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text()) | {"_name_or_path": "x", "transformers_version": "9"}
    (copy / "config.json").write_text(json.dumps(config))
    assert BaseShape.read(copy).config_digest == base.config_digest


def test_a_dot_in_a_pattern_is_any_character_as_peft_reads_it(tmp_path: Path, base: BaseShape) -> None:
    folder = write_adapter(tmp_path, config={"r": 8, "rank_pattern": {"q.proj": 4, "v_proj": 4}})
    assert look(folder, base).rank == 4


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed or cut anywhere: the inspection answers facts or ``AdapterRefused``, never anything else."""
    folder = write_adapter(tmp_path / "mine")
    name = data.draw(st.sampled_from([CONFIG, TENSORS]))
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, min(len(content), 1500) - 1))] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        look(folder, None)
    except AdapterRefused as refused:
        assert refused.reason  # noqa: PT017 - either answer is right


def test_a_base_is_read_from_its_headers(tmp_path: Path, base: BaseShape) -> None:
    """The base's matrices are known by name and shape, with the tied output head; what is no base is refused."""
    assert base.of(MODULES[0]) == (WIDTH, WIDTH)
    assert base.of("lm_head") == (16, WIDTH)
    assert base.of("model.norm") is None
    with pytest.raises(BadInput):
        BaseShape.read(tmp_path)


def packed(kind: str, members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=out, mode="w:gz" if kind == "tar.gz" else "w") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


KINDS = ["zip", "tar", "tar.gz"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("below", ["", "a/b/"])
def test_an_archive_gives_its_adapter(tmp_path: Path, base: BaseShape, kind: str, below: str) -> None:
    """An adapter is found wherever it lies in a .zip, .tar or .tar.gz, given as bytes or as a file."""
    folder = write_adapter(tmp_path / "mine")
    members = {f"{below}{path.name}": path.read_bytes() for path in folder.iterdir()}
    content = packed(kind, members)
    (tmp_path / "archive").write_bytes(content)

    for number_, archive in enumerate((content, tmp_path / "archive")):
        found = unpack(archive, tmp_path / f"out{number_}")
        assert look(found, base).rank == 4
        assert (found / TENSORS).read_bytes() == (folder / TENSORS).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("reason", "members"),
    [
        ("archive_unsafe_path", {"../x": b""}),
        ("archive_unsafe_path", {"a/../../x": b""}),
        ("archive_unsafe_path", {"/etc/x": b""}),
        ("archive_unsafe_path", {"a\\..\\x": b""}),
        ("archive_duplicate", {"a": b"", "a/b": b""}),
        ("archive_too_many", {f"f{index}": b"" for index in range(300)}),
        ("archive_too_big", {"zeros": b"\0" * 5_000_000}),
        ("archive_no_adapter", {"x.txt": b"x"}),
        ("archive_many_adapters", {f"a/{CONFIG}": b"{}", f"b/{CONFIG}": b"{}"}),
    ],
)
def test_archive_tricks_are_refused(tmp_path: Path, kind: str, reason: str, members: dict[str, bytes]) -> None:
    """Paths that lead out, bombs, crowds: refused, and nothing is written outside the folder."""
    inside = tmp_path / "deep" / "inside"
    with pytest.raises(AdapterRefused) as refused:
        unpack(packed(kind, members), inside, max_bytes=1_000_000)
    assert refused.value.reason == reason
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and inside not in path.parents]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "archive_link"),
        (tarfile.LNKTYPE, "archive_hard_link"),
        (tarfile.FIFOTYPE, "archive_special_file"),
        (tarfile.CHRTYPE, "archive_special_file"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes, reason: str) -> None:
    """A tar holds files and folders only."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(TENSORS)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(AdapterRefused) as refused:
        unpack(out.getvalue(), tmp_path / "out")
    assert refused.value.reason == reason


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    """A zip holds files and folders only."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        member = zipfile.ZipInfo(TENSORS)
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(AdapterRefused) as refused:
        unpack(out.getvalue(), tmp_path / "out")
    assert refused.value.reason == "archive_link"


def test_a_bomb_in_a_tar_header_is_refused(tmp_path: Path) -> None:
    """A pax header of a gigabyte, a megabyte when packed, stops at the limit instead of filling memory."""
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 1 << 30
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as packer:
        packer.write(member.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(16):
            packer.write(b"\0" * (1 << 20))
    with pytest.raises(AdapterRefused) as refused:
        unpack(out.getvalue(), tmp_path / "out", max_bytes=1_000_000)
    assert refused.value.reason == "archive_header_bomb"


ARCHIVES = {kind: packed(kind, {f"a/{CONFIG}": b"{}" * 50, f"a/{TENSORS}": bytes(range(50))}) for kind in KINDS}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_damaged_archives_are_refused_or_read(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    """Whatever bytes are changed, an archive is unpacked or ``AdapterRefused``, never anything else."""
    content = bytearray(ARCHIVES[kind])
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    into = tmp_path / data.draw(st.uuids()).hex
    try:
        unpack(bytes(content[: data.draw(st.integers(0, len(content)))]), into)
    except AdapterRefused as refused:
        assert refused.reason  # noqa: PT017 - either answer is right
