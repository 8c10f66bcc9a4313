"""Updates merged entry by entry: written exactly, or cut to the nearest of a lower rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swarm_worker.hull import ExpertStack
from swarm_worker.update import updates, write_merged
from tests.unit.tiny_experts import write_expert

RANKS = {"layers.0.q_proj": 2, "layers.1.q_proj": 1}


@pytest.fixture
def stack(tmp_path: Path) -> ExpertStack:
    return ExpertStack.load([write_expert(tmp_path / str(seed), seed, RANKS) for seed in range(3)])


def largest(module: str, experts: torch.Tensor) -> torch.Tensor:
    """A merge of full rank: each entry of the largest magnitude."""
    return experts.gather(0, experts.abs().argmax(dim=0, keepdim=True))[0]


def test_updates_are_the_experts_own(stack: ExpertStack) -> None:
    """(n, d_out, d_in), in the experts' order."""
    found = updates(stack, "layers.0.q_proj")
    assert found.shape == (3, 5, 7)
    torch.testing.assert_close(found[1], stack.update("layers.0.q_proj", (0.0, 1.0, 0.0)))


def test_without_a_limit_the_merge_is_written_exactly(stack: ExpertStack, tmp_path: Path) -> None:
    """What is read back is what the merge said, of any rank."""
    cut = write_merged(stack, largest, tmp_path / "merged", max_rank=None)
    written = ExpertStack.load([tmp_path / "merged"])
    assert cut.rank == 5
    assert cut.retained_energy == pytest.approx(1.0)
    for module in RANKS:
        torch.testing.assert_close(written.update(module, (1.0,)), largest(module, updates(stack, module)))


def test_rounding_is_not_rank(stack: ExpertStack, tmp_path: Path) -> None:
    """A merge of a low rank is written with that rank, one of zeros with rank 1."""
    assert write_merged(stack, lambda module, experts: experts[0], tmp_path / "one", max_rank=None).rank == 2
    assert write_merged(stack, lambda module, experts: 0 * experts[0], tmp_path / "none", max_rank=None).rank == 1


def test_a_cut_is_the_nearest_of_its_rank(stack: ExpertStack, tmp_path: Path) -> None:
    """The error is what the dropped singular values make, and the energy says so."""
    cut = write_merged(stack, largest, tmp_path / "merged", max_rank=2)
    written = ExpertStack.load([tmp_path / "merged"])
    error = total = 0.0
    for module in RANKS:
        exact = largest(module, updates(stack, module))
        dropped = torch.linalg.svdvals(exact)[2:].square().sum()
        assert (written.update(module, (1.0,)) - exact).square().sum() == pytest.approx(float(dropped), rel=1e-4)
        error, total = error + float(dropped), total + float(exact.square().sum())
    assert cut.rank == 2
    assert cut.retained_energy == pytest.approx(1 - error / total, rel=1e-5)


def test_the_same_merge_writes_the_same_bytes_once(stack: ExpertStack, tmp_path: Path) -> None:
    """Repeatable; a folder that is there is kept; a rank of 0 is refused."""
    for name in ("one", "two"):
        write_merged(stack, largest, tmp_path / name, max_rank=2)
    tensors = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two")]
    assert tensors[0] == tensors[1]
    with pytest.raises(FileExistsError):
        write_merged(stack, largest, tmp_path / "one", max_rank=2)
    with pytest.raises(ValueError, match="max_rank must be 1 or more, not 0"):
        write_merged(stack, largest, tmp_path / "three", max_rank=0)
