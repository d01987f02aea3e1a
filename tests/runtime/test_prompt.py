"""Our token ids against those of Transformers' processors, and streamed text against decoded text."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from edgeprune.bundle.prompt import PromptFacts
from edgeprune.errors import BundleError, QuestionError
from edgeprune.runtime.prompt import EncodedPrompt, Prompt, TextStream
from tests.conftest import MakeCheckpoint

transformers = pytest.importorskip("transformers")

SENTENCES = [
    "What is in this picture?",
    "USER: describe the image ASSISTANT: a small dog",
    "The cat, 你好 世界.",
]
QUESTIONS = [
    "What is in this picture?",
    "  two  spaces, and a trailing one ",
    "line\nbreak\ttab",
    "Où est le café? 你好，世界 😀👩‍👩‍👧",
    "{{ 7 * 7 }} {% raise %}",
    "<img> <not a token> [INST]",
]
LLAVA = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{# Render all text next #}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
WITH_BOS = (
    "{{ bos_token }}{%- for m in messages %}[INST] {% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text | trim }}{% endif %}{% endfor %}"
    " [/INST]{{ eos_token }}{%- endfor %}"
)
EVERY_FEATURE = """
{%- set seen = namespace(images=0, self=1) -%}
{%- set words = dict(a=1, b='é<&>') -%}
{% for m in messages %}
    {% for c in m['content'] %}
        {% if c['type'] == 'image' %}
            {% set seen.images = seen.images + 1 %}
<image>
            {% continue %}
        {% endif %}
{{ c['text'] }} | {{ words | tojson }} {{ words | tojson(indent=2, sort_keys=true) }} {{ seen.images }}
        {% break %}
    {% endfor %}
{% endfor %}
{% generation %}x{{ 1 }}{% endgeneration %}
{{ strftime_now('%') }}{% if tools is none and documents is none and not pad is defined %}none{% endif %}
{{ missing }}{% if add_generation_prompt %}go{% endif %}
"""


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = ["<unk>", "<s>", "</s>", "<image>"]
    tokenizer.train_from_iterator(SENTENCES, trainers.WordLevelTrainer(special_tokens=specials))
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def llama_style() -> Tokenizer:
    """Metaspace words with byte fallback, and a beginning token that the tokenizer itself adds."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    single_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    specials = ["<unk>", "<s>", "</s>", "<image>", *single_bytes]
    split_up = [piece for sentence in SENTENCES for piece in sentence.split()]
    tokenizer.train_from_iterator(
        split_up, trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    )
    stored = json.loads(tokenizer.to_str())  # single bytes are in the vocabulary, but are no added tokens
    stored["added_tokens"] = [token for token in stored["added_tokens"] if token["content"] not in single_bytes]
    tokenizer = Tokenizer.from_str(json.dumps(stored))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


MAKERS = {"words": word_level, "bytes": byte_level, "llama": llama_style}
TOKENIZERS = {name: make() for name, make in MAKERS.items()}


def facts(tokenizer: Tokenizer, template: str = LLAVA, **changes: Any) -> PromptFacts:
    values: dict[str, Any] = {
        "template": template,
        "medium": "image",
        "image_token": "<image>",
        "image_token_id": tokenizer.token_to_id("<image>"),
        "image_text": changes.get("image_token", "<image>"),
        "wrap": ("", ""),
        "bos_token": "<s>",
        "eos_token": "</s>",
        "eos_token_ids": (tokenizer.token_to_id("</s>"),),
        "context": 2048,
        "special_tokens": ("<s>", "</s>", "<image>"),
    }
    return PromptFacts(**{**values, **changes})


