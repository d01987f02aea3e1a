"""Rules about Attention, where TensorRT differs from ONNX most, and about the cache written by TensorScatter.

IAttention came with TensorRT 10.14; before it ``operator-unknown`` speaks. Attention in fp32 is no finding: it has no
dedicated kernel, but edgeprune's builder marks it decomposable after parsing, and then it builds.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeprune.lint.finding import Finding, Subject, called
from edgeprune.lint.view import argument, attribute


def attention_causal(subject: Subject) -> Iterator[Finding]:
    """TensorRT imports is_causal with the upper left corners aligned: with a past, the newest row sees only key 0.

    ONNX Runtime aligns the lower right. Read back from a network of TensorRT-RTX 1.7 as ``CausalMaskKind.UPPER_LEFT``.
    """
    for node in subject.nodes("Attention"):
        if attribute(node, "is_causal", 0):
            yield Finding(
                "attention-causal",
                called(node),
                "is_causal is 1; TensorRT aligns it to the first key, wrong wherever a cache precedes: give attn_mask "
                "instead",
            )


def attention_nonpad(subject: Subject) -> Iterator[Finding]:
    """The input nonpad_kv_seqlen is unsupported by ``docs/operators.md``; TensorRT-RTX 1.7 builds and ignores it."""
    for node in subject.nodes("Attention"):
        if argument(node, 6):
            yield Finding(
                "attention-nonpad",
                called(node),
                f"nonpad_kv_seqlen is given ({argument(node, 6)!r}) and TensorRT ignores it without a word: put the "
                "length into attn_mask",
            )


def attention_past(subject: Subject) -> Iterator[Finding]:
    """The parser says "TensorRT only supports Attention nodes with one output", and takes no past."""
    for node in subject.nodes("Attention"):
        given = [name for index, name in ((4, "past_key"), (5, "past_value")) if argument(node, index)]
        given += [f"output {index}" for index in range(1, len(node.output))]  # the parser counts unnamed ones too
        if given:
            yield Finding(
                "attention-past",
                called(node),
                f"{', '.join(given)} given; TensorRT has Attention without a cache and with one output: Concat the "
                "cache before it",
            )


def attention_softcap(subject: Subject) -> Iterator[Finding]:
    """``docs/operators.md``: softcap and qk_matmul_output_mode are unsupported."""
    for node in subject.nodes("Attention"):
        for name in ("softcap", "qk_matmul_output_mode"):
            value = attribute(node, name, 0)
            if value:
                yield Finding(
                    "attention-softcap",
                    called(node),
                    f"{name} is {value:g}; TensorRT knows only 0: export the base dialect",
                )


def attention_rank(subject: Subject) -> Iterator[Finding]:
    """``docs/operators.md``: Q, K, V and attn_mask must have four axes.

    That is older than 10.15, whose importer reshapes three axes to four and prepends axes to a mask
    (``AttentionHelpers.cpp`` at commit fa5aa9f6); TensorRT-RTX 1.7 does the same.
    """
    first = subject.before(10, 15) and not subject.before(10, 14)
    for node in subject.nodes("Attention") if first else ():
        for index, what in enumerate(("Q", "K", "V", "attn_mask")):
            rank = subject.rank(argument(node, index))
            if rank not in (None, 4):
                yield Finding(
                    "attention-rank",
                    called(node),
                    f"{what} has {rank} axes; {subject.library} takes 4, [B, H, S, head]: reshape before it",
                )
                break


def tensor_scatter_cache(subject: Subject) -> Iterator[Finding]:
    """The parser says "KV cache tensor must have a static sequence length"; axis -2 of four is the only one it has."""
    for node in subject.nodes("TensorScatter"):
        cache, axis = argument(node, 0), attribute(node, "axis", -2)
        shapes = [point.shapes.get(cache) for point in subject.points]
        if any(shape is not None and (len(shape) != 4 or axis not in (-2, 2)) for shape in shapes):
            yield Finding(
                "tensor-scatter-cache",
                called(node),
                f"axis {axis} of a cache with {subject.rank(cache)} axes; TensorRT has axis -2 of [B, H, M, head]",
            )
        elif subject.varies(cache, 2):
            yield Finding(
                "tensor-scatter-cache",
                called(node),
                f"the cache {cache!r} has a dynamic length; TensorRT needs a fixed one: give axis 2 a number",
            )
