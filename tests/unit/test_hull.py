"""Coefficients to adapters: the mix is plain tensor arithmetic, and what is written is what `peft` computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm_worker.formula import describe
from swarm_worker.hull import ExpertStack, HullOptions
from tests.contract.tiny_model import make_base
from tests.unit.tiny_experts import load_base, logits_of, make_expert, write_expert

COEFFICIENTS = (0.9, -0.4, 0.6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def experts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three experts that differ in rank, scaling and modules."""
    root = tmp_path_factory.mktemp("experts")
    return [
        make_expert(base, root / "plain", seed=1),
        make_expert(base, root / "rslora", seed=2, r=6, use_rslora=True, target_modules=["q_proj", "up_proj"]),
        make_expert(base, root / "patterns", seed=3, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
    ]


def peft_update(base: Path, folder: Path, module: str) -> torch.Tensor:
    """dW of one module by `peft` itself: what merging the adapter adds to the weight."""
    from peft import PeftModel

    before = load_base(base).get_submodule(module).weight.detach().clone()
    merged = PeftModel.from_pretrained(load_base(base), str(folder)).merge_and_unload()
    return merged.get_submodule(module).weight.detach() - before


@pytest.mark.parametrize("expert", range(3))
def test_one_expert_alone_is_what_peft_computes(base: Path, experts: list[Path], expert: int) -> None:
    """Scaling, rsLoRA and the patterns for rank and alpha are those of `peft`."""
    stack = ExpertStack.load(experts)
    alone = tuple(float(i == expert) for i in range(3))
    single = ExpertStack.load([experts[expert]])
    for module in stack.modules:
        expected = peft_update(base, experts[expert], module)
        torch.testing.assert_close(stack.update(module, alone), expected, atol=1e-5, rtol=1e-4)
        if module in single.modules:
            torch.testing.assert_close(single.update(module, (1.0,), "factors"), expected, atol=1e-5, rtol=1e-4)


def test_delta_is_the_sum_of_the_experts_updates(base: Path, experts: list[Path]) -> None:
    """delta: dW = sum c_i B_i A_i, where a module that an expert leaves alone counts as zero."""
    stack = ExpertStack.load(experts)
    for module in stack.modules:
        expected = sum(c * peft_update(base, folder, module) for c, folder in zip(COEFFICIENTS, experts, strict=True))
        torch.testing.assert_close(stack.update(module, COEFFICIENTS), expected, atol=1e-5, rtol=1e-4)


def test_factors_is_the_papers_product_of_sums(base: Path, tmp_path: Path) -> None:
    """factors: A and B are mixed apart, so an expert's own update weighs c ** 2, and there are cross terms."""
    folders = [make_expert(base, tmp_path / str(i), seed=i) for i in range(2)]
    stack = ExpertStack.load(folders)
    tensors = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    for module in stack.modules:
        a, b = ([t[f"base_model.model.{module}.lora_{x}.weight"] for t in tensors] for x in "AB")
        expected = 2.0 * (0.7 * b[0] + 0.3 * b[1]) @ (0.7 * a[0] + 0.3 * a[1])  # alpha / r = 2
        torch.testing.assert_close(stack.update(module, (0.7, 0.3), "factors"), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(stack.update(module, (-1.0, 0.0), "factors"), 2.0 * b[0] @ a[0])


def test_both_spaces_agree_where_experts_share_a(base: Path, tmp_path: Path) -> None:
    """With one lora_A for all and coefficients that sum to 1 the paper's mix is exact."""
    folders = [make_expert(base, tmp_path / str(i), seed=i) for i in range(2)]
    shared, other = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    other |= {name: tensor for name, tensor in shared.items() if "lora_A" in name}
    save_file(other, folders[1] / "adapter_model.safetensors")
    stack = ExpertStack.load(folders)
    for module in stack.modules:
        torch.testing.assert_close(
            stack.update(module, (1.3, -0.3), "factors"), stack.update(module, (1.3, -0.3), "delta")
        )


@pytest.fixture(scope="module")
def of_one_rank(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three experts that differ in scaling, modules and layers; those that adapt a module do it at one rank."""
    root = tmp_path_factory.mktemp("of_one_rank")
    return [
        make_expert(base, root / "pattern", seed=1, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
        make_expert(base, root / "rslora", seed=2, r=2, use_rslora=True, target_modules=["q_proj", "up_proj"]),
        make_expert(
            base, root / "last layer", seed=3, lora_alpha=5, target_modules=["v_proj"], layers_to_transform=[1]
        ),
    ]


OPTIONS = [
    HullOptions(),
    HullOptions(include_base=True, layer_groups=2),
    HullOptions(sparse_copies=1, density=0.3, include_base=True),
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "groups", "copies"])
@pytest.mark.parametrize(
    ("pool", "space"), [("experts", "delta"), ("of_one_rank", "delta"), ("of_one_rank", "factors")]
)
def test_an_exact_export_answers_as_the_mix(
    base: Path, request: pytest.FixtureRequest, tmp_path: Path, pool: str, options: HullOptions, space: str
) -> None:
    """`peft` loads what is written, and its logits are those of the base with dW added: in both spaces, for experts that
    differ in rank, alpha, rsLoRA, patterns, modules and layers, and whatever the hull is made of."""
    stack = ExpertStack.load(request.getfixturevalue(pool), options)
    position = (COEFFICIENTS * 4)[: stack.dimensions]
    cut = stack.write(position, tmp_path / "mix", space=space, dtype="float32")
    assert cut.retained_energy == 1.0

    def add_updates(model) -> None:
        for module in stack.modules:
            model.get_submodule(module).weight.data += stack.update(module, position, space)

    written = logits_of(base, tmp_path / "mix")
    torch.testing.assert_close(written, logits_of(base, None, add_updates), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(written, logits_of(base, None), atol=1e-2)


@pytest.mark.parametrize(("space", "rank"), [("delta", 4 + 6 + 2), ("factors", 4)])
def test_an_exact_export_has_the_rank_of_the_mix(
    experts: list[Path], of_one_rank: list[Path], tmp_path: Path, space: str, rank: int
) -> None:
    """delta: the sum of the ranks in the widest module, q_proj with 4, 6 and 2. factors: the experts' own."""
    stack = ExpertStack.load(experts if space == "delta" else of_one_rank)
    assert stack.write(COEFFICIENTS, tmp_path / "mix", space=space).rank == rank
    assert stack.write(COEFFICIENTS, tmp_path / "wide", space=space, max_rank=64).rank == rank


def test_factors_of_different_ranks_are_refused(experts: list[Path], tmp_path: Path) -> None:
    """Which row of a small A meets which row of a large one is not defined: the refusal comes before any work, says
    why, and names what to do. In delta the same experts mix."""
    stack = ExpertStack.load(experts)
    reason = "space must be 'delta', not 'factors', for experts of ranks 2, 4, 6: .* no sum"
    for refused in (
        lambda: stack.require_space("factors"),
        lambda: stack.update("model.layers.0.self_attn.q_proj", COEFFICIENTS, "factors"),
        lambda: stack.generation([COEFFICIENTS], "factors"),
        lambda: stack.write(COEFFICIENTS, tmp_path / "mix", space="factors"),
    ):
        with pytest.raises(ValueError, match=reason):
            refused()
    assert list(tmp_path.iterdir()) == []
    stack.require_space("delta")


@pytest.mark.parametrize("space", ["delta", "factors"])
def test_a_generation_is_its_positions_one_by_one(of_one_rank: list[Path], space: str) -> None:
    """One pass over the stack gives, module by module, the updates that ``update`` gives for each position."""
    stack = ExpertStack.load(of_one_rank, HullOptions(include_base=True, layer_groups=2))
    positions = torch.randn(5, stack.dimensions, generator=torch.Generator().manual_seed(0)).tolist()
    seen = []
    for module, mixed in stack.generation(positions, space):
        seen.append(module)
        for update, position in zip(mixed.updates(), positions, strict=True):
            torch.testing.assert_close(update, stack.update(module, position, space), atol=1e-6, rtol=1e-5)
    assert seen == list(stack.modules)


@pytest.mark.parametrize("space", ["delta", "factors"])
def test_a_block_serves_one_generation_after_the_other(of_one_rank: list[Path], space: str) -> None:
    """A materialised generation is that of ``generation``, in memory that the next one takes over; a block for fewer
    positions has no room for more."""
    stack = ExpertStack.load(of_one_rank)
    block = stack.block(5, space)
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, stack.dimensions, generator=random) for _ in range(2))
    before = stack.materialise(first, space, block)
    places = {module: mixed.b.data_ptr() for module, mixed in before.items()}
    after = stack.materialise(second, space, block)
    for module, mixed in stack.generation(second, space):
        assert torch.equal(after[module].updates(), mixed.updates())
        assert torch.equal(stack.materialise(second, space)[module].updates(), mixed.updates())
        assert after[module].b.data_ptr() == places[module]
    with pytest.raises(ValueError, match="has no room for"):
        stack.materialise(torch.cat([first, second]), space, block)


def test_stacked_factors_answer_for_all_positions_at_once(experts: list[Path]) -> None:
    """B (w * (A x)) with the stacked factors and a position's row weights is dW x, layer group and scaling included."""
    stack = ExpertStack.load(experts, HullOptions(layer_groups=2))
    positions = torch.randn(4, stack.dimensions, generator=torch.Generator().manual_seed(0))
    for module in stack.modules:
        stacked, weights = stack.stacked(module), stack.row_weights(module, positions)
        x = torch.randn(stacked.a.shape[1], generator=torch.Generator().manual_seed(1))
        answers = (weights * (stacked.a @ x)) @ stacked.b.T
        for answer, position in zip(answers, positions.tolist(), strict=True):
            torch.testing.assert_close(answer, stack.update(module, position) @ x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_stack_is_as_large_as_its_experts(tmp_path: Path, dtype: torch.dtype) -> None:
    """Experts keep the type they are stored in, and nothing is added where ranks differ: the stack has their bytes."""
    ranks = [{"layers.0.q": 2, "layers.1.q": 4}, {"layers.0.q": 3}]
    folders = [write_expert(tmp_path / str(i), i, own, dtype=dtype) for i, own in enumerate(ranks)]
    stack = ExpertStack.load(folders)
    assert {factor.dtype for one in stack.modules.values() for factor in (one.a, one.b)} == {dtype}
    held = sum(one.a.nbytes + one.b.nbytes for one in stack.modules.values())
    assert held == sum(tensor.nbytes for f in folders for tensor in load_file(f / "adapter_model.safetensors").values())


def test_experts_of_different_types_are_promoted(tmp_path: Path) -> None:
    """float16 beside bfloat16 is float32, in which both are exact; scaling stays apart, so no value is rounded."""
    dtypes = (torch.float16, torch.bfloat16)
    folders = [write_expert(tmp_path / str(i), i, {"q": 2}, dtype=dtype) for i, dtype in enumerate(dtypes)]
    stacked = ExpertStack.load(folders).modules["q"]
    assert stacked.a.dtype == torch.float32
    for i, folder in enumerate(folders):
        stored = load_file(folder / "adapter_model.safetensors")
        assert torch.equal(stacked.a[2 * i : 2 * i + 2], stored["base_model.model.q.lora_A.weight"].float())
        assert torch.equal(stacked.b[:, 2 * i : 2 * i + 2], stored["base_model.model.q.lora_B.weight"].float())


def test_bfloat16_is_half_as_large_and_all_but_exact(experts: list[Path], tmp_path: Path) -> None:
    """The default dtype changes an update by less than 1% of its norm."""
    stack = ExpertStack.load(experts)
    stack.write(COEFFICIENTS, tmp_path / "half", space="delta", max_rank=64)
    written = ExpertStack.load([tmp_path / "half"])
    for module in stack.modules:
        exact = stack.update(module, COEFFICIENTS)
        assert (written.update(module, (1.0,)) - exact).norm() < 0.01 * exact.norm()


def test_alpha_is_the_rank(base: Path, experts: list[Path], tmp_path: Path) -> None:
    """The scaling of a written adapter is 1, in a plain PEFT LoRA config."""
    cut = ExpertStack.load(experts).write(COEFFICIENTS, tmp_path / "mix", space="delta", max_rank=8)
    config = json.loads((tmp_path / "mix" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == cut.rank == 8
    assert config["target_modules"] == ["down_proj", "q_proj", "up_proj", "v_proj"]
    assert all(
        tensor.dtype == torch.bfloat16 for tensor in load_file(tmp_path / "mix/adapter_model.safetensors").values()
    )


def test_a_cut_is_the_best_of_its_rank_and_reports_what_it_kept(experts: list[Path], tmp_path: Path) -> None:
    """Cut to rank 3, each module is its truncated SVD; the energy is the kept share of the squared norm."""
    stack = ExpertStack.load(experts)
    cut = stack.write(COEFFICIENTS, tmp_path / "cut", space="delta", max_rank=3, dtype="float32")
    written = ExpertStack.load([tmp_path / "cut"])
    kept = total = 0.0
    for module in stack.modules:
        exact = stack.update(module, COEFFICIENTS)
        u, s, vt = torch.linalg.svd(exact)
        torch.testing.assert_close(written.update(module, (1.0,)), (u[:, :3] * s[:3]) @ vt[:3], atol=1e-4, rtol=1e-3)
        kept += float(s[:3].square().sum())
        total += float(s.square().sum())
    assert cut.rank == 3
    assert cut.retained_energy == pytest.approx(kept / total, abs=1e-5)
    assert 0.3 < cut.retained_energy < 1.0


def test_one_expert_exports_at_its_own_rank(experts: list[Path], tmp_path: Path) -> None:
    """Experts with coefficient 0 take no rank; a mix of nothing is an adapter that changes nothing."""
    stack = ExpertStack.load(experts)
    assert stack.write((1.0, 0.0, 0.0), tmp_path / "one", space="delta", max_rank=16).rank == 4
    nothing = stack.write((0.0, 0.0, 0.0), tmp_path / "none", space="delta", max_rank=16)
    assert (nothing.rank, nothing.retained_energy) == (1, 1.0)
    written = ExpertStack.load([tmp_path / "none"])
    assert all(not written.update(module, (1.0,)).any() for module in written.modules)


@pytest.mark.parametrize("max_rank", [3, 64])
def test_the_same_mix_is_the_same_bytes(experts: list[Path], tmp_path: Path, max_rank: int) -> None:
    """Two exports of one mix have one digest, so that a redelivered step registers nothing new."""
    stack = ExpertStack.load(experts)
    for name in ("one", "two"):
        stack.write(COEFFICIENTS, tmp_path / name, space="delta", max_rank=max_rank)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_export_is_complete_or_absent(experts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that dies half way leaves nothing behind, and none replaces what is there."""
    stack = ExpertStack.load(experts)

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("swarm_worker.peft_folder.save_file", broken)
        with pytest.raises(OSError, match="disk is full"):
            stack.write(COEFFICIENTS, tmp_path / "mix", space="delta", max_rank=8)
    assert list(tmp_path.iterdir()) == []

    stack.write(COEFFICIENTS, tmp_path / "mix", space="delta", max_rank=8)
    with pytest.raises(FileExistsError):
        stack.write(COEFFICIENTS, tmp_path / "mix", space="delta", max_rank=8)


def test_coefficients_and_space_are_checked(experts: list[Path], tmp_path: Path) -> None:
    """A wrong number of coefficients, an unknown space and a rank of nothing say so."""
    stack = ExpertStack.load(experts)
    with pytest.raises(ValueError, match="2 coefficients for 3 experts"):
        stack.update("model.layers.0.self_attn.q_proj", (1.0, 0.0))
    with pytest.raises(ValueError, match="delta, factors"):
        stack.update("model.layers.0.self_attn.q_proj", COEFFICIENTS, "ab")
    with pytest.raises(ValueError, match=r"shape \(1, 3\) for 3 experts in each of 2 layer groups"):
        ExpertStack.load(experts, HullOptions(layer_groups=2)).generation([COEFFICIENTS], "delta")
    with pytest.raises(ValueError, match="layer_groups must be at most 2, the layers that are adapted, not 3"):
        ExpertStack.load(experts, HullOptions(layer_groups=3))
    with pytest.raises(ValueError, match="max_rank"):
        stack.write(COEFFICIENTS, tmp_path / "x", space="delta", max_rank=0)
    with pytest.raises(ValueError, match="at least one"):
        ExpertStack.load([])


def test_a_mix_says_what_it_is() -> None:
    """One line, largest first, without what rounds to nothing."""
    names = ["lima", "science", "cot", "base"]
    assert describe(names, (-0.08, 0.43, 0.31, 0.001)) == "0.43 science + 0.31 cot - 0.08 lima"
    assert describe(names, (-1.0, 0.0, 0.0, 0.0)) == "-1.00 lima"
    assert describe(names, (0.0, 0.0, 0.0, 0.0)) == "0.00 (the base model)"
