"""The demo model, built from a configuration with an initialisation that suits its width, and its lean forwards.

The parameters are those of Hugging Face's ``LlavaForConditionalGeneration``, so a trained model saves and loads
there as it is. The forwards here skip what training does not need: the last encoder layer (LLaVA reads the one
before) and every vocabulary row that no loss reads. Positions of the encoder are given, so windows of the picture
train too. Knows nothing of data or losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 128
VISION_LAYERS, VISION_HEADS, VISION_FFN = 5, 4, 512
READ_LAYERS = VISION_LAYERS - 1  # vision_feature_layer = -2
DECODER_LAYERS, DECODER_HEADS, DECODER_FFN = 8, 4, 352
IMAGE, PATCH = 336, 14
GRID = IMAGE // PATCH
CONTEXT = 2048


@dataclass(frozen=True)
class Seen:
    """What the encoder gives for B pictures of N patches."""

    rows: torch.Tensor  # [B, 1 + N, D], class row first
    early: torch.Tensor  # [B, N, D], after two layers
    cls_attention: torch.Tensor  # [B, N], of the layer that LLaVA reads, mean over heads
    key: torch.Tensor  # [B, 1 + N, d], that layer's keys, mean over heads


@dataclass(frozen=True)
class Rows:
    """A decoder layer's input: hidden [B, S, D], positions [B, S], additive mask [B, 1, S, S]."""

    hidden: torch.Tensor
    position: torch.Tensor
    mask: torch.Tensor


def build(vocabulary: int, image_token: int, pad: int, bos: int, eos: int, seed: int) -> Any:
    """Make a ``LlavaForConditionalGeneration`` with fresh weights."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=VISION_FFN,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=IMAGE,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=DECODER_FFN,
        num_hidden_layers=DECODER_LAYERS,
        num_attention_heads=DECODER_HEADS,
        num_key_value_heads=DECODER_HEADS,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).float()
    initialise(model)
    return model


def initialise(model: Any) -> None:
    """Give each linear the scale of its fan-in, quieter where it writes to the residual stream.

    Hugging Face's CLIP initialisation is far too small at this width.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = 1 / math.sqrt(module.in_features)
            if name.endswith(("out_proj", "fc2", "o_proj", "down_proj")):
                std /= math.sqrt(2 * (VISION_LAYERS if "vision" in name else DECODER_LAYERS))
            module.weight.data.normal_(0, std)
            if module.bias is not None:
                module.bias.data.zero_()
    embeddings = tower(model).embeddings
    patch = embeddings.patch_embedding.weight
    patch.data.normal_(0, 1 / math.sqrt(patch[0].numel()))
    embeddings.class_embedding.data.normal_(0, 0.5)
    embeddings.position_embedding.weight.data.copy_(_sincos(GRID, WIDTH, 0.5))
    model.model.language_model.embed_tokens.weight.data.normal_(0, 0.5)


def _sincos(grid: int, width: int, amplitude: float) -> torch.Tensor:
    """The class position (zeros) and 2-D sines and cosines, [1 + grid * grid, width]."""
    quarter = width // 4
    rate = 1 / 10.0 ** (2 * torch.arange(quarter) / quarter)
    angle = torch.arange(grid)[:, None] * rate * 0.8
    wave = torch.cat((angle.sin(), angle.cos()), dim=1)  # [grid, width / 2]
    rows, cols = wave[:, None].expand(-1, grid, -1), wave[None].expand(grid, -1, -1)
    table = torch.cat((rows, cols), dim=-1).reshape(grid * grid, width)
    return torch.cat((torch.zeros(1, width), table)) * amplitude


def tower(model: Any) -> Any:
    """The CLIP encoder, wherever this transformers release keeps it."""
    vision = model.model.vision_tower
    return getattr(vision, "vision_model", vision)


def see(model: Any, patches: torch.Tensor, position: torch.Tensor) -> Seen:
    """Encode patches [B, N, 3 * 14 * 14] that lie at ``position`` [B, N] of the 24 x 24 table."""
    vision = tower(model)
    embeddings = vision.embeddings
    table = embeddings.position_embedding.weight
    x = F.linear(patches, embeddings.patch_embedding.weight.flatten(1)) + F.embedding(position + 1, table)
    cls = (embeddings.class_embedding + table[0]).expand(x.shape[0], 1, -1)
    x = vision.pre_layrnorm(torch.cat((cls, x), dim=1))
    early = x
    attention = mean_key = torch.empty(0)
    for index, layer in enumerate(vision.encoder.layers[:READ_LAYERS]):
        own = layer.self_attn
        h = layer.layer_norm1(x)
        q, k, v = (heads(p(h), VISION_HEADS) for p in (own.q_proj, own.k_proj, own.v_proj))
        if index == READ_LAYERS - 1:
            with torch.no_grad():
                logits = (q[:, :, :1] @ k.transpose(2, 3)) / math.sqrt(q.shape[-1])
                attention, mean_key = logits.softmax(-1).mean(1)[:, 0, 1:], k.mean(1)
        x = x + own.out_proj(_joined(F.scaled_dot_product_attention(q, k, v)))
        x = x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.layer_norm2(x))))
        if index == 1:
            early = x[:, 1:]
    return Seen(x, early, attention, mean_key)


def project(model: Any, rows: torch.Tensor) -> torch.Tensor:
    """Encoder rows [B, V, D] to decoder rows [B, V, D]."""
    projector = model.model.multi_modal_projector
    projected: torch.Tensor = projector.linear_2(F.gelu(projector.linear_1(rows)))
    return projected


def decode(model: Any, rows: Rows, before: Callable[[int, Any, Rows], Rows]) -> torch.Tensor:
    """Run the decoder; ``before`` sees every layer's number, module and input, and may take rows away."""
    language = model.model.language_model
    for index, layer in enumerate(language.layers):
        rows = before(index, layer, rows)
        x = rows.hidden
        cos, sin = rotation(rows.position)
        own = layer.self_attn
        h = rms(x, layer.input_layernorm)
        q, k, v = (heads(p(h), DECODER_HEADS) for p in (own.q_proj, own.k_proj, own.v_proj))
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        x = x + own.o_proj(_joined(F.scaled_dot_product_attention(q, k, v, attn_mask=rows.mask)))
        h = rms(x, layer.post_attention_layernorm)
        x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(h)) * layer.mlp.up_proj(h))
        rows = replace(rows, hidden=x)
    return rms(rows.hidden, language.norm)


def rms(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """The decoder's norm over the last axis."""
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """Map [B, S, D] to [B, H, S, head]."""
    b, s, d = x.shape
    return x.view(b, s, count, d // count).transpose(1, 2)


def _joined(x: torch.Tensor) -> torch.Tensor:
    b, h, s, d = x.shape
    return x.transpose(1, 2).reshape(b, s, h * d)


def rotation(position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [B, 1, S, head] of positions [B, S]."""
    width = WIDTH // DECODER_HEADS
    half = torch.arange(0, width, 2, device=position.device) / width
    angle = position[:, None, :, None] / 10000.0**half
    angle = torch.cat((angle, angle), dim=-1)  # [B, 1, S, head]
    return angle.cos(), angle.sin()


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Queries or keys [B, H, S, head], turned."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