def stored(tokenizer: Tokenizer, folder: Path) -> Path:
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def reference(tokenizer: Any, template: str, question: str, pictures: int = 1) -> tuple[str, EncodedPrompt]:
    """The rendered text and the ids around the 576 placeholders of a picture that Transformers makes of a question.

    The template places the pictures, unless the question does.
    """
    if isinstance(tokenizer, Tokenizer):
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(tokenizer.to_str()), bos_token="<s>", eos_token="</s>"
        )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    content = [{"type": "image"}] * (0 if "<image>" in question else pictures) + [{"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    ids = processor(text=text, images=[Image.new("RGB", (8, 8))] * pictures)["input_ids"]
    ids = ids[0] if isinstance(ids[0], list) else ids
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    places = [place for place, token in enumerate(ids) if token == image_id]
    assert len(places) == pictures * 576
    edges = zip([-1, *places[575::576]], [*places[::576], len(ids)], strict=True)
    parts = tuple(tuple(ids[last + 1 : first]) for last, first in edges)
    words = " ".join(question.split("<image>")).split() if "<image>" in question else None
    alone = tokenizer(question if words is None else " ".join(words), add_special_tokens=False)["input_ids"]
    return text, EncodedPrompt(parts, tuple(alone))


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("template", [LLAVA, WITH_BOS, EVERY_FEATURE], ids=["llava", "bos", "features"])
@pytest.mark.parametrize("name", MAKERS)
def test_text_and_ids_are_those_of_transformers(tmp_path: Path, name: str, template: str, question: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompt = Prompt(facts(tokenizer, template), stored(tokenizer, tmp_path))
    text, encoded = reference(tokenizer, template, question)
    assert prompt.render(question) == text
    assert prompt.encode(question) == encoded


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_saved_llama_tokenizer(tmp_path: Path, question: str) -> None:
    model = json.loads(TOKENIZERS["llama"].to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    theirs = transformers.LlamaTokenizer(vocab=model["vocab"], merges=merges)
    theirs.add_special_tokens({"additional_special_tokens": ["<image>"]})
    theirs.save_pretrained(tmp_path)
    prompt = Prompt(facts(theirs.backend_tokenizer), tmp_path / "tokenizer.json")
    text, encoded = reference(theirs, LLAVA, question)
    assert prompt.render(question) == text
    assert prompt.encode(question) == encoded


SEVERAL = ["What do they show?", "Is it <image> or <image>?", "<image><image>Which one?", "<image>\nand <image>\n"]


@pytest.mark.parametrize("question", SEVERAL)
@pytest.mark.parametrize("template", [LLAVA, WITH_BOS, EVERY_FEATURE], ids=["llava", "bos", "features"])
@pytest.mark.parametrize("name", MAKERS)
def test_several_pictures_are_those_of_transformers(tmp_path: Path, name: str, template: str, question: str) -> None:
    """Before the question, as the template has them, or in the places that the question names."""
    tokenizer = TOKENIZERS[name]
    prompt = Prompt(facts(tokenizer, template), stored(tokenizer, tmp_path))
    text, encoded = reference(tokenizer, template, question, 2)
    assert prompt.render(question, 2) == text
    assert prompt.encode(question, 2) == encoded
    assert len(encoded.parts) == 3


FAMILIES = {
    "tiny-next": "image",
    "tiny-next-mistral": "image",
    "tiny-onevision": "image",
    "tiny-qwen2.5-vl": "image",
    "tiny-internvl": "image",
    "tiny-video": "video",
}


@pytest.mark.parametrize("question", ["What do they show?", "Is it [] or []?", "[] [] Which one?"])
@pytest.mark.parametrize("shape", FAMILIES)
def test_every_familys_template(make_checkpoint: MakeCheckpoint, shape: str, question: str) -> None:
    """Templates that write contents in their order place pictures as the question names them; others read the text."""
    from edgeprune.checkpoint.source import resolve
    from edgeprune.families.family import family_of, open_family

    folder, medium = make_checkpoint(shape), FAMILIES[shape]
    known = open_family(family_of(folder), resolve(str(folder)), medium).prompt()  # type: ignore[arg-type]
    prompt = Prompt(known, folder / "tokenizer.json")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pieces = question.split("[]")
    turn: list[dict[str, str]] = [{"type": "text", "text": pieces[0]}] if pieces[0] else []
    for piece in pieces[1:]:
        turn += [{"type": medium}, {"type": "text", "text": piece}]
    if len(pieces) == 1:
        turn = [{"type": medium}] * 2 + turn
    elif shape not in ("tiny-qwen2.5-vl", "tiny-internvl"):  # pictures come first in these, and text may hold them
        turn = [{"type": "text", "text": question.replace("[]", known.image_token)}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": turn}],
        chat_template=known.template,
        tokenize=False,
        add_generation_prompt=True,
    )
    left, right = known.wrap
    text = text.replace(known.image_token, f"{left}{known.image_token}{right}")
    asked = question.replace("[]", prompt.marker)
    assert prompt.render(asked, 2) == text
    ids: list[int] = []
    places = [-1]
    for token in tokenizer(text)["input_ids"]:
        if token == known.image_token_id:
            places.append(len(ids))
        ids.append(token)
    places.append(len(ids))
    parts = tuple(tuple(ids[one + 1 : two]) for one, two in itertools.pairwise(places))
    assert len(parts) == 3
    assert prompt.encode(asked, 2).parts == parts


def test_begins_with_bos_only_where_the_tokenizer_adds_it(tmp_path: Path) -> None:
    llama, words = TOKENIZERS["llama"], TOKENIZERS["words"]
    bos = llama.token_to_id("<s>")
    with_bos = Prompt(facts(llama), stored(llama, tmp_path)).encode("hi")
    assert with_bos.before[0] == bos
    assert bos not in with_bos.before[1:] + with_bos.after
    without = Prompt(facts(words), stored(words, tmp_path)).encode("hi")
    assert words.token_to_id("<s>") not in without.before
    assert with_bos.text_tokens == len(with_bos.before) + len(with_bos.after)


def test_a_stored_truncation_does_not_cut_the_question(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZERS["bytes"].to_str())
    path = stored(tokenizer, tmp_path)
    expected = Prompt(facts(tokenizer), path).encode("a long question " * 20)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=4096)
    assert Prompt(facts(tokenizer), stored(tokenizer, tmp_path)).encode("a long question " * 20) == expected


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=150)
@given(data=st.data())
def test_streamed_text_is_the_decoded_text(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    if data.draw(st.booleans()):
        ids = tokenizer.encode(data.draw(st.text("ab 你好😀é\nthe"))).ids
    else:  # what a model can emit is not always text: half characters, special tokens in between
        ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1)))
    stream = TextStream(tokenizer)
    pieces = [stream.push(token_id) for token_id in ids]
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    assert stream.text == expected
    assert "".join([*pieces, stream.finish()]) == expected
    assert stream.finish() == ""


