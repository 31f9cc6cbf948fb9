"""Weights and structs of the C++ decoder: layouts that cpu_decoder.cpp reads, and packing of matrices for it."""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.inference.decoders.decoder import Precision
from gato_agent.model.action_decoder import ActionDecoder
from gato_agent.model.gato import Block, Gato
from gato_agent.tokens.timestep_layout import ACTION_GROUP

PANEL = 64  # outputs that are stored side by side, as in cpu_decoder.cpp


class Struct(ctypes.Structure):
    """A struct of cpu_decoder.cpp that keeps alive the tensors that it points into."""

    def __init__(self, *values: Any) -> None:
        self.sources = values
        super().__init__(*map(pointer, values))


POINTER, INT32 = ctypes.c_void_p, ctypes.c_int32


class Matrix(Struct):
    """A packed matrix, and with int8 the scale of each output."""

    _fields_ = [("w", POINTER), ("scale", POINTER)]


class Layer(Struct):
    """Weights of one block of the transformer."""

    _fields_ = [
        *((name, POINTER) for name in ("norm1", "bias1", "norm2", "bias2")),
        *((name, Matrix) for name in ("qkv", "out", "hidden", "down")),
    ]


class Model(Struct):
    """Sizes and weights of a model."""

    _fields_ = [
        *((name, INT32) for name in ("layers", "heads", "width", "feed_forward", "context", "kind")),
        *((name, INT32) for name in ("values_per_token", "decoder", "rewound", "first_id")),
        *((name, INT32) for name in ("ids", "positions", "value_ids", "chosen_ids", "actions")),
        *((name, POINTER) for name in ("layer", "norm", "bias", "table", "local", "values", "chosen")),
        ("mix", Matrix), ("carry", Matrix),
    ]  # fmt: skip


class Ring(Struct):
    """Key/value cache: the ring of recent tokens, then the slots of the prompt."""

    _fields_ = [
        *((name, INT32) for name in ("num_envs", "slots", "rolling", "prompt", "threads")),
        *((name, POINTER) for name in ("keys", "values", "index", "next_position")),
    ]


class Choice(Struct):
    """One action token: its legal ids, the matrices that score them, and its logits."""

    _fields_ = [
        *((name, INT32) for name in ("low", "count", "ordered", "digit")),
        *((name, Matrix) for name in ("marginal", "state", "out", "read", "head")),
        ("logits", POINTER),
    ]  # fmt: skip


class Request(ctypes.Structure):
    """Inputs and options of one call."""

    _fields_ = [
        *((name, INT32) for name in ("num_envs", "count", "actions", "marginal")),
        *((name, INT32) for name in ("allowed_stride", "patch_count", "group_count")),
        *((name, POINTER) for name in ("envs", "tokens", "local", "patches", "value_groups", "choices")),
        *((name, POINTER) for name in ("uniforms", "forced", "allowed")),
        ("inverse_temperature", ctypes.c_double), ("chosen", POINTER),
    ]  # fmt: skip


ABI = 3  # as in cpu_decoder.cpp
STRUCTS = (Matrix, Layer, Model, Ring, Choice, Request)  # in the order of gato_sizes


def pointer(value: Any) -> Any:
    """Address of a tensor; other values as they are."""
    return value.data_ptr() if isinstance(value, Tensor) else value


NO_MATRIX = Matrix(None, None)


def panels(weight: Tensor, precision: Precision) -> Matrix:
    """A matrix [outputs, inputs] in the order of cpu_decoder.cpp: [outputs / 64, inputs, 64], padded with zeros."""
    outputs, inputs = weight.shape
    padded = F.pad(weight.detach().float(), (0, 0, 0, -outputs % PANEL))
    scale = None
    if precision == "int8":  # one scale per output; its largest weight becomes 127
        scale = padded.abs().amax(1).clamp(min=1e-12) / 127
        padded = (padded / scale.unsqueeze(1)).round()
    packed = padded.view(-1, PANEL, inputs).transpose(1, 2).to(getattr(torch, precision)).contiguous()
    return Matrix(packed, scale)


def layer_of(block: Block, precision: Precision) -> Layer:
    """Packed weights of one block."""
    first, second = block.attention_norm, block.feed_forward_norm
    linears = block.attention.qkv, block.attention.out, block.feed_forward.hidden, block.feed_forward.out
    matrices = [panels(linear.weight, precision) for linear in linears]
    return Layer(*map(copied, (first.weight, first.bias, second.weight, second.bias)), *matrices)


def value_tables(
    model: Gato, precision: Precision, chosen: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Matrix]:
    """Embeddings of the values in value groups and of chosen ids, and the matrix that mixes a value group."""
    if model.config.values_per_token == 1:
        return None, chosen, NO_MATRIX
    return (
        copied(model.embedding.value_group.value.weight),
        chosen,
        panels(model.embedding.value_group.mix.weight, precision),
    )


def chain_tables(decoder: ActionDecoder | None, precision: Precision) -> tuple[Tensor | None, Matrix]:
    """Embeddings of chosen ids, and the matrix between groups of action tokens; empty without an action decoder."""
    if decoder is None:
        return None, NO_MATRIX
    return copied(decoder.correction.chosen.weight), panels(decoder.correction.carry.weight, precision)


def action_matrices(
    decoder: ActionDecoder | None, actions: int, precision: Precision
) -> list[tuple[Matrix, Matrix, Matrix, Matrix]]:
    """Matrices of the action decoder for each action token: marginal, state, out and read."""
    if decoder is None:
        return [(NO_MATRIX,) * 4] * actions
    correction, count = decoder.correction, min(actions, ACTION_GROUP)
    lists = decoder.marginal, correction.state, correction.out, correction.read
    layers = zip(*(list(x.parameters())[:count] for x in lists), strict=True)
    matrices = [tuple(panels(weight, precision) for weight in weights) for weights in layers]
    return [matrices[at % ACTION_GROUP] for at in range(actions)]  # type: ignore[misc]  # four each


def copied(tensor: Tensor) -> Tensor:
    """A contiguous float32 copy, which later changes of the model do not touch."""
    return tensor.detach().float().clone(memory_format=torch.contiguous_format)
