"""Golden checks of the numpy reference: by hand, by published counts, and unpruned by Hugging Face."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.reference import llava, visiondrop
from tests.reference.llava import Array, Vision, Weights
from tests.reference.visiondrop import Stage

# --- tiny checkpoints ---------------------------------------------------------------------------------------


def tiny_config(side: int = 4, layers: int = 4, **text: Any) -> dict[str, Any]:
    """Describe a tiny LLaVA with side * side patches."""
    return {
        "text_config": {
            "model_type": "llama",
            "vocab_size": 50,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "rms_norm_eps": 1e-5,
            **text,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 12,
            "intermediate_size": 20,
            "projection_dim": 8,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 2 * side,
            "patch_size": 2,
        },
        "vision_feature_layer": -2,
        "image_token_index": 49,
        "image_seq_length": side * side,
    }


def linear(rng: np.random.Generator, name: str, rows: int, columns: int, bias: bool) -> dict[str, Array]:
    weight = rng.normal(size=(rows, columns)) / math.sqrt(columns)
    return {f"{name}.weight": weight, **({f"{name}.bias": rng.normal(size=rows)} if bias else {})}


def vision_tensors(rng: np.random.Generator, config: dict[str, Any]) -> dict[str, Array]:
    vision, root = config["vision_config"], "vision_tower.vision_model"
    width, inner, size = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    patches = config["image_seq_length"]
    out = {
        f"{root}.embeddings.class_embedding": rng.normal(size=width),
        f"{root}.embeddings.patch_embedding.weight": rng.normal(size=(width, 3, size, size)),
        f"{root}.embeddings.position_embedding.weight": rng.normal(size=(1 + patches, width)),
    }
    norms = [f"{root}.pre_layrnorm"]
    for at in (f"{root}.encoder.layers.{i}" for i in range(vision["num_hidden_layers"])):
        norms += [f"{at}.layer_norm1", f"{at}.layer_norm2"]
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            out |= linear(rng, f"{at}.self_attn.{name}", width, width, True)
        out |= linear(rng, f"{at}.mlp.fc1", inner, width, True)
        out |= linear(rng, f"{at}.mlp.fc2", width, inner, True)
    for norm in norms:
        out |= {f"{norm}.weight": rng.uniform(0.5, 1.5, width), f"{norm}.bias": rng.normal(size=width)}
    return out


def text_tensors(rng: np.random.Generator, config: dict[str, Any]) -> dict[str, Array]:
    text = config["text_config"]
    d, inner, vocab = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    kv = d * text.get("num_key_value_heads", 4) // text["num_attention_heads"]
    out = {"language_model.model.embed_tokens.weight": rng.normal(size=(vocab, d))}
    out |= linear(rng, "language_model.lm_head", vocab, d, False)
    out["language_model.model.norm.weight"] = rng.uniform(0.5, 1.5, d)
    for at in (f"language_model.model.layers.{i}" for i in range(text["num_hidden_layers"])):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"{at}.{norm}.weight"] = rng.uniform(0.5, 1.5, d)
        for name, rows in (("q_proj", d), ("k_proj", kv), ("v_proj", kv), ("o_proj", d)):
            out |= linear(rng, f"{at}.self_attn.{name}", rows, d, text.get("attention_bias", False))
        for name, rows, columns in (("gate_proj", inner, d), ("up_proj", inner, d), ("down_proj", d, inner)):
            out |= linear(rng, f"{at}.mlp.{name}", rows, columns, False)
    return out


def tiny_weights(config: dict[str, Any], seed: int = 0) -> tuple[Weights, Array]:
    """Make random weights under the legacy names, and an image."""
    rng = np.random.default_rng(seed)
    width, d = config["vision_config"]["hidden_size"], config["text_config"]["hidden_size"]
    tensors = vision_tensors(rng, config) | text_tensors(rng, config)
    tensors |= linear(rng, "multi_modal_projector.linear_1", d, width, True)
    tensors |= linear(rng, "multi_modal_projector.linear_2", d, d, True)
    side = config["vision_config"]["image_size"]
    return Weights(tensors, config), rng.normal(size=(1, 3, side, side))


# --- primitives by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remaining", "contextual", "expected"),
    [
        (535, 6, [0, 89, 178, 267, 356, 445]),
        (523, 10, list(range(0, 469, 52))),
        (18, 5, [0, 3, 6, 9, 12]),
        (13, 4, [0, 3, 6, 9]),
        (10, 3, [0, 3, 6]),
        (3, 3, [0, 1, 2]),
    ],
)
def test_references_are_a_uniform_stride(remaining: int, contextual: int, expected: list[int]) -> None:
    assert visiondrop.reference_positions(remaining, contextual) == expected


@pytest.mark.parametrize("contextual", [0, 4])
def test_merge_needs_one_row_for_each_reference(contextual: int) -> None:
    with pytest.raises(ValueError, match="contextual rows"):
        visiondrop.reference_positions(3, contextual)


def test_equal_keys_all_join_the_first_reference() -> None:
    x = np.random.default_rng(0).normal(size=(12, 5))
    keep = np.isin(np.arange(12), [2, 7])  # remaining 0 1 3 4 5 6 8 9 10 11: step 3, references 0, 4, 8
    fused, references = visiondrop.merge(x, np.ones((12, 3)), keep, 3)
    assert references.tolist() == [0, 4, 8]
    np.testing.assert_allclose(fused[0], x[0] + x[[1, 3, 5, 6, 9, 10, 11]].mean(axis=0))
    np.testing.assert_array_equal(fused[1:], x[[4, 8]])


def test_merge_adds_the_mean_of_the_rows_closest_in_angle() -> None:
    x = np.array([[1.0], [10.0], [20.0], [30.0], [2.0], [40.0], [50.0]])
    # Row 1 is dominant. Remaining 0 2 3 4 5 6, step 3: references 0 and 4. Long keys must not win.
    key = np.array([[1.0, 0], [9, 9], [5, 1], [0, 3], [0, 50], [2, 7], [100, 99]])
    fused, references = visiondrop.merge(x, key, np.arange(7) == 1, 2)
    assert references.tolist() == [0, 4]
    assert fused.tolist() == [[1 + (20 + 50) / 2], [2 + (30 + 40) / 2]]


def test_top_k_prefers_the_lower_position_and_is_ascending() -> None:
    assert visiondrop.top_k(np.array([1.0, 3, 2, 2, 5, 2]), 4).tolist() == [1, 2, 3, 4]


def test_encoder_stage_by_hand() -> None:
    features = 10.0 ** np.arange(6)[:, None]  # CLS is 1, patch p is 10**(p + 1)
    # Two heads. Sums over heads for the patches: 4, 1, 6, 2, 3. CLS has most, which must not matter.
    attention = np.array([[9.0, 4, 0, 1, 2, 0], [9, 0, 1, 5, 0, 3]])
    keys = np.zeros((2, 6, 2))
    keys[0, [2, 4, 5]] = [[2, 0], [0, 2], [0, 6]]  # the second head gives zeros: the mean halves
    out = visiondrop.encoder_stage(Vision(features, attention, keys + 1e-9), Stage(3, 2))
    assert out.scores.tolist() == [4, 1, 6, 2, 3]
    # Dominant: CLS and patches 0, 2 (rows 1, 3). Remaining 2 4 5, step 1: references 2, 4; row 5 joins 4.
    assert out.kept.tolist() == [0, 1, 3, 2, 4]
    assert out.rows.ravel().tolist() == [1, 10, 1000, 100, 10_000 + 100_000]


def test_uniform_attention_favours_early_rows() -> None:
    # One text row, two visual rows, zero queries: visual query i spreads evenly over i + 2 causal rows.
    scores = visiondrop.visual_scores(np.zeros((2, 4, 4)), np.ones((1, 4, 4)), np.array([1, 2]))
    np.testing.assert_allclose(scores, [(1 / 2 + 1 / 3) / 2, (0 + 1 / 3) / 2])


def test_softmax_domain_is_the_whole_row() -> None:
    """A softmax over visual columns only is a tempting shortcut, and ranks rows differently."""
    start, count = 5, 24
    other_choices = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        q, k = 2 * rng.normal(size=(4, 40, 8)), rng.normal(size=(2, 40, 8))
        scores = visiondrop.visual_scores(q, k, np.arange(start, start + count))
        visual = slice(start, start + count)
        shortcut = llava.causal_attention(q[:, visual], k[:, visual]).mean(axis=(0, 1))
        assert np.argsort(scores).tolist() != np.argsort(shortcut).tolist()
        other_choices += visiondrop.top_k(scores, 12).tolist() != visiondrop.top_k(shortcut, 12).tolist()
    assert other_choices >= 2


def test_rows_after_the_image_never_matter_for_scores() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(4, 20, 8)), rng.normal(size=(4, 20, 8))
    whole, short = (visiondrop.visual_scores(q[:, :n], k[:, :n], np.arange(3, 12)) for n in (20, 12))
    np.testing.assert_allclose(whole, short, rtol=1e-12)


# --- budgets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "counts", "stages"),
    [
        (192, [288, 211, 155, 114], [(252, 36), (184, 27), (135, 20), (99, 15)]),
        (128, [192, 141, 103, 76], [(168, 24), (123, 18), (90, 13), (66, 10)]),
        (64, [96, 70, 52, 38], [(84, 12), (61, 9), (45, 7), (33, 5)]),
        (32, [48, 35, 26, 19], [(42, 6), (30, 5), (22, 4), (16, 3)]),  # the published row
    ],
)
def test_budgets_of_llava_1_5(budget: int, counts: list[int], stages: list[tuple[int, int]]) -> None:
    assert visiondrop.visual_counts(budget, 32) == counts
    assert visiondrop.schedule_for(budget, 32) == stages
    assert sum(counts) == 4 * budget


@pytest.mark.parametrize(
    ("budget", "counts"),
    [(640, [960, 704, 517, 379]), (320, [480, 352, 258, 190]), (160, [240, 176, 129, 95])],
)
def test_budgets_of_llava_next(budget: int, counts: list[int]) -> None:
    assert visiondrop.visual_counts(budget, 32) == counts


def test_decay() -> None:
    assert visiondrop.decay([8, 8, 8, 8]) == pytest.approx(0.733624, abs=5e-7)
    assert visiondrop.decay([8, 8, 8, 8], first=3) == pytest.approx(0.25308, abs=5e-6)
    assert visiondrop.decay([1, 2]) == pytest.approx(0.5)  # 1.5 + 2 * 1.5 * rho = 3
    with pytest.raises(ValueError, match="no decay"):
        visiondrop.decay([2, 1])


def test_uneven_depth_still_averages_to_the_budget() -> None:
    spans = [5, 6, 5, 6]  # 22 layers cut at 5, 11, 16
    assert visiondrop.default_cuts(22) == (5, 11, 16)
    counts = visiondrop.visual_counts(64, 22)
    assert abs(sum(n * v for n, v in zip(spans, counts, strict=True)) / 22 - 64) <= 0.5


# --- the whole model ----------------------------------------------------------------------------------------

SCHEDULE = [Stage(9, 3), Stage(6, 2), Stage(4, 1), Stage(2, 1)]
BEFORE, AFTER = [1, 5, 9], [7, 3, 3, 8]


def test_published_lengths_and_positions() -> None:
    """Budget 64 with 35 text rows before the image and 63 in all: rows 159, 133, 115, 101."""
    w, image = tiny_weights(tiny_config(side=24, layers=8))
    state = visiondrop.prefill(w, image, [1] * 35, [2] * 28, visiondrop.schedule_for(64, 32))
    assert state.lengths == [159, 133, 115, 101]
    assert [len(kept) for kept in state.kept] == [96, 70, 52, 38]
    assert state.segments == [range(0, 2), range(2, 4), range(4, 6), range(6, 8)]
    assert state.cache_lengths == [159, 159, 133, 133, 115, 115, 101, 101]
    assert all(p.tolist() == list(range(n)) for p, n in zip(state.positions, state.lengths, strict=True))
    decoded = visiondrop.decode(w, state, [4, 6])
    assert decoded.positions.tolist() == [[159, 133, 115, 101], [160, 134, 116, 102]]
    assert state.cache_lengths == [161, 161, 135, 135, 117, 117, 103, 103]


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("schedule", [None, SCHEDULE])
def test_decoding_equals_a_longer_prompt(schedule: list[Stage] | None, kv_heads: int) -> None:
    """Scores see nothing after the image, so a token fed back must give what it gives at the prompt's end."""
    w, image = tiny_weights(tiny_config(num_key_value_heads=kv_heads))
    state = visiondrop.prefill(w, image, BEFORE, AFTER, schedule)
    decoded = visiondrop.decode(w, state, [11]).logits, visiondrop.decode(w, state, [12, 13]).logits
    for step, got in enumerate(np.concatenate(decoded)):
        longer = visiondrop.prefill(w, image, BEFORE, [*AFTER, 11, 12, 13][: len(AFTER) + step + 1], schedule)
        assert all(np.array_equal(a, b) for a, b in zip(state.kept, longer.kept, strict=True))
        np.testing.assert_allclose(got, longer.logits, rtol=1e-9, atol=1e-12)


