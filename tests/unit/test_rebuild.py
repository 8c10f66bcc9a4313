"""The same bytes again: a mix depends on what lineage says and on nothing else, and a rebuild says how near it came."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from registry.artifacts import digest_of_folder
from registry.canonical import digest
from registry.errors import ArtifactMissing, VersionUnknown
from registry.peft_bytes import size_of_folder
from registry.records import ExpertRef, Hull, Lineage, Version, now
from swarm_worker.difference import difference
from swarm_worker.environment import here
from swarm_worker.expert import UnusableExpert
from swarm_worker.materialise import materialise
from swarm_worker.rebuild import TOLERANCE, CannotRebuild, rebuild
from tests.unit.tiny_experts import write_expert

BOT = "bot"
ROOT = Path(__file__).parents[2]
MODULES = ("head", "layers.0.q", "layers.1.q", "layers.2.q")


@dataclass
class Shelf:
    """Versions and their folders; ``gone`` have no bytes any more."""

    folders: dict[int, Path]
    versions: dict[int, Version]
    gone: frozenset[int] = frozenset()

    @classmethod
    def of(cls, experts: list[Path]) -> Shelf:
        shelf = cls({}, {})
        for folder in experts:
            shelf.add(folder)
        return shelf

    def add(self, folder: Path, lineage: Lineage | None = None) -> int:
        number = len(self.versions) + 1
        self.folders[number] = folder
        self.versions[number] = Version(
            adapter=BOT,
            version=number,
            digest=digest_of_folder(folder),
            origin="run" if lineage else "import",
            rank=2,
            size=size_of_folder(folder),
            created_at=now(),
            created_by="test",
            lineage=lineage,
        )
        return number

    def mix(self, folder: Path, coefficients: tuple[float, ...], **how: Any) -> int:
        """A version that is mixed from all before it, with the lineage that a run would write."""
        how = {"space": "delta", "hull": Hull(), "dtype": "bfloat16", "max_rank": 64} | how
        cut = materialise([self.folders[number] for number in self.versions], coefficients, folder, **how)
        lineage = Lineage(
            run_id="run-1",
            experts=tuple(ExpertRef(version=n, digest=v.digest, name=f"e{n}") for n, v in self.versions.items()),
            coefficients=coefficients,
            formula="...",
            rank=cut.rank,
            retained_energy=cut.retained_energy,
            optimizer="cma_es",
            seed=0,
            snapshot=digest("snapshot"),
            environment=here(),
            **{key: how[key] for key in ("space", "hull", "dtype")},
        )
        return self.add(folder, Lineage.model_validate_json(lineage.model_dump_json()))

    def version(self, adapter: str, number: int) -> Version:
        if number not in self.versions:
            raise VersionUnknown(adapter, number)
        return self.versions[number]

    def fetch(self, version: Version, into: Path) -> Path:
        if version.version in self.gone:
            raise ArtifactMissing(version.digest, "the place does not hold it")
        return Path(shutil.copytree(self.folders[version.version], into))


@pytest.fixture
def experts(tmp_path: Path) -> list[Path]:
    """Three of one rank, the last of which leaves two modules alone."""
    return [write_expert(tmp_path / f"e{i}", i, dict.fromkeys(MODULES[2 * (i == 2) :], 2)) for i in range(3)]


@pytest.fixture
def shelf(experts: list[Path]) -> Shelf:
    return Shelf.of(experts)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


# Bytes ----------------------------------------------------------------------------------------------------------------

ONCE_MORE = """
import sys, torch
from pathlib import Path
from registry.artifacts import digest_of_folder
from swarm_worker.materialise import materialise
experts, folder = [Path(name) for name in sys.argv[2:]], Path(sys.argv[1])
before = torch.get_num_threads()
MIX, TWICE, FAINT = (0.9, -0.4, 0.6, 0.0, 1.3), (0.9, -0.4, 0.6, 0.5, 0.0), (0.9, -0.4, 0.6, 0.0, 1e-10)
for number, (position, space, rank) in enumerate(
    ((MIX, "delta", 8), (MIX, "delta", 64), (MIX, "factors", 64), (TWICE, "delta", 56), (FAINT, "delta", 56))
):
    materialise(experts, position, folder / str(number), space=space, max_rank=rank)
    print(digest_of_folder(folder / str(number)))
