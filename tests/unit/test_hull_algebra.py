"""The algebra of the hull, for any experts and any position: what a mix must be whatever the numbers are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_worker.cut import cut_factors
from swarm_worker.dare import copy_rng, drop_and_rescale
from swarm_worker.hull import ExpertStack, HullOptions
from tests.unit.tiny_experts import write_expert

MODULES = ("head", "layers.0.q", "layers.1.q", "layers.2.q", "layers.3.q")
SPACES = ("delta", "factors")
N = 3

coefficients = st.lists(st.floats(-2, 2, width=32), min_size=N, max_size=N).map(tuple)
quick = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def folders() -> Iterator[list[Path]]:
    """Three experts of one rank; the last leaves two modules alone."""
    with tempfile.TemporaryDirectory() as root:
        yield [
            write_expert(Path(root) / str(i), i, dict.fromkeys(MODULES[2 * (i == 2) :], 2), lora_alpha=i + 1)
            for i in range(N)
        ]


@pytest.fixture(scope="module")
def stack(folders: list[Path]) -> ExpertStack:
    return ExpertStack.load(folders)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@quick
@given(c=coefficients, d=coefficients, s=st.floats(-2, 2, width=32))
def test_delta_is_linear(stack: ExpertStack, c: tuple[float, ...], d: tuple[float, ...], s: float) -> None:
    """dW(c + s d) = dW(c) + s dW(d)."""
    for module in MODULES:
        mixed = stack.update(module, [x + s * y for x, y in zip(c, d, strict=True)])
        close(mixed, stack.update(module, c) + s * stack.update(module, d))


@quick
@given(c=coefficients, s=st.floats(-2, 2, width=32), expert=st.integers(0, N - 1))
def test_factors_is_quadratic(stack: ExpertStack, c: tuple[float, ...], s: float, expert: int) -> None:
    """dW(s c) = s^2 dW(c): alone, an expert with coefficient c weighs c^2, whatever its sign."""
    alone = [s * (i == expert) for i in range(N)]
    for module in MODULES:
        close(stack.update(module, [s * x for x in c], "factors"), s**2 * stack.update(module, c, "factors"))
        one = [float(i == expert) for i in range(N)]
        close(stack.update(module, alone, "factors"), s**2 * stack.update(module, one, "delta"))


@quick
@given(c=coefficients, order=st.permutations(range(N)))
def test_permuting_experts_permutes_coefficients(
    folders: list[Path], stack: ExpertStack, c: tuple[float, ...], order: list[int]
) -> None:
    """A mix does not depend on the order in which its experts were named."""
    permuted = ExpertStack.load([folders[i] for i in order])
    for module in MODULES:
        for space in SPACES:
            close(permuted.update(module, [c[i] for i in order], space), stack.update(module, c, space))


@quick
@given(c=coefficients, base=st.floats(-2, 2, width=32))
def test_the_base_adds_nothing(folders: list[Path], stack: ExpertStack, c: tuple[float, ...], base: float) -> None:
    """The last column, the base, is a zero adapter: its coefficient changes no update, in either space."""
    with_base = ExpertStack.load(folders, HullOptions(include_base=True))
    assert with_base.dimensions == N + 1
    for module in MODULES:
        for space in SPACES:
            assert torch.equal(with_base.update(module, (*c, base), space), stack.update(module, c, space))


@quick
@given(c=coefficients, groups=st.integers(1, 4))
def test_equal_groups_are_no_groups(folders: list[Path], stack: ExpertStack, c: tuple[float, ...], groups: int) -> None:
    """Layer groups with the same coefficients each are the ungrouped mix."""
    grouped = ExpertStack.load(folders, HullOptions(layer_groups=groups))
    for module in MODULES:
        for space in SPACES:
            assert torch.equal(grouped.update(module, c * groups, space), stack.update(module, c, space))


@quick
@given(c=coefficients, d=coefficients)
def test_a_group_speaks_for_its_layers_alone(
    folders: list[Path], stack: ExpertStack, c: tuple[float, ...], d: tuple[float, ...]
) -> None:
    """Of two groups the first has layers 0 and 1; the second has 2 and 3, and what belongs to no layer."""
    grouped = ExpertStack.load(folders, HullOptions(layer_groups=2))
    for module in MODULES:
        own = c if module in ("layers.0.q", "layers.1.q") else d
        assert grouped.group(module) == int(own is d)
        assert torch.equal(grouped.update(module, c + d), stack.update(module, own))


@pytest.mark.parametrize("layers", [5, 7, 12])
@pytest.mark.parametrize("groups", [2, 3, 5])
def test_groups_are_consecutive_and_equal_but_for_one_layer(tmp_path: Path, layers: int, groups: int) -> None:
    """Layers go by their number, not by how it is spelt (10 after 9), and no group is larger by more than one."""
    folder = write_expert(tmp_path / "expert", 0, {f"layers.{i}.mlp.experts.0.w": 1 for i in range(layers)})
    stack = ExpertStack.load([folder], HullOptions(layer_groups=groups))
    of_layer = [stack.group(f"layers.{i}.mlp.experts.0.w") for i in range(layers)]
    assert of_layer == sorted(of_layer)
    sizes = [of_layer.count(group) for group in range(groups)]
    assert max(sizes) - min(sizes) <= 1


def test_columns_and_names(folders: list[Path]) -> None:
    """Experts, then all first copies, then all second ones, then the base; a position has that for each group."""
    options = HullOptions(sparse_copies=2, include_base=True, layer_groups=2)
    stack = ExpertStack.load(folders, options)
    names = stack.names(["a", "b", "c"])
    assert names == ["a", "b", "c", *(f"{x} sparse {k}" for k in (1, 2) for x in "abc"), "base"]
    assert (stack.n_experts, stack.groups, stack.dimensions) == (10, 2, 20)
    assert options.dimension_names(["a", "b", "c"])[10] == "a layers 2/2"
    assert len(options.dimension_names(["a", "b", "c"])) == options.dimensions(3) == 20


def test_a_sparse_copy_is_the_same_in_every_process(folders: list[Path]) -> None:
    """A copy depends on (seed, expert, copy, module) alone: not on the number of copies, and not on who else is loaded."""
    few, many = (ExpertStack.load(folders, HullOptions(sparse_copies=k)) for k in (1, 3))
    pair = ExpertStack.load(folders[:2], HullOptions(sparse_copies=1))
    other = ExpertStack.load(folders, HullOptions(sparse_copies=1, seed=1))

    def alone(stack: ExpertStack, column: int) -> torch.Tensor:
        return stack.update("layers.2.q", [float(i == column) for i in range(stack.n_experts)])

    for expert in range(2):
        assert torch.equal(alone(few, 3 + expert), alone(many, 3 + expert))
        assert torch.equal(alone(few, 3 + expert), alone(pair, 2 + expert))
        assert not torch.equal(alone(few, 3 + expert), alone(many, 6 + expert))
        assert not torch.equal(alone(few, 3 + expert), alone(other, 3 + expert))


@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
def test_sparse_copies_average_to_the_expert(density: float) -> None:
    """Drop and rescale leaves the mean where it was, of each factor and of their product; and it keeps ``density``."""
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 6, generator=random), torch.randn(4, 3, generator=random)
    draws = []
    kept = 0.0
    for copy in range(1, 4001):
        rng = copy_rng(0, 0, copy, "q")
        sparse_a, sparse_b = (drop_and_rescale(factor, density, rng) for factor in (a, b))
        draws.append(sparse_b @ sparse_a)
        kept += float((sparse_a != 0).float().mean()) / 4000
    assert kept == pytest.approx(density, abs=0.01)
    mean, error = torch.stack(draws).mean(dim=0), torch.stack(draws).std(dim=0) / 4000**0.5
    assert ((mean - b @ a).abs() <= 5 * error + 1e-6).all()


@quick
@given(
    seed=st.integers(0, 10_000),
    rank=st.integers(1, 6),
    max_rank=st.integers(1, 6),
    rival=st.integers(0, 10_000),
)
def test_a_cut_is_the_nearest_of_its_rank(seed: int, rank: int, max_rank: int, rival: int) -> None:
    """Eckart-Young: the squared distance is that of the dropped singular values, no random rival of that rank, nor one
    near the cut itself, is nearer; the retained energy is in [0, 1], and 1 where nothing is dropped."""
    random = np.random.default_rng([seed, rank])
    b, a = (torch.from_numpy(random.standard_normal(shape)).float() for shape in ((5, rank), (rank, 7)))
    cut = cut_factors(b, a, max_rank)
    exact, near = (b @ a).double(), (cut.b @ cut.a).double()
    singular = torch.linalg.svdvals(exact)
    distance = (exact - near).square().sum()
    torch.testing.assert_close(distance, singular[max_rank:].square().sum(), atol=1e-4, rtol=1e-4)
    assert 0 <= cut.kept <= cut.total * (1 + 1e-12)
    assert cut.kept / cut.total == pytest.approx(1 - float(distance) / cut.total, abs=1e-4)
    noise = np.random.default_rng([rival, 1])
    for size in (0.01, 1.0):
        steps = [torch.from_numpy(noise.standard_normal(factor.shape)) * size for factor in (cut.b, cut.a)]
        moved = (cut.b.double() + steps[0]) @ (cut.a.double() + steps[1])
        assert (exact - moved).square().sum() >= distance - 1e-4


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"sparse_copies": -1}, "sparse_copies must be a whole number, 0 or more, not -1"),
        ({"density": 0.0}, r"density must be a number in \(0, 1\], not 0.0"),
        ({"layer_groups": 0}, "layer_groups must be a whole number, 1 or more, not 0"),
        ({"include_base": "yes"}, "include_base must be true or false, not 'yes'"),
        ({"seed": -3}, "seed must be a whole number, 0 or more, not -3"),
    ],
)
def test_bad_options_name_the_field(bad: dict, reason: str) -> None:
    """Options come from a config: what is wrong says its name, its value and what is allowed."""
    with pytest.raises(ValueError, match=reason):
        HullOptions(**bad)
