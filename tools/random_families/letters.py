"""A tokenizer of letters in the manner of Llama's: ``<s>`` in front, one id per character that has a key.

The ids above are words that decode, but no text encodes to.
"""

from __future__ import annotations

from pathlib import Path

from tools.random_families.pieces import write_json


def write_letters(out: Path, placeholders: dict[str, str], first: int, context: int, processor_class: str) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        out: the checkpoint's folder.
        placeholders: texts by the names that the tokenizer knows them by, such as ``image_token``; ``<pad>`` follows.
        first: id of the first placeholder.
        context: the longest sequence.
        processor_class: transformers' class of the processor.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    rare = "^`{|}~\\"  # a vocabulary of 96 has no room for these: they become <unk>
    pieces = ["<unk>", "<s>", "</s>", "\n", *(chr(code) for code in range(32, 127) if chr(code) not in rare)]
    pieces += [f" w{index}" for index in range(len(pieces), first)]
    pieces += [*placeholders.values(), "<pad>"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    specials = ["<unk>", "<s>", "</s>", *placeholders.values(), "<pad>"]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocab["<s>"])]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": processor_class,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "extra_special_tokens": placeholders,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    write_json(out / "tokenizer_config.json", config)