@pytest.mark.parametrize("name", ["bytes", "llama"])
@pytest.mark.parametrize("text", ["a 😀 b", "龍龍 dog", "👩‍👩‍👧", "naïve ñ"])
def test_no_piece_ends_inside_a_character(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) > len(text.split())
    stream = TextStream(tokenizer)
    pieces = [stream.push(token_id) for token_id in ids] + [stream.finish()]
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_text_streams_before_it_ends() -> None:
    tokenizer = TOKENIZERS["bytes"]
    stream = TextStream(tokenizer)
    pieces = [stream.push(token_id) for token_id in tokenizer.encode("a small dog").ids]
    assert all(pieces)
    end = tokenizer.encode("</s>").ids
    assert [stream.push(token_id) for token_id in end] == [""]


@pytest.fixture
def prompt(tmp_path: Path) -> Prompt:
    tokenizer = TOKENIZERS["llama"]
    return Prompt(facts(tokenizer), stored(tokenizer, tmp_path))


@pytest.mark.parametrize("question", ["", "   ", "\n\t"])
def test_empty_question(prompt: Prompt, question: str) -> None:
    with pytest.raises(QuestionError, match="the question is empty"):
        prompt.encode(question)


@pytest.mark.parametrize(
    ("question", "pictures", "message"),
    [
        ("<image>?", 2, "names <image> 1 time and there are 2 pictures: name each once, or none"),
        ("<image><image>?", 1, "names <image> 2 times and there is 1 picture: name each once, or none"),
        ("<image><image><image>", 3, "the question is empty: ask something about the picture"),
    ],
)
def test_pictures_that_do_not_match_the_question(prompt: Prompt, question: str, pictures: int, message: str) -> None:
    with pytest.raises(QuestionError, match=message):
        prompt.encode(question, pictures)


