"""The starter model's tokenizer: one character, one token.

A chat of one question renders as ``question\\nanswer<|end|>``, with no hidden prefix: so a plain completion of
``question\\n`` reads exactly the tokens that the chat reads, and nothing is ever added twice.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

UNKNOWN, PADDING, END = "<|unk|>", "<|pad|>", "<|end|>"
CONTEXT = 512  # tokens

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ message['content'] | trim }}{{ '\\n' }}"
    "{%- elif message['role'] == 'assistant' %}{{ message['content'] | trim }}{{ eos_token }}"
    "{%- endif %}"
    "{%- endfor %}"
)
"""A user's turn ends with a newline, an answer with the end token. Other roles (system, tool) are left out: the
model has seen none. ``add_generation_prompt`` needs nothing: the newline is the prompt."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer over printable ASCII and newline; any other character becomes the unknown token."""
    characters = ["\n", *(chr(code) for code in range(32, 127))]
    vocabulary = {token: number for number, token in enumerate([PADDING, END, UNKNOWN, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        pad_token=PADDING,
        eos_token=END,
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