def test_decoder_stage_equals_a_plain_computation() -> None:
    """One query head at a time, one row at a time, with the next layer's norm and projections."""
    w, _ = tiny_weights(tiny_config(num_key_value_heads=2))
    h = np.random.default_rng(3).normal(size=(34, 16))
    out = visiondrop.decoder_stage(w, 2, h, np.arange(34), np.arange(3, 31), Stage(4, 3))
    normed = h / np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-5)
    normed = normed * w["text.layers.2.input_layernorm.weight"]
    q = normed @ w["text.layers.2.self_attn.q_proj.weight"].T
    k = normed @ w["text.layers.2.self_attn.k_proj.weight"].T
    turn = np.exp(1j * np.arange(34)[:, None] * np.array([1.0, 10000.0**-0.5]))

    def rotated(x: Array, head: int) -> Array:  # the halves of a head are the real and imaginary parts
        z = (x[:, 4 * head : 4 * head + 2] + 1j * x[:, 4 * head + 2 : 4 * head + 4]) * turn
        return np.concatenate([z.real, z.imag], axis=1)

    scores = np.zeros(28)
    for head in range(4):
        for row in range(3, 31):
            logits = rotated(k, head // 2)[: row + 1] @ rotated(q, head)[row] / 2
            weights = np.exp(logits) / np.exp(logits).sum()
            scores[: row - 2] += weights[3:] / 4 / 28
    np.testing.assert_allclose(out.scores, scores, rtol=1e-10)
    key = (rotated(k, 0) + rotated(k, 1))[3:31] / 2
    dominants = sorted(np.argsort(-scores)[:4].tolist())
    fused, references = visiondrop.merge(h[3:31], key, np.isin(np.arange(28), dominants), 3)
    assert out.kept.tolist() == [*dominants, *references.tolist()]
    np.testing.assert_allclose(out.rows, np.concatenate([h[3:31][dominants], fused]), rtol=1e-10)


def test_the_layer_after_the_cut_scores_with_the_positions_before_it() -> None:
    w, image = tiny_weights(tiny_config(layers=8))
    state = visiondrop.prefill(w, image, BEFORE, AFTER, SCHEDULE)
    ids, visual = [llava.embed(w, i) for i in (BEFORE, AFTER)], llava.project(w, state.stages[0].rows)
    for g, rows in enumerate([19, 15, 12]):  # 7 text rows and 12, 8, 5 visual ones
        h = np.concatenate([ids[0], visual, ids[1]])
        h = llava.decoder_layers(w, range(2 * g, 2 * g + 2), h, np.arange(rows), [None] * 8)
        stage = visiondrop.decoder_stage(w, 2 * g + 2, h, np.arange(rows), np.arange(3, rows - 4), SCHEDULE[g + 1])
        np.testing.assert_allclose(state.stages[g + 1].scores, stage.scores, rtol=1e-10)
        np.testing.assert_allclose(state.stages[g + 1].rows, stage.rows, rtol=1e-10)
        ids, visual = [h[:3], h[-4:]], stage.rows


def test_stages_that_keep_every_row_change_nothing() -> None:
    w, image = tiny_weights(tiny_config())
    first = Stage(9, 3)
    only = visiondrop.prefill(w, image, BEFORE, AFTER, [first], cuts=())
    state = visiondrop.prefill(w, image, BEFORE, AFTER, [first, *[Stage(12, 0)] * 3])
    np.testing.assert_allclose(state.logits, only.logits, rtol=1e-10, atol=1e-12)
    other = visiondrop.prefill(w, image, BEFORE, AFTER, SCHEDULE)
    assert not np.allclose(other.logits, only.logits, rtol=1e-3)


def test_float32_stays_float32_and_agrees() -> None:
    config = tiny_config()
    w, image = tiny_weights(config)
    names = {n.replace("vision.", "vision_tower."): t for n, t in w._tensors.items()}
    names = {n.replace("projector.", "multi_modal_projector."): t for n, t in names.items()}
    names = {n.replace("text.", "model.language_model."): t for n, t in names.items()}
    single = visiondrop.prefill(Weights(names, config, np.float32), image, BEFORE, AFTER, SCHEDULE)
    double = visiondrop.prefill(w, image, BEFORE, AFTER, SCHEDULE)
    assert single.logits.dtype == np.float32
    np.testing.assert_allclose(single.logits, double.logits, rtol=1e-3, atol=1e-4)


# --- against Hugging Face, nothing pruned -------------------------------------------------------------------

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # with base 500 and heads of 8 the wavelengths are 6 (kept), 30 (interpolated), 140 and 664 (divided)


def hugging_face_model(config: dict[str, Any], seed: int = 0) -> Any:
    """Build the Hugging Face model of a configuration, with parameters far from their tidy defaults."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    whole = transformers.LlavaConfig(**config, attn_implementation="eager")
    model = transformers.LlavaForConditionalGeneration(whole).double().eval()
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        spread = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.3
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = torch.from_numpy(rng.normal(centre, spread, tuple(parameter.shape)))
    return model


@pytest.mark.parametrize("spelling", ["config.json as given", "as transformers writes it"])
@pytest.mark.parametrize(
    ("text", "other"),
    [
        ({}, {}),
        ({"num_attention_heads": 4, "num_key_value_heads": 2}, {"tie_word_embeddings": True}),
        ({"num_key_value_heads": 1, "rope_theta": 500.0, "rope_scaling": LLAMA3}, {}),
        ({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.5}}, {}),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0}}, {}),
        ({"attention_bias": True, "num_key_value_heads": 1}, {"vision_feature_layer": -1}),
    ],
    ids=["plain", "grouped-tied", "llama3", "linear", "linear-new", "biases"],
)
def test_unpruned_equals_hugging_face(text: dict[str, Any], other: dict[str, Any], spelling: str) -> None:
    config = tiny_config(**{"num_attention_heads": 2, **text}) | other
    config["vision_config"]["hidden_act"] = "gelu" if "rope_theta" in text else "quick_gelu"
    model = hugging_face_model(config)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    w = Weights(tensors, config if spelling == "config.json as given" else model.config.to_dict())
    image = np.random.default_rng(1).normal(size=(1, 3, 8, 8))
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[*BEFORE, *[49] * 16, *AFTER]])
    with torch.no_grad():
        theirs = model(input_ids=ids, pixel_values=torch.from_numpy(image)).logits[0].numpy()
    ours = llava.forward(w, image, BEFORE, AFTER)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    last = visiondrop.prefill(w, image, BEFORE, AFTER, None).logits
    np.testing.assert_allclose(last, ours[-1], rtol=1e-10, atol=1e-12)


def test_vision_attention_and_keys_are_those_of_the_selected_layer() -> None:
    """The selected feature of three layers is the second one's output: so its attention and its keys."""
    config = tiny_config()
    model = hugging_face_model(config)
    w = Weights({name: tensor.numpy() for name, tensor in model.state_dict().items()}, config)
    image = np.random.default_rng(1).normal(size=(1, 3, 8, 8))
    torch = pytest.importorskip("torch")
    projected: list[Array] = []
    for name, module in model.model.vision_tower.named_modules():
        if name.endswith("layers.1.self_attn.k_proj"):
            module.register_forward_hook(lambda _, __, out: projected.append(out[0].numpy()))
    with torch.no_grad():
        flags = {"output_hidden_states": True, "output_attentions": True}
        theirs = model.model.vision_tower(torch.from_numpy(image), **flags)
    ours = llava.vision_tower(w, image)
    np.testing.assert_allclose(ours.features, theirs.hidden_states[-2][0].numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.cls_attention, theirs.attentions[1][0, :, 0].numpy(), rtol=1e-4)
    np.testing.assert_allclose(llava.join_heads(ours.keys), projected[0], rtol=1e-4, atol=1e-6)
