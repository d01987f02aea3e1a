"""How a prompt is written for a model, as the bundle's own values; the runtime applies them, without transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.bundle.prompt import Medium, PromptFacts
from edgeprune.checkpoint.processor import end_ids, load_tokenizer, settings, templates
from edgeprune.errors import BundleError, CheckpointError

LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""``USER: <image>\\n{question} ASSISTANT:``, llava-hf's own, for a LLaVA-1.5 that brings no chat template."""


def prompt_facts(
    folder: Path,
    medium: Medium,
    token_id: int,
    context: int,
    *,
    fallback: str | None = None,
    image_text: str | None = None,
    wrap: tuple[str, str] = ("", ""),
) -> PromptFacts:
    """How a prompt is written for a model.

    Args:
        folder: the checkpoint's.
        medium: what the placeholder stands for.
        token_id: the placeholder's id, as config.json has it.
        context: the longest sequence in tokens.
        fallback: the template of a checkpoint that brings none, with ``<image>`` for the placeholder; None for none.
        image_text: what stands for a picture inside of a question, where that is more than the placeholder.
        wrap: texts around the placeholder that the processor adds and the template does not write.

    Raises:
        CheckpointError: processor files are missing or contradict config.json.
    """
    tokenizer = load_tokenizer(folder)
    token = _placeholder(folder, tokenizer, medium, token_id)
    specials = [*tokenizer.all_special_tokens, token]
    specials += [known.content for known in tokenizer.added_tokens_decoder.values() if known.special]
    try:
        return PromptFacts(
            template=_template(folder, tokenizer, token, fallback),
            medium=medium,
            image_token=token,
            image_token_id=token_id,
            image_text=image_text or token,
            wrap=wrap,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            eos_token_ids=end_ids(folder, tokenizer),
            context=context,
            special_tokens=tuple(dict.fromkeys(map(str, specials))),
        )
    except BundleError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _placeholder(folder: Path, tokenizer: Any, medium: str, token_id: int) -> str:
    """The placeholder's text: as the tokenizer or the processor names it, else the token of that id."""
    name = f"{medium}_token"
    named = getattr(tokenizer, name, None) or settings(folder).get(name)
    token = str(named or tokenizer.convert_ids_to_tokens(token_id))
    known = tokenizer.convert_tokens_to_ids(token)
    if known != token_id:
        raise CheckpointError(f"{folder}: the tokenizer gives {token!r} the id {known}, config.json the id {token_id}")
    return token


def _template(folder: Path, tokenizer: Any, token: str, fallback: str | None) -> str:
    """The first template that writes the placeholder: the checkpoint's, else the one given."""
    for template in templates(folder, tokenizer):
        if token in template:
            return template
    if fallback is None:  # any other would be a guess
        raise CheckpointError(f"{folder} has no chat template with {token!r}; add chat_template.jinja")
    return fallback.replace("<image>", token)
