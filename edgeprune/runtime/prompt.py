"""From a question to the token ids around its pictures, and from an answer's token ids back to text.

The ids are those of Transformers' ``apply_chat_template`` followed by its processor, without either. Knows
nothing about pictures: where one goes there is a gap between two parts of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils
from tokenizers import Tokenizer

from edgeprune.bundle.prompt import PromptFacts
from edgeprune.errors import BundleError, QuestionError

_NOT_CARRIED = frozenset({"unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
"""Names Transformers gives to a template and a bundle does not: reading one would silently give nothing."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""How vocabularies with byte fallback name the 256 tokens of single bytes."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are no character, or not yet one."""


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids around the pictures of a prompt; the placeholders themselves are in none of them.

    Attributes:
        parts: one more than there are pictures: ids up to the first, with the model's beginning token where it has
            one, between two of them, and behind the last, up to where the answer starts.
        question: ids of the question alone, for methods that prune by it.
        clip_ids: the question's ids for CLIP's text tower; empty where the bundle has none.
    """

    parts: tuple[tuple[int, ...], ...]
    question: tuple[int, ...]
    clip_ids: tuple[int, ...] = ()

    @property
    def before(self) -> tuple[int, ...]:
        """Ids up to the first picture."""
        return self.parts[0]

    @property
    def after(self) -> tuple[int, ...]:
        """Ids behind the last picture."""
        return self.parts[-1]

    @property
    def text_tokens(self) -> int:
        """How many tokens the text takes, without the pictures."""
        return sum(map(len, self.parts))


class Prompt:
    """A model's chat template and tokenizer at work.

    Args:
        facts: what the bundle says about the prompt.
        tokenizer_path: the bundle's ``tokenizer.json``.
        clip_ids: from a question to its ids for CLIP's text tower, where the bundle has one.

    Raises:
        BundleError: the tokenizer is missing or unreadable, does not know the placeholder by its id, or the
            template is malformed or does not write one placeholder for each picture.
    """

    def __init__(
        self,
        facts: PromptFacts,
        tokenizer_path: Path,
        clip_ids: Callable[[str], tuple[int, ...]] | None = None,
    ) -> None:
        self.facts, self._clip_ids = facts, clip_ids
        self.tokenizer = read_tokenizer(tokenizer_path)
        known = self.tokenizer.token_to_id(facts.image_token)
        if known != facts.image_token_id:
            raise BundleError(
                f"{tokenizer_path} gives {facts.image_token!r} id {known}, expected {facts.image_token_id}"
            )
        self._template = _compile(facts.template)
        for pictures in (1, 2):
            written = self._render("?", pictures).count(facts.image_token)
            if written != pictures:
                raise BundleError(
                    f"prompt: the chat template writes {facts.image_token!r} {written} {_times(written)} where there "
                    f"{_are(pictures, self._noun)}"
                )

    @property
    def marker(self) -> str:
        """What stands for a picture or video inside of a question, whatever the model's own placeholder is."""
        return f"<{self.facts.medium}>"

    def render(self, question: str, pictures: int = 1) -> str:
        """The text of one user turn with its pictures, up to where the answer starts.

        Where the question holds ``marker``, the pictures go there, else before it, as the template has them.

        Raises:
            QuestionError: the question is empty, holds a special token, or names more or fewer pictures than there are.
            BundleError: the template fails on this question.
        """
        marker, named = self.marker, question.count(self.marker)
        alone = question.replace(marker, " ")
        if not alone.strip():
            raise QuestionError(f"the question is empty: ask something about the {self._noun}")
        for token in self.facts.special_tokens:
            if token != marker and token in alone:
                role = "the image placeholder" if token == self.facts.image_token else "a special token of the model"
                raise QuestionError(f"the question holds {token!r}, {role}: leave it out")
        if named not in (0, pictures):
            raise QuestionError(
                f"the question names {marker} {named} {_times(named)} and there {_are(pictures, self._noun)}: name "
                "each once, or none"
            )
        if named:
            text = self._render(question.replace(marker, self.facts.image_text), 0)
        else:
            text = self._render(question, pictures)
        left, right = self.facts.wrap
        return text.replace(self.facts.image_token, f"{left}{self.facts.image_token}{right}")

    def encode(self, question: str, pictures: int = 1) -> EncodedPrompt:
        """The token ids of ``render``, split at the pictures.

        Raises:
            QuestionError: as ``render``.
            BundleError: as ``render``.
        """
        ids = self.tokenizer.encode(self.render(question, pictures)).ids  # as in Transformers, with special tokens
        places = [place for place, token_id in enumerate(ids) if token_id == self.facts.image_token_id]
        if len(places) != pictures:  # a tokenizer that normalises can read other spellings as the placeholder
            raise QuestionError(
                f"the question holds a text the tokenizer reads as {self.facts.image_token!r}, "
                "the image placeholder: leave it out"
            )
        edges = zip((-1, *places), (*places, len(ids)), strict=True)
        parts = tuple(tuple(ids[first + 1 : last]) for first, last in edges)
        words = " ".join(question.replace(self.marker, " ").split()) if self.marker in question else question
        alone = self.tokenizer.encode(words, add_special_tokens=False).ids
        clip_ids = () if self._clip_ids is None else self._clip_ids(words)
        return EncodedPrompt(parts, tuple(alone), clip_ids)

    def check_length(self, text_tokens: int, visual_tokens: int, new_tokens: int, pictures: int = 1) -> None:
        """Refuse a prompt and answer that do not fit the model's context.

        Args:
            text_tokens: tokens of the text around the pictures.
            visual_tokens: tokens the language model gets for the pictures.
            new_tokens: the most tokens the answer may have.
            pictures: how many there are.

        Raises:
            QuestionError: their sum exceeds ``facts.context``; the message says how to make it fit.
        """
        prompt, context = text_tokens + visual_tokens, self.facts.context
        if prompt + new_tokens <= context:
            return
        room = context - prompt
        shorten = f"shorten the question by {1 - room} tokens or more"
        remedy = f"ask for at most {room} new tokens" if room > 0 else shorten
        seen = self._noun + "s" * (pictures > 1)
        raise QuestionError(
            f"the question takes {text_tokens} tokens, the {seen} {visual_tokens} and the answer up to "
            f"{new_tokens}: {prompt + new_tokens} in all, above the model's context of {context}: {remedy}"
        )

    @property
    def _noun(self) -> str:
        return "video" if self.facts.medium == "video" else "picture"

    def _render(self, question: str, pictures: int) -> str:
        content = [{"type": self.facts.medium}] * pictures + [{"type": "text", "text": question}]
        specials = {"bos_token": self.facts.bos_token, "eos_token": self.facts.eos_token}
        try:
            return self._template.render(
                messages=[{"role": "user", "content": content}],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **{name: token for name, token in specials.items() if token is not None},
            )
        except Exception as error:  # a template is a program: it can fail with anything Python has
            raise BundleError(f"prompt: the chat template failed: {_reason(error)}") from error