def test_a_named_picture_is_no_part_of_the_question_alone(prompt: Prompt) -> None:
    plain = prompt.encode("Is it a cat or a dog ?", 2)
    named = prompt.encode("Is it <image> a cat or <image> a dog ?", 2)
    assert named.question == plain.question
    assert named.parts != plain.parts
    assert named.text_tokens == sum(map(len, named.parts))


@pytest.fixture
def filmed(tmp_path: Path) -> Prompt:
    """Of a model whose placeholder and marker are different words, with text around the placeholder."""
    tokenizer = Tokenizer.from_str(TOKENIZERS["llama"].to_str())
    tokenizer.add_special_tokens(["<pad_of_video>", "<open>", "<close>"])
    known = facts(
        tokenizer,
        LLAVA.replace("'image'", "'video'").replace("<image>", "<pad_of_video>"),
        medium="video",
        image_token="<pad_of_video>",
        image_token_id=tokenizer.token_to_id("<pad_of_video>"),
        image_text="<pad_of_video>;",
        wrap=("<open>", "<close>"),
        special_tokens=("<s>", "</s>", "<pad_of_video>", "<open>", "<close>"),
    )
    return Prompt(known, stored(tokenizer, tmp_path))


def test_a_video(filmed: Prompt) -> None:
    assert filmed.marker == "<video>"
    assert filmed.render("What?") == "USER: <open><pad_of_video><close>\nWhat? ASSISTANT:"
    assert filmed.render("In <video>, what?") == "USER: In <open><pad_of_video><close>;, what? ASSISTANT:"
    opened, closed = (filmed.tokenizer.token_to_id(token) for token in ("<open>", "<close>"))
    encoded = filmed.encode("In <video>, what?")
    assert (encoded.before[-1], encoded.after[0]) == (opened, closed)
    assert encoded.question == tuple(filmed.tokenizer.encode("In , what?", add_special_tokens=False).ids)


def test_errors_speak_of_the_video(filmed: Prompt) -> None:
    with pytest.raises(QuestionError, match="names <video> 2 times and there is 1 video: name each once"):
        filmed.encode("<video> <video> what?")
    with pytest.raises(QuestionError, match="the question is empty: ask something about the video"):
        filmed.encode("<video>")
    with pytest.raises(QuestionError, match="holds '<pad_of_video>', the image placeholder: leave it out"):
        filmed.encode("what is <pad_of_video>?")
    with pytest.raises(QuestionError, match="holds '<open>', a special token of the model"):
        filmed.encode("<open> sesame")
    with pytest.raises(QuestionError, match="takes 9 tokens, the video 3000 and the answer up to 1: 3010 in all"):
        filmed.check_length(9, 3000, 1)


def test_special_tokens_in_the_question(prompt: Prompt) -> None:
    with pytest.raises(QuestionError, match="holds '</s>', a special token of the model"):
        prompt.render("stop</s>")


