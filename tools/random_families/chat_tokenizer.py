"""A tokenizer in the manner of Qwen2's: no start token, turns between ``<|im_start|>`` and ``<|im_end|>``.

One id per character; the ids between them and the placeholders are words that decode, but no text encodes to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tools.random_families.pieces import write_json

TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Ids 0, 1 and 2."""


def write_chat_tokenizer(
    out: Path, placeholders: Mapping[int, str], named: Mapping[str, str], context: int, processor_class: str
) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        out: the checkpoint's folder.
        placeholders: special tokens by id, one id behind the other.
        named: those that the tokenizer knows by a name of their own, such as ``image_token``.
        context: the longest sequence.
        processor_class: transformers' class of the processor.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    pieces = [*TURNS, "\n", *(chr(code) for code in range(32, 127))]
    pieces += [f" w{index}" for index in range(len(pieces), min(placeholders))]
    pieces += [placeholders[index] for index in sorted(placeholders)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    specials = [*TURNS, *placeholders.values()]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in specials])
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": processor_class,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "extra_special_tokens": dict(named),
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    write_json(out / "tokenizer_config.json", config)
