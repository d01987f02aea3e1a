"""Tokenizer, prompt and image facts are what transformers does with the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeprune.bundle.image import ImageProcessing
from edgeprune.bundle.prompt import PromptFacts
from edgeprune.checkpoint.config import read_config
from edgeprune.checkpoint.facts import tokenizer_files
from edgeprune.checkpoint.image import fixed, read_settings
from edgeprune.checkpoint.prompt import LLAVA_TEMPLATE
from edgeprune.checkpoint.source import Source, resolve
from edgeprune.errors import CheckpointError, UnsupportedModel
from edgeprune.families.family import open_family
from tests.checkpoint.change import change
from tools.random_checkpoint import CHAT_TEMPLATE, write_checkpoint

QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Source:
    """The tiny checkpoint."""
    return resolve(str(write_checkpoint("tiny", tmp_path / "tiny")))


def _prompt(checkpoint: Source) -> PromptFacts:
    return open_family("llava", checkpoint, "image").prompt()


def _image(checkpoint: Source) -> ImageProcessing:
    return fixed(read_settings(checkpoint.path, ("CLIPImageProcessor", "LlavaImageProcessor")))


def test_tokenizer_is_taken_byte_by_byte(checkpoint: Source) -> None:
    path = checkpoint.path / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n\n")
    assert tokenizer_files(checkpoint) == {"tokenizer.json": path.read_bytes()}


def test_tokenizer_of_older_files_is_converted(checkpoint: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers
    from tokenizers import Tokenizer

    # For a LLaVA, AutoTokenizer converts tokenizer.model only, which needs sentencepiece.
    monkeypatch.setattr(transformers, "AutoTokenizer", transformers.Qwen2Tokenizer)
    (checkpoint.path / "tokenizer.json").unlink()
    pieces = ["<unk>", "h", "i", "hi", "<|endoftext|>"]
    (checkpoint.path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (checkpoint.path / "merges.txt").write_text("#version: 0.2\nh i\n")
    files = tokenizer_files(checkpoint)
    assert list(files) == ["tokenizer.json"]
    assert Tokenizer.from_buffer(files["tokenizer.json"]).encode("hi").ids == [3]


def test_a_tokenizer_without_a_fast_form(checkpoint: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    class Slow:
        @staticmethod
        def from_pretrained(*_arguments: object, **_options: object) -> Slow:
            return Slow()

    monkeypatch.setattr(transformers, "AutoTokenizer", Slow)
    (checkpoint.path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"Slow has no tokenizer\.json form"):
        tokenizer_files(checkpoint)


def test_no_tokenizer(checkpoint: Source) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint.path / name).unlink()
    with pytest.raises(CheckpointError, match="no usable tokenizer") as caught:
        tokenizer_files(checkpoint)
    assert "\n" not in str(caught.value)


def test_prompt_facts(checkpoint: Source) -> None:
    assert _prompt(checkpoint) == PromptFacts(
        template=CHAT_TEMPLATE,
        medium="image",
        image_token="<image>",
        image_token_id=94,
        image_text="<image>",
        wrap=("", ""),
        bos_token="<s>",
        eos_token="</s>",
        eos_token_ids=(2,),
        context=512,
        special_tokens=("<s>", "</s>", "<unk>", "<pad>", "<image>"),
    )


@pytest.mark.parametrize("file", ["chat_template.json", "chat_template.jinja", "tokenizer_config.json", "none"])
def test_template_wherever_it_lies(checkpoint: Source, file: str) -> None:
    (checkpoint.path / "chat_template.json").unlink()
    template = "{{ 'Look: <image>' }}"
    if file == "chat_template.json":
        (checkpoint.path / file).write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    elif file == "chat_template.jinja":
        (checkpoint.path / file).write_text(template, encoding="utf-8")
    elif file == "tokenizer_config.json":
        change(checkpoint.path, file, chat_template=template)
    assert _prompt(checkpoint).template == (LLAVA_TEMPLATE if file == "none" else template)


def test_a_template_of_the_bare_language_model_is_passed_over(checkpoint: Source) -> None:
    (checkpoint.path / "chat_template.json").unlink()
    change(checkpoint.path, "tokenizer_config.json", chat_template="{{ messages[0]['content'] }}")
    assert _prompt(checkpoint).template == LLAVA_TEMPLATE


def test_the_default_template_writes_what_llava_hf_does(checkpoint: Source) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint.path)
    reply = [{"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]
    for talk in (
        QUESTION,
        QUESTION + reply + [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}],
    ):
        texts = {
            processor.apply_chat_template(talk, chat_template=template, add_generation_prompt=True)
            for template in (CHAT_TEMPLATE, LLAVA_TEMPLATE)
        }
        assert len(texts) == 1
        assert texts.pop().startswith("USER: <image>\nWhat is it? ASSISTANT:")


def test_a_qwen2_decoder_gets_no_guessed_template(tmp_path: Path) -> None:
    checkpoint = resolve(str(write_checkpoint("tiny-qwen2", tmp_path)))
    assert _prompt(checkpoint).template == CHAT_TEMPLATE
    (tmp_path / "chat_template.json").unlink()
    with pytest.raises(CheckpointError, match="has no chat template with '<image>'"):
        _prompt(checkpoint)


def test_ends_of_an_answer(checkpoint: Source) -> None:
    change(checkpoint.path, "generation_config.json", eos_token_id=[2, 7])
    assert _prompt(checkpoint).eos_token_ids == (2, 7)
    change(checkpoint.path, "generation_config.json", eos_token_id=None)
    assert _prompt(checkpoint).eos_token_ids == (2,)  # the tokenizer's
    (checkpoint.path / "generation_config.json").write_text("[", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"generation_config\.json is not a JSON object"):
        _prompt(checkpoint)
    (checkpoint.path / "generation_config.json").unlink()
    assert _prompt(checkpoint).eos_token_ids == (2,)
    change(checkpoint.path, "tokenizer_config.json", eos_token=None)
    with pytest.raises(CheckpointError, match="has eos_token_id"):
        _prompt(checkpoint)


def test_an_end_that_is_no_id(checkpoint: Source) -> None:
    change(checkpoint.path, "generation_config.json", eos_token_id="</s>")
    with pytest.raises(CheckpointError, match="eos_token_ids"):
        _prompt(checkpoint)


def test_an_image_token_with_two_ids(checkpoint: Source) -> None:
    change(checkpoint.path, "config.json", image_token_index=7)
    with pytest.raises(CheckpointError, match=r"gives '<image>' the id 94, .* the id 7"):
        _prompt(checkpoint)


def test_damaged_processor_files(checkpoint: Source) -> None:
    (checkpoint.path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no usable tokenizer"):
        _prompt(checkpoint)
    (checkpoint.path / "preprocessor_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is not a JSON object"):
        _image(checkpoint)
    (checkpoint.path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no preprocessor_config\.json"):
        _image(checkpoint)


def test_image_processing(checkpoint: Source) -> None:
    size = read_config(checkpoint.path).vision.image_size
    expected = ImageProcessing(
        kind="fixed",
        resize_shortest=size,
        resize_exact=None,
        crop=(size, size),
        resample=3,
        rescale=1 / 255,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    )
    assert _image(checkpoint) == expected


def test_image_processing_as_newer_transformers_save_it(checkpoint: Source, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    AutoProcessor.from_pretrained(checkpoint.path).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_bytes((checkpoint.path / "config.json").read_bytes())
    saved = Source(path=tmp_path / "saved", id="saved", revision=None)
    (saved.path / "model.safetensors").write_bytes((checkpoint.path / "model.safetensors").read_bytes())
    assert _image(saved) == _image(checkpoint)
    assert _prompt(saved) == _prompt(checkpoint)


def test_steps_that_are_left_out(checkpoint: Source) -> None:
    file = "preprocessor_config.json"
    change(checkpoint.path, file, size={"height": 30, "width": 40}, do_center_crop=False)
    found = _image(checkpoint)
    assert (found.resize_shortest, found.resize_exact, found.crop) == (None, (30, 40), None)
    change(checkpoint.path, file, do_resize=False, do_center_crop=True, do_rescale=False, do_normalize=False)
    found = _image(checkpoint)
    assert (found.resize_shortest, found.resize_exact) == (None, None)
    assert (found.rescale, found.mean, found.std) == (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"size": {"longest_edge": 56}}, UnsupportedModel, "size = {'longest_edge': 56} is not supported"),
        ({"image_processor_type": "ViTImageProcessor"}, UnsupportedModel, "image_processor_type = 'ViT"),
        ({"image_std": [0.0, 0.5, 0.5]}, CheckpointError, "std"),
        ({"do_center_crop": False}, CheckpointError, "fix the size"),
        ({"image_mean": [0.5]}, CheckpointError, "unpack"),
    ],
)
def test_images_that_cannot_be_prepared(
    checkpoint: Source, values: dict[str, Any], error: type[CheckpointError], message: str
) -> None:
    change(checkpoint.path, "preprocessor_config.json", **values)
    with pytest.raises(error, match=message) as caught:
        _image(checkpoint)
    assert "preprocessor_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_padding_to_a_square_is_refused(checkpoint: Source) -> None:
    change(checkpoint.path, "preprocessor_config.json", image_processor_type="LlavaImageProcessor", do_pad=True)
    with pytest.raises(UnsupportedModel, match="do_pad = true"):
        _image(checkpoint)


def test_nothing_of_transformers_leaks(checkpoint: Source, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    capfd.readouterr()
    before = logging.get_verbosity()
    _prompt(checkpoint)
    _image(checkpoint)
    tokenizer_files(checkpoint)
    assert logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")