def _times(count: int) -> str:
    return "time" if count == 1 else "times"


def _are(count: int, noun: str) -> str:
    return f"is 1 {noun}" if count == 1 else f"are {count} {noun}s"


class TextStream:
    """Turns token ids into text piece by piece, never inside a character; the pieces add up to ``text``.

    Every push decodes all ids anew, some microseconds per hundred of them. The incremental decoder of the
    tokenizers library raises an error where a model writes bytes that are no UTF-8.

    Args:
        tokenizer: the tokenizer of the ``Prompt``.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._text = ""
        self._pushed = 0  # characters of the text that were returned

    @property
    def text(self) -> str:
        """The text of all ids so far, as the tokenizer decodes them together, without special tokens."""
        return self._text

    def push(self, token_id: int) -> str:
        """Take one more token id; returns the text it completes, often empty."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        is_unchanged, self._text = text == self._text, text
        if is_unchanged or _BYTE.fullmatch(self._tokenizer.id_to_token(token_id) or ""):
            return ""  # a run of bytes is decoded as a whole: one bad byte changes the text of those before it
        return self._advance(len(text.rstrip(_REPLACEMENT)))

    def finish(self) -> str:
        """The rest of the text once no more ids follow: half a character becomes replacement characters."""
        return self._advance(len(self._text))

    def _advance(self, end: int) -> str:
        piece = self._text[self._pushed : end]
        self._pushed += len(piece)
        return piece


def read_tokenizer(path: Path) -> Tokenizer:
    """Open a bundle's tokenizer, without what it may say about cutting and padding.

    Raises:
        BundleError: it is missing or malformed.
    """
    if not path.is_file():
        raise BundleError(f"{path} is missing: export the bundle again")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise BundleError(f"{path} cannot be read as a tokenizer: {_reason(error)}") from error
    tokenizer.no_truncation()  # a stored limit would silently cut the question
    tokenizer.no_padding()
    return tokenizer


def _compile(template: str) -> jinja2.Template:
    """Compile a chat template in the sandbox and with the names that Transformers gives it."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _TemplateDict()
    environment.globals["namespace"] = _Namespace
    try:
        names = jinja2.meta.find_undeclared_variables(environment.parse(template)) & _NOT_CARRIED
        compiled = environment.from_string(template)
    except jinja2.TemplateError as error:
        raise BundleError(f"prompt: the chat template is malformed: {_reason(error)}") from error
    if names:
        raise BundleError(f"prompt: the chat template reads {sorted(names)}, which a bundle does not carry")
    return compiled


class _Generation(jinja2.ext.Extension):
    """Accepts ``{% generation %}``, which marks answers for training; what it holds is written as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The body between the tags, unchanged."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _TemplateDict:
    """``dict`` for templates without the type's own attributes, which lead out of the sandbox."""

    def __call__(self, *pairs: Any, **named: Any) -> dict[Any, Any]:
        return dict(*pairs, **named)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """As ``dict.fromkeys``."""
        return dict.fromkeys(keys, value)


class _Namespace(jinja2.utils.Namespace):
    """``namespace`` for templates that refuses names like ``__class__``, which lead out of the sandbox."""

    def __init__(*args: Any, **named: Any) -> None:
        self, pairs = args[0], args[1:]  # so that namespace(self=...) works, as in jinja2
        values = dict(*pairs, **named)
        for name in values:
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a chat template may not store {name!r} in a namespace")


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