assert torch.get_num_threads() == before
print(before, file=sys.stderr)
"""


def in_a_process(folder: Path, experts: list[Path], **environment: str) -> tuple[list[str], int]:
    """The digests of the five mixes, and how many threads the process had before and after."""
    inherited = {key: value for key, value in os.environ.items() if key != "MKL_NUM_THREADS"}
    command = [sys.executable, "-c", ONCE_MORE, str(folder), *map(str, experts)]
    ended = subprocess.run(
        command, env=inherited | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True, check=True
    )
    return ended.stdout.split(), int(ended.stderr.split()[-1])


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five experts, large enough for a product to be split over threads; the fourth is the first again."""
    folder, modules = tmp_path_factory.mktemp("wide"), dict.fromkeys(MODULES, 16)
    seeds = (0, 1, 2, 0, 3)
    return [write_expert(folder / f"e{i}", s, modules, d_out=384, d_in=768) for i, s in enumerate(seeds)]


@pytest.fixture(scope="module")
def by_one(wide: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The mixes as a process with one thread writes them."""
    folder = tmp_path_factory.mktemp("by-one")
    digests, threads = in_a_process(folder, wide, OMP_NUM_THREADS="1")
    assert threads == 1
    assert len(set(digests)) == 5
    return folder, digests


def test_every_process_writes_the_same_bytes_whatever_its_threads(
    wide: list[Path], by_one: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """With one thread and with two, in both spaces: the same digests; the process keeps its threads. Also where a cut goes
    into what is hardly there: an expert twice, and one of which next to nothing is taken."""
    assert in_a_process(tmp_path, wide, OMP_NUM_THREADS="2") == (by_one[1], 2)


def test_the_code_of_another_cpu_writes_the_same_bytes_or_equal_ones(
    wide: list[Path], by_one: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """PyTorch and MKL made to run what a CPU without vectors would: mixes that need no cut are the same bytes, in both
    spaces; where a cut is not, every entry of dW is far within the tolerance."""
    other = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    digests, _ = in_a_process(tmp_path, wide, OMP_NUM_THREADS="1", **other)
    assert digests[1:3] == by_one[1][1:3]
    for number in range(5):
        assert difference(by_one[0] / str(number), tmp_path / str(number)).largest < TOLERANCE / 10


def test_the_threads_are_given_back_after_a_failure(tmp_path: Path) -> None:
    """A mix that fails leaves the process as it was."""
    torch.set_num_threads(2)
    try:
        with pytest.raises(UnusableExpert):
            materialise([tmp_path / "none"], (1.0,), tmp_path / "mix", space="delta", max_rank=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@settings(max_examples=40, deadline=None)
@given(given_=st.data(), space=st.sampled_from(["delta", "factors"]), dtype=st.sampled_from(["bfloat16", "float32"]))
def test_lineage_is_all_that_the_bytes_depend_on(given_: st.DataObject, space: str, dtype: str) -> None:
    """Any hull and any position, negative coefficients too, through the record's JSON: the same digest."""
    n = given_.draw(st.integers(1, 3), "experts")
    hull = Hull(
        include_base=given_.draw(st.booleans(), "include_base"),
        sparse_copies=given_.draw(st.integers(0, 2), "sparse_copies"),
        density=given_.draw(st.sampled_from([0.25, 0.5, 1.0]), "density"),
        layer_groups=given_.draw(st.integers(1, 3), "layer_groups"),
        seed=given_.draw(st.integers(0, 3), "seed"),
    )
    dimensions = hull.layer_groups * (n * (1 + hull.sparse_copies) + hull.include_base)
    number = st.floats(-2, 2) | st.just(0.0)
    position = tuple(given_.draw(st.lists(number, min_size=dimensions, max_size=dimensions), "position"))
    with tempfile.TemporaryDirectory() as root:
        folders = [
            write_expert(
                Path(root) / str(i), i, dict.fromkeys(MODULES, 2 if space == "factors" else i + 1), lora_alpha=i + 1
            )
            for i in range(n)
        ]
        shelf = Shelf.of(folders)
        max_rank = given_.draw(st.integers(1, 6), "max_rank")
        mixed = shelf.mix(Path(root) / "mix", position, space=space, hull=hull, dtype=dtype, max_rank=max_rank)
        (Path(root) / "scratch").mkdir()
        rebuilt = rebuild(shelf, BOT, mixed, Path(root) / "scratch")
        assert (rebuilt.outcome, rebuilt.digest) == ("same", shelf.versions[mixed].digest)


def test_a_layer_group_that_takes_nothing_is_rebuilt_too(shelf: Shelf, tmp_path: Path, scratch: Path) -> None:
    """Half the layers are left as the base has them, the others are cut."""
    hull = Hull(layer_groups=2)
    number = shelf.mix(tmp_path / "mix", (0.0, 0.0, 0.0, 0.5, -0.3, 0.8), hull=hull, max_rank=3)
    assert rebuild(shelf, BOT, number, scratch).outcome == "same"
    a = load_file(tmp_path / "mix" / "adapter_model.safetensors")
    assert not a["base_model.model.layers.0.q.lora_A.weight"].any()


# What a rebuild says --------------------------------------------------------------------------------------------------


def nudged(folder: Path, by: float, module: str = "layers.1.q") -> None:
    """Move one entry of a module's B."""
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[f"base_model.model.{module}.lora_B.weight"][0, 0] += by
    save_file(tensors, folder / "adapter_model.safetensors")


def registered_otherwise(shelf: Shelf, number: int, by: float) -> None:
    """As if another CPU had made the version: other bytes under its number, by the same lineage."""
    nudged(shelf.folders[number], by)
    told = {"digest": digest_of_folder(shelf.folders[number])}
    shelf.versions[number] = shelf.versions[number].model_copy(update=told)


@pytest.mark.parametrize(("by", "outcome"), [(1e-6, "equal"), (1e-3, "different")])
def test_other_bytes_are_compared_by_what_they_do(
    shelf: Shelf, tmp_path: Path, scratch: Path, by: float, outcome: str
) -> None:
    """Within 1e-5 an entry of dW: equal; beyond it: different; and either way how much and in which module."""
    number = shelf.mix(tmp_path / "mix", (0.5, -0.3, 0.8), dtype="float32")
    registered_otherwise(shelf, number, by)
    rebuilt = rebuild(shelf, BOT, number, scratch)
    assert rebuilt.outcome == outcome
    assert rebuilt.difference is not None
    assert rebuilt.difference.module == "layers.1.q"
    a = load_file(rebuilt.folder / "adapter_model.safetensors")["base_model.model.layers.1.q.lora_A.weight"]
    assert rebuilt.difference.largest == pytest.approx(by * float(a[0].abs().max()), rel=0.2)
    assert json.loads(json.dumps(rebuilt.to_json()))["largest_difference"] == rebuilt.difference.largest


def test_a_module_that_one_side_leaves_alone_counts_whole(experts: list[Path]) -> None:
    """It is zeros there: the difference is the other's largest entry, scaling included."""
    found = difference(experts[0], experts[2])
    assert found.largest > 0.1
    alone = difference(experts[2], experts[2])
    assert alone.largest == 0
    assert alone.entry > 0


def test_the_same_bytes_are_known_though_the_registered_ones_are_lost(
    shelf: Shelf, tmp_path: Path, scratch: Path
) -> None:
    """A rebuild brings back what was lost; of retired experts as of any."""
    number = shelf.mix(tmp_path / "mix", (0.5, -0.3, 0.8))
    shelf.versions[1] = shelf.versions[1].model_copy(update={"retired": True})
    rebuilt = rebuild(replace(shelf, gone=frozenset({number})), BOT, number, scratch)
    assert rebuilt.outcome == "same"
    assert digest_of_folder(rebuilt.folder) == shelf.versions[number].digest


def test_what_cannot_be_rebuilt_says_why_in_one_line(shelf: Shelf, tmp_path: Path) -> None:
    """Gone or damaged bytes of an expert, an expert that is another version now, a lineage that does not fit."""
    number = shelf.mix(tmp_path / "mix", (0.5, -0.3, 0.8))
    made = shelf.versions[number].lineage
    assert made is not None

    def refused(held: Shelf, folder: str) -> str:
        with pytest.raises(CannotRebuild) as problem:
            rebuild(held, BOT, number, tmp_path / folder)
        assert "\n" not in problem.value.message
        return problem.value.message

    for folder in ("gone", "damaged", "other", "short"):
        (tmp_path / folder).mkdir()
    gone = refused(replace(shelf, gone=frozenset({2})), "gone")
    assert gone.startswith("bot@4 cannot be rebuilt: its expert e2 (bot@2) has no bytes any more")
    assert "shoal import bot DIR" in gone
    other = shelf.versions | {2: shelf.versions[2].model_copy(update={"digest": digest("other")})}
    assert "in the registry" in refused(replace(shelf, versions=other), "other")
    short = shelf.versions[number].model_copy(update={"lineage": made.model_copy(update={"coefficients": (1.0,)})})
    assert "1 coefficients for 3 experts" in refused(replace(shelf, versions=shelf.versions | {number: short}), "short")
    nudged(shelf.folders[2], 0.1)
    assert "its bytes are damaged" in refused(shelf, "damaged")


def test_an_import_is_fetched_and_verified(shelf: Shelf, scratch: Path, tmp_path: Path) -> None:
    """There is nothing to mix; damaged, it is refused."""
    rebuilt = rebuild(shelf, BOT, 1, scratch)
    assert (rebuilt.outcome, rebuilt.digest) == ("import", digest_of_folder(rebuilt.folder))
    nudged(shelf.folders[1], 0.1)
    with pytest.raises(CannotRebuild, match=r"bot@1 is an import, and came as .* damaged"):
        rebuild(shelf, BOT, 1, tmp_path / "again")
