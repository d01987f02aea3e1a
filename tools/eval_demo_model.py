"""Measure the demo model on held-out scenes through Hugging Face's own classes: a table, and one line of JSON.

    python -m tools.eval_demo_model edgeprune/demo/checkpoint --scenes 300

A question counts as right when every token of its answer, the end included, is the model's first choice. Budgets
hand fewer visual rows to the decoder, in ascending order and numbered anew: ``random-K`` at random, ``cls-K`` by
the class row's attention in the layer LLaVA reads. Knows nothing of how the model was trained.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from edgeprune.demo.questions import KINDS, Question
from edgeprune.demo.scenes import HELD_OUT_SEED, Scene, draw_scene

BUDGETS = ("all", "random-32", "cls-192", "cls-64", "cls-32")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's model and processor."""

    model: Any
    processor: Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--first", type=int, default=HELD_OUT_SEED, help="seed of the first scene")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS, help="all, random-K or cls-K")
    parser.add_argument("--generate", type=int, default=0, metavar="N", help="also run generate() on N scenes")
    options = parser.parse_args()
    if options.first < HELD_OUT_SEED:
        parser.error(f"seeds below {HELD_OUT_SEED} were trained on")
    loaded = load(options.checkpoint)
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    draws = torch.Generator().manual_seed(0)
    torch.set_grad_enabled(False)
    for seed in tqdm(range(options.first, options.first + options.scenes), desc="scenes"):
        scene = draw_scene(seed)
        for budget, verdicts in judge(loaded, scene, options.budgets, draws).items():
            for question, verdict in zip(scene.questions, verdicts, strict=True):
                right[budget, question.kind].append(verdict)
    result: dict[str, Any] = {"scenes": options.scenes, "first_seed": options.first}
    result |= summary(right, options.budgets)
    if options.generate:
        result["generate"] = generated(loaded, options.first, options.generate)
    print(json.dumps(result))


def load(checkpoint: Path) -> Loaded:
    """Load in fp32."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return Loaded(model, AutoProcessor.from_pretrained(checkpoint))


def judge(loaded: Loaded, scene: Scene, budgets: tuple[str, ...], draws: torch.Generator) -> dict[str, list[bool]]:
    """For each budget, whether each question of the scene is answered right."""
    pixels = loaded.processor.image_processor(scene.image, return_tensors="pt")["pixel_values"]
    patches, attention = encode(loaded.model, pixels)
    rows = loaded.model.model.multi_modal_projector(patches)[0]  # [N, D]
    verdicts = {}
    for budget in budgets:
        name, _, number = budget.partition("-")
        if name == "all":
            kept = rows
        else:
            score = attention[0] if name == "cls" else torch.rand(rows.shape[0], generator=draws)
            kept = rows[score.topk(int(number)).indices.sort().values]
        verdicts[budget] = answered(loaded, kept, scene.questions)
    return verdicts


def encode(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch features [B, N, Dv] of the layer LLaVA reads and the class row's attention [B, N] in that layer."""
    tower = model.model.vision_tower
    tower = getattr(tower, "vision_model", tower)
    states = tower(pixels, output_hidden_states=True).hidden_states
    which = model.config.vision_feature_layer
    which = which if which >= 0 else len(states) + which  # states[0] is the embedding
    layer = tower.encoder.layers[which - 1]
    x = layer.layer_norm1(states[which - 1])
    heads = layer.self_attn.num_heads
    b, n, d = x.shape
    q = layer.self_attn.q_proj(x[:, :1]).view(b, 1, heads, d // heads).transpose(1, 2)
    k = layer.self_attn.k_proj(x).view(b, n, heads, d // heads).transpose(1, 2)
    attention = (q @ k.transpose(2, 3) / math.sqrt(d // heads)).softmax(-1).mean(1)[:, 0, 1:]
    return states[which][:, 1:], attention


def prompt(loaded: Loaded, text: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": text}]
    rendered: str = loaded.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return rendered


def answered(loaded: Loaded, rows: torch.Tensor, questions: tuple[Question, ...]) -> list[bool]:
    """Whether the greedy answer to each question, given decoder rows [K, D], is the right one.

    One pass over prompt and right answer: greedy decoding gives that answer exactly when each of its tokens is the
    first choice after those before it.
    """
    tokenizer, language = loaded.processor.tokenizer, loaded.model.model.language_model
    image, end = loaded.model.config.image_token_id, tokenizer.eos_token_id
    before: list[int] = []
    sequences, answers = [], []
    for question in questions:
        ids = tokenizer(prompt(loaded, question.text))["input_ids"]
        answer = [*tokenizer(question.answer, add_special_tokens=False)["input_ids"], end]
        before = ids[: ids.index(image)]
        sequences.append(language.embed_tokens(torch.tensor([*ids[len(before) + 1 :], *answer])))
        answers.append(answer)
    # All questions begin alike, up to the picture: that part runs once.
    shared = torch.cat((language.embed_tokens(torch.tensor(before)), rows))[None]
    cache = language(inputs_embeds=shared, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(questions))
    # Padding comes after the answer, where a causal model does not see it.
    batch = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    hidden = language(inputs_embeds=batch, past_key_values=cache, use_cache=True).last_hidden_state
    verdicts = []
    for state, sequence, answer in zip(hidden, sequences, answers, strict=True):
        last = sequence.shape[0] - 1
        choice = loaded.model.lm_head(state[last - len(answer) : last]).argmax(-1)
        verdicts.append(choice.tolist() == answer)
    return verdicts


def summary(right: dict[tuple[str, str], list[bool]], budgets: tuple[str, ...]) -> dict[str, Any]:
    """Print the table; return it."""
    kinds = [kind for kind in KINDS if (budgets[0], kind) in right]
    print(" " * 12 + "".join(f"{kind:>12}" for kind in kinds))
    table: dict[str, dict[str, float]] = {}
    for budget in budgets:
        table[budget] = {kind: 100 * sum(r) / len(r) for kind in kinds if (r := right[budget, kind])}
        print(f"{budget:<12}" + "".join(f"{table[budget][kind]:>10.1f} %" for kind in kinds))
    counts = {kind: len(right[budgets[0], kind]) for kind in kinds}
    print(f"{'questions':<12}" + "".join(f"{counts[kind]:>12}" for kind in kinds))
    rounded = {budget: {kind: round(v, 2) for kind, v in row.items()} for budget, row in table.items()}
    return {"questions": counts, "percent_right": rounded}


def generated(loaded: Loaded, first: int, scenes: int) -> dict[str, int]:
    """Ask through the processor and ``generate``, one question at a time."""
    asked = right = 0
    for seed in range(first, first + scenes):
        scene = draw_scene(seed)
        for question in scene.questions:
            inputs = loaded.processor(images=scene.image, text=prompt(loaded, question.text), return_tensors="pt")
            output = loaded.model.generate(**inputs, max_new_tokens=8, do_sample=False)
            text = loaded.processor.tokenizer.decode(
                output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            asked += 1
            right += text.strip() == question.answer
    return {"asked": asked, "right": right}


if __name__ == "__main__":
    main()