def test_a_placeholder_only_the_tokenizer_sees(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(TOKENIZERS["words"].to_str())
    tokenizer.normalizer = normalizers.NFKC()
    raw = json.loads(tokenizer.to_str())
    for token in raw["added_tokens"]:
        token["normalized"] = True
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    with pytest.raises(QuestionError, match="the tokenizer reads as '<image>'"):
        Prompt(facts(tokenizer), stored(tokenizer, tmp_path)).encode("what is ＜image＞?")


def test_check_length(prompt: Prompt) -> None:
    prompt.check_length(text_tokens=1000, visual_tokens=576, new_tokens=472)
    with pytest.raises(
        QuestionError,
        match=r"takes 1000 tokens, the picture 576 and the answer up to 473: 2049 in all, above the model's "
        r"context of 2048: ask for at most 472 new tokens",
    ):
        prompt.check_length(1000, 576, 473)
    with pytest.raises(QuestionError, match="shorten the question by 5 tokens or more"):
        prompt.check_length(1476, 576, 10)
    prompt.check_length(1471, 576, 1)
    with pytest.raises(QuestionError, match="takes 10 tokens, the pictures 5184 and the answer up to 1"):
        prompt.check_length(10, 5184, 1, pictures=9)


def test_tokenizer_missing_or_unreadable(tmp_path: Path) -> None:
    known = facts(TOKENIZERS["llama"])
    with pytest.raises(BundleError, match=r"tokenizer\.json is missing"):
        Prompt(known, tmp_path / "tokenizer.json")
    path = tmp_path / "tokenizer.json"
    for text in ("", "{}", "not json", '{"version": "1.0"}'):
        path.write_text(text)
        with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read as a tokenizer"):
            Prompt(known, path)


def test_tokenizer_of_another_model(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["llama"]
    path = stored(tokenizer, tmp_path)
    with pytest.raises(BundleError, match=r"gives '<image>' id 3, expected 4$"):
        Prompt(facts(tokenizer, image_token_id=4), path)
    with pytest.raises(BundleError, match="gives '<picture>' id None"):
        Prompt(facts(tokenizer, image_token="<picture>", special_tokens=("<picture>",)), path)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "malformed: TemplateSyntaxError"),
        ("no picture", "writes '<image>' 0 times where there is 1 picture$"),
        ("{{ '<image>' }}", "writes '<image>' 1 time where there are 2 pictures$"),
        ("<image><image>", "writes '<image>' 2 times where there is 1 picture$"),
        (
            "<image>{{ raise_exception('roles must\nalternate') }}",
            "failed: TemplateError: roles must alternate",
        ),
        ("<image>{{ messages + 1 }}", "failed: TypeError"),
        ("<image>{{ pad_token }}", r"reads \['pad_token'\], which a bundle does not carry"),
        ("<image>{{ messages.append(1) }}", "failed: SecurityError"),
        ("<image>{{ ''.__class__.__mro__ }}", "failed: SecurityError"),
        ("<image>{% set n = namespace(__class__=1) %}", "failed: SecurityError"),
        ("<image>{% set n = namespace() %}{% set n.__class__ = 1 %}", "failed: SecurityError"),
        ("<image>{{ dict.__class__.__base__ }}", "failed: SecurityError"),
        ("<image>{{ range(10000000) }}", "failed: OverflowError"),
    ],
)
def test_templates_that_are_refused(tmp_path: Path, template: str, message: str) -> None:
    tokenizer = TOKENIZERS["llama"]
    with pytest.raises(BundleError, match=message) as caught:
        Prompt(facts(tokenizer, template), stored(tokenizer, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": ""}, "template='' is not a text"),
        ({"image_token": 3}, "image_token=3"),
        ({"medium": "sound"}, "medium='sound' is not 'image' or 'video'"),
        ({"image_text": "picture"}, "image_text='picture' is not a text with '<image>' in it, once"),
        ({"image_text": "<image> <image>"}, "image_text='<image> <image>' is not a text with"),
        ({"image_text": 3}, "image_text=3 is not a text with"),
        ({"wrap": ("<",)}, r"wrap=\('<',\) is not two texts"),
        ({"wrap": ("<", None)}, "wrap=.* is not two texts"),
        ({"image_token_id": -1}, "image_token_id=-1 is not an integer from 0"),
        ({"bos_token": ""}, "bos_token=''"),
        ({"eos_token_ids": ()}, r"eos_token_ids=\(\) is not one or more"),
        ({"eos_token_ids": (2.0,)}, r"eos_token_ids=\(2\.0,\)"),
        ({"context": 0}, "context=0 is not a positive integer"),
        ({"special_tokens": ("",)}, "special_tokens="),
        ({"special_tokens": ("<s>",)}, "with '<image>' among them"),
    ],
)
def test_facts_validate_themselves(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        facts(TOKENIZERS["llama"], **changes)
