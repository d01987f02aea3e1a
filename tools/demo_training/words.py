"""The demo model's vocabulary, tokenizer and chat template.

A word-level tokenizer whose normaliser lowers case and maps a few synonyms, so the words it knows are few. Knows
nothing of pictures.
"""

from __future__ import annotations

from typing import Any

from edgeprune.demo.canvas import COLORS, SHAPES

UNKNOWN, BOS, EOS, PAD, IMAGE = range(5)
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
WORDS = (
    *("user", "assistant", ":", "?", ".", ",", "what", "color", "shape", "is", "the", "object", "there", "a"),
    *("left", "right", "or", "of", "above", "below", "where", "top", "bottom", "yes", "no"),
    *COLORS,
    *SHAPES,
)
VOCABULARY = 64  # the words and room to spare: a multiple of 64
SYNONYMS = ((r"\bcolour\b", "color"), (r"\b(thing|item)\b", "object"), (r"\ban\b", "a"))
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER: ' }}{% else %}{{ 'ASSISTANT: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ ' ' }}{% else %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tokenizer() -> Any:
    """Make the ``tokenizers.Tokenizer``: words by number, punctuation apart, ``<s>`` in front."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate((*SPECIAL, *WORDS))}, unk_token="<unk>"))
    synonyms = [normalizers.Replace(Regex(pattern), word) for pattern, word in SYNONYMS]
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), *synonyms])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return made
