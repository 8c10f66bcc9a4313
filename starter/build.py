"""Makes the starter pack: trains the base, then one LoRA expert a skill, measures all of them, writes the model card.

``python -m starter.build`` is seeded and writes ``starter/base``, ``starter/experts``, ``starter/training.json``,
``starter/pack.json`` and ``starter/README.md``. It builds into a temporary folder beside them and moves the parts in
at the end: a build that fails leaves the old pack alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from starter.card import render_card
from starter.effect import measure_effect
from starter.pack import BASE_NAME, STARTER
from starter.recipe import RECIPE, Recipe
from starter.skills import BLEND, SKILLS, check_disjoint, items
from starter.tokenizer import CONTEXT, make_tokenizer
from starter.training import Anchor, accuracy, train

PARTS = ("base", "experts", "training.json", "pack.json", "README.md")


def say(line: str) -> None:
    """Print one line of progress."""
    print(line, flush=True)


def make_base(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, folder: Path) -> dict:
    """Train the base on all skills at once and save it, in bf16, with its tokenizer; returns its record."""
    torch.manual_seed(recipe.base.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.hidden // recipe.head,
        num_key_value_heads=recipe.hidden // recipe.head,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    record = train(model, tokenizer, recipe.base_weights, recipe.base)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=32
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)  # a new one: training has switched padding on in the other
    return {**record, "parameters": model.num_parameters()}


def load_base(folder: Path) -> LlamaForCausalLM:
    """The base as it will be served: the bf16 weights, computed in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_expert(recipe: Recipe, skill: str, tokenizer: PreTrainedTokenizerFast, base: Path, folder: Path) -> dict:
    """Train one LoRA expert on its skill, held to the base on the others, and save it in bf16."""
    torch.manual_seed(recipe.expert.seed + list(SKILLS).index(skill))  # a shared lora_A would make experts collide
    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(load_base(base), lora)
    others = {other: 1.0 for other in SKILLS if other != skill}
    anchor = Anchor(load_base(base), others, recipe.anchor_share, recipe.anchor_strength)
    record = train(model, tokenizer, {skill: 1.0}, recipe.expert, anchor)
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    written = folder / "adapter_config.json"
    config = json.loads(written.read_text())
    config["target_modules"].sort()  # peft keeps a set: its order, and so the digest, would change from run to run
    written.write_text(json.dumps(config, indent=2) + "\n")
    return record


def measure(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, root: Path, experts: Sequence[str]) -> dict:
    """Exact-match accuracy in percent, test split, of the base and of every expert on every skill."""
    questions = {skill: items(skill, "test", recipe.test_items, recipe.test_seed) for skill in SKILLS}
    check_disjoint(*questions.values())

    def row(model: torch.nn.Module) -> dict[str, float]:
        return {skill: round(100 * accuracy(model, tokenizer, asked), 1) for skill, asked in questions.items()}

    table = {"base": row(load_base(root / "base"))}
    for name in experts:
        table[name] = row(PeftModel.from_pretrained(load_base(root / "base"), root / "experts" / name))
    return table


def effect_of(recipe: Recipe, root: Path, experts: Sequence[str]) -> dict[str, float]:
    """What an adaptation usually gains on the pack in ``root``."""
    say(f"effect: {recipe.adaptations} adaptations, measured on items of their own")
    folders = [root / "experts" / name for name in experts]
    with tempfile.TemporaryDirectory() as scratch:
        return measure_effect(root / "base", folders, Path(scratch), recipe.adaptation, recipe.adaptations)


def write_records(root: Path, record: dict, experts: Sequence[str]) -> None:
    """Write what the pack says about itself: ``training.json``, ``pack.json`` and the model card."""
    manifest = {
        "adapter": "support-bot",
        "base": "base",
        "experts": list(experts),
        "blend": list(BLEND),
        "effect": {name: record["effect"][name] for name in ("difference", "spread")},
    }
    (root / "pack.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (root / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    (root / "README.md").write_text(render_card(record, manifest))


def measure_again(root: Path, recipe: Recipe = RECIPE) -> dict:
    """Measure only the effect of a pack that is there, and write it down: for a change of the search or its utility."""
    torch.set_num_threads(recipe.threads)
    record = json.loads((root / "training.json").read_text())
    record["recipe"] = recipe.describe()
    record["effect"] = effect_of(recipe, root, list(record["experts"]))
    write_records(root, record, list(record["experts"]))
    return record


def build(root: Path, recipe: Recipe = RECIPE) -> dict:
    """Make the whole pack under ``root``; returns the training record that it wrote."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    started = time.perf_counter()
    tokenizer = make_tokenizer()
    experts = [*BLEND, *(skill for skill in SKILLS if skill not in BLEND)]
    say(f"base: {recipe.base.stop or recipe.base.steps} steps over {len(SKILLS)} skills")
    record: dict = {"recipe": recipe.describe(), "base": make_base(recipe, tokenizer, root / "base"), "experts": {}}
    say(f"base: {record['base']['parameters']:,} parameters, loss {record['base']['loss'][-1]}")
    for name in experts:
        trained = make_expert(recipe, name, tokenizer, root / "base", root / "experts" / name)
        record["experts"][name] = trained
        say(f"expert {name}: loss {trained['loss'][0]} -> {trained['loss'][-1]} in {trained['seconds']} s")
    record["table"] = measure(recipe, tokenizer, root, experts)
    record["effect"] = effect_of(recipe, root, experts)
    record["versions"] = {name: version(name) for name in ("torch", "transformers", "peft", "safetensors")}
    record["machine"] = f"{platform.machine()}, {os.cpu_count()} CPU cores, {recipe.threads} threads used"
    record["seconds"] = round(time.perf_counter() - started, 1)
    write_records(root, record, experts)
    return record


def install(built: Path, target: Path) -> None:
    """Move a finished pack's parts over the old ones."""
    for part in PARTS:
        old = target / part
        if old.is_dir():
            shutil.rmtree(old)
        (built / part).replace(old)


def main() -> None:
    """The command: build beside the target, then move in."""
    parser = argparse.ArgumentParser(prog="python -m starter.build", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=STARTER, help="where the pack goes (default: the package)")
    parser.add_argument("--effect", action="store_true", help="train nothing; measure only what a run usually gains")
    asked = parser.parse_args()
    target = asked.out.resolve()
    target.mkdir(parents=True, exist_ok=True)
    if asked.effect:
        say(f"the effect is {measure_again(target)['effect']}")
        return
    with tempfile.TemporaryDirectory(dir=target, prefix=".building-") as folder:
        record = build(Path(folder))
        install(Path(folder), target)
    say(f"the starter pack is in {target}, made in {record['seconds']:.0f} s")


if __name__ == "__main__":
    main()
