"""Control step on a CPU as one call into compiled C++, `cpu_decoder.cpp`.

It computes what `decoder.TorchDecoder` computes, several times faster: weights and cache are streamed once, in the
order of memory, by products of few rows, for which no library is tuned.
"""

import ctypes
import logging
from functools import cache
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.inference.cuda_graph_decoder import GraphDecoder
from gato_agent.inference.decoder import GREEDY, Decoder, Legal, Precision, Prefill, StepOptions, TorchDecoder
from gato_agent.model.action_decoder import ActionDecoder
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Block, Gato
from gato_agent.model.kv_cache import EMPTY
from gato_agent.native.abi import check, load
from gato_agent.native.build import SOURCES
from gato_agent.tokens.space_tokenizer import BINS, PAD, PATCH, VALUES
from gato_agent.tokens.timestep_layout import ACTION_GROUP

SOURCE = SOURCES / "cpu_decoder.cpp"
PANEL = 64  # outputs that are stored side by side, as in cpu_decoder.cpp

_log = logging.getLogger(__name__)


class _Struct(ctypes.Structure):
    """A struct of cpu_decoder.cpp; keeps the tensors alive that it points into."""

    def __init__(self, *values: Any) -> None:
        self.kept = values
        super().__init__(*map(_pointer, values))


POINTER, INT32 = ctypes.c_void_p, ctypes.c_int32


class _Matrix(_Struct):
    _fields_ = [("w", POINTER), ("scale", POINTER)]  # ctypes' own way


class _Layer(_Struct):
    _fields_ = [
        *((name, POINTER) for name in ("norm1", "bias1", "norm2", "bias2")),
        *((name, _Matrix) for name in ("qkv", "out", "hidden", "down")),
    ]


class _Model(_Struct):
    _fields_ = [
        *((name, INT32) for name in ("layers", "heads", "width", "feed_forward", "context", "kind")),
        *((name, INT32) for name in ("values_per_token", "decoder", "rewound", "first_id")),
        *((name, INT32) for name in ("ids", "positions", "value_ids", "chosen_ids", "actions")),
        *((name, POINTER) for name in ("layer", "norm", "bias", "table", "local", "values", "chosen")),
        ("mix", _Matrix), ("carry", _Matrix),
    ]  # fmt: skip


class _Ring(_Struct):
    _fields_ = [
        *((name, INT32) for name in ("num_envs", "slots", "rolling", "prompt", "threads")),
        *((name, POINTER) for name in ("keys", "values", "index", "next_position")),
    ]


class _Choice(_Struct):
    _fields_ = [
        *((name, INT32) for name in ("low", "count", "ordered")),
        *((name, _Matrix) for name in ("marginal", "state", "out", "read", "head")),
        ("logits", POINTER),
    ]  # fmt: skip


class _Request(ctypes.Structure):
    _fields_ = [
        *((name, INT32) for name in ("env_index", "count", "actions", "marginal")),
        *((name, INT32) for name in ("allowed_stride", "patch_count", "group_count")),
        *((name, POINTER) for name in ("tokens", "local", "patches", "value_groups", "choices")),
        *((name, POINTER) for name in ("uniforms", "forced", "allowed")),
        ("inverse_temperature", ctypes.c_double), ("chosen", POINTER),
    ]  # fmt: skip


ABI = 1  # as in cpu_decoder.cpp
STRUCTS = (_Matrix, _Layer, _Model, _Ring, _Choice, _Request)  # in the order of gato_sizes


def _pointer(value: Any) -> Any:
    return value.data_ptr() if isinstance(value, Tensor) else value


NO_MATRIX = _Matrix(None, None)


class Engine:
    """Decodes actions on the CPU in one call a step; a `Decoder`.

    The weights are copied: an engine does not see later changes of the model.

    Args:
        model: in evaluation mode, on the CPU; `fits` says which shapes are possible.
        legal: half-open id range of each action token.
        precision: of the copied weights.
        threads: of the calls.

    Raises:
        OSError: it could not be compiled here.
    """

    def __init__(self, model: Gato, legal: Legal, precision: Precision = "float32", threads: int = 1) -> None:
        self._compiled, self._model, self._threads = _compiled(), model, threads
        config, embedding = model.config, model.embedding
        self._positions, self._patch, self._ordered = config.local_positions, embedding.patch, config.vocabulary.ordered
        self._ids = config.vocabulary.size
        self._dtype = torch.float32 if precision == "float32" else torch.bfloat16
        self._known: dict[bytes, Tensor] = {}  # patches and what they look like
        layers = [_layer(block, precision) for block in model.blocks if isinstance(block, Block)]
        self._layers = layers, (_Layer * len(layers))(*layers)
        stream = not (config.action_decoder or config.past_actions)
        decoder = model.action_decoder.correction if model.action_decoder else None
        self._grouped = _Model(
            config.layers, config.heads, config.width, config.feed_forward, config.context,
            get_args(Precision).index(precision), config.values_per_token, config.action_decoder, stream * len(legal),
            config.vocabulary.continuous, self._ids, self._positions, 2 * BINS, 2 * BINS if decoder else 0, len(legal),
            ctypes.addressof(self._layers[1]),
            *map(_copy, (model.norm.weight, model.norm.bias, embedding.table.weight, embedding.local.weight)),
            *_values(model, precision, decoder.chosen if decoder else None),
            panels(decoder.carry.weight, precision) if decoder else NO_MATRIX,
        )  # fmt: skip
        heads = {(low, high): panels(model.scored(low, high), precision) for low, high in legal}
        parts = _decoder_parts(model.action_decoder, len(legal), precision)
        self._heads = [(low, high, part, heads[low, high]) for (low, high), part in zip(legal, parts, strict=True)]
        self._width = sum(high - low for low, high in legal)

    @staticmethod
    def fits(config: GatoConfig) -> bool:
        """Whether a model of this shape can be packed: all named sizes can."""
        whole = config.width % PANEL == config.feed_forward % (2 * PANEL) == config.head_size % 16 == 0
        return whole and (config.head_size <= PANEL or config.head_size % PANEL == 0)

    def reset(self, num_envs: int, longest: int, prefix: int = 0) -> None:
        """See `Decoder`."""
        c = self._model.config
        self._rolling = -(-(c.context - prefix + longest - 1) // PANEL) * PANEL
        slots = self._rolling - (-prefix // PANEL) * PANEL
        self._longest = longest
        shape = (2, c.layers, num_envs, c.heads, slots, c.head_size)
        self._kv = _zeros(shape, self._dtype)
        self._index = torch.full((num_envs, slots), EMPTY)
        self._next_position = torch.zeros(num_envs, dtype=torch.int64)
        self._ring = _Ring(
            num_envs, slots, self._rolling, prefix, self._threads, self._kv[0], self._kv[1], self._index,
            self._next_position,
        )  # fmt: skip
        self._scores = [torch.empty(num_envs, -(-(high - low) // PANEL) * PANEL) for low, high, *_ in self._heads]
        self.logits = [s[:, : high - low] for s, (low, high, *_) in zip(self._scores, self._heads, strict=True)]
        self._actions = torch.empty(num_envs, len(self._heads), dtype=torch.int64)
        choices = [
            _Choice(low, high - low, self._ordered(low), *parts, head, scores)
            for (low, high, parts, head), scores in zip(self._heads, self._scores, strict=True)
        ]
        self._choices = choices, (_Choice * len(choices))(*choices)
        self._request = _Request(choices=ctypes.addressof(self._choices[1]), chosen=self._actions.data_ptr())
        parts = self._grouped, self._ring, self._request
        self._model_at, self._ring_at, self._request_at = (ctypes.byref(part) for part in parts)

    def reset_envs(self, envs: Tensor, position: int = 0) -> None:
        """See `Decoder`."""
        self._index[:, : self._rolling].masked_fill_(envs.unsqueeze(1), EMPTY)
        self._next_position.masked_fill_(envs, position)

    def rewind(self, count: int) -> None:
        """See `Decoder`."""
        self._next_position -= count
        slots = (self._next_position.unsqueeze(1) + torch.arange(1, count + 1)) % self._rolling
        self._index.scatter_(1, slots, torch.full_like(slots, EMPTY))

    @torch.inference_mode()
    def prefill_prefix(self, envs: Tensor, prompts: Prefill) -> None:
        """See `Decoder`."""
        rows = envs.nonzero().flatten().tolist()
        tokens, local, patches, value_groups = self._checked(prompts, len(rows), self._ring.prompt)
        if tokens.shape[1] != self._ring.prompt:
            raise ValueError(f"prompts of {tokens.shape[1]} tokens, and reset prepared for {self._ring.prompt}")
        shown, grouped = ([0, *(tokens == kind).sum(1).cumsum(0).tolist()] for kind in (PATCH, VALUES))
        for row, env in enumerate(rows):
            own = None if patches is None else patches[shown[row] : shown[row + 1]]
            values = None if value_groups is None else value_groups[grouped[row] : grouped[row + 1]]
            self._call(env, tokens[row], local[row], own, values, 0, GREEDY)

    @torch.inference_mode()
    def step(self, prefill: Prefill, options: StepOptions = GREEDY) -> Tensor:
        """See `Decoder`; the next step overwrites the logits."""
        seen = self._checked(prefill, self._ring.num_envs, self._longest)
        groups = -(-len(self._heads) // ACTION_GROUP)
        if self._grouped.decoder and seen[0].shape[1] < groups:
            raise ValueError(f"{seen[0].shape[1]} tokens cannot predict {len(self._heads)}: it takes {groups}")
        self._call(-1, *seen, len(self._heads), options)
        return self._actions.clone()

    def _checked(
        self, prefill: Prefill, rows: int, longest: int
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Tokens, local positions, patch vectors and value groups, as C++ may read them; else raises ValueError."""
        tokens, local, patches, intervals, value_groups = prefill
        fits = tokens.ndim == 2 and tokens.shape[0] == rows and 0 < tokens.shape[1] <= longest
        if not fits or tokens.dtype != torch.int64:
            raise ValueError(
                f"tokens {tokens.dtype} {list(tokens.shape)}, and reset prepared for int64 [{rows}, n] "
                f"with n at most {longest}"
            )
        fits = local.shape == tokens.shape and local.dtype == torch.int64
        if not fits or (local.numel() and local.numpy().max() >= self._positions):
            raise ValueError(
                f"local positions {local.dtype} {list(local.shape)}: int64 below {self._positions} are known"
            )
        ids = tokens.numpy()  # whose operations cost a tenth of a tensor's, of so few values
        if ids.size and (ids.max() >= self._ids or ids.min() < VALUES):
            raise ValueError(f"token ids from {ids.min()} to {ids.max()}: the vocabulary has {self._ids}")
        for name, given, kind in (("patches", patches, PATCH), ("value_groups", value_groups, VALUES)):
            count, places = 0 if given is None else len(given), np.count_nonzero(ids == kind)
            if count != places:
                raise ValueError(f"{count} {name} for {places} places among the tokens")
        if value_groups is not None:
            shape, values = list(value_groups.shape[1:]), value_groups.numpy()
            if (
                self._grouped.values_per_token == 1
                or shape != [self._grouped.values_per_token]
                or (values.size and (values.min() < PAD or values.max() >= 2 * BINS))
            ):
                raise ValueError(
                    f"value groups of {shape} values: the model has {self._grouped.values_per_token}, "
                    f"PAD or below {2 * BINS}"
                )
            value_groups = value_groups.to(torch.int16).contiguous()
        seen = None if patches is None else self._patch(patches, intervals, self._known).float().contiguous()
        return tokens.contiguous(), local.contiguous(), seen, value_groups

    def _call(
        self, env_index: int, tokens: Tensor, local: Tensor, patches: Tensor | None, value_groups: Tensor | None,
        actions: int,
        options: StepOptions,
    ) -> None:  # fmt: skip
        """Run C++: a step of all environments, or with an environment the pass over its prompt."""
        request = self._request
        request.env_index, request.count, request.actions = env_index, tokens.shape[-1], actions
        request.tokens, request.local = tokens.data_ptr(), local.data_ptr()
        request.patches, request.value_groups = _pointer(patches), _pointer(value_groups)
        request.patch_count = 0 if patches is None else len(patches)
        request.group_count = 0 if value_groups is None else len(value_groups)
        kept = self._choose_by(options, actions)  # what the request points into stays alive
        check(self._compiled, self._compiled.gato_step(self._model_at, self._ring_at, self._request_at))
        del kept

    def _choose_by(self, options: StepOptions, actions: int) -> tuple[Tensor | None, ...]:
        """Fill in how action tokens are chosen; returns the tensors that the request points into."""
        request = self._request
        if options is GREEDY:
            request.uniforms = request.forced = request.allowed = None
            request.marginal = 0
            return ()
        allowed = None if options.allowed is None else options.allowed.to(torch.uint8).contiguous()
        uniforms, forced = (None if x is None else x.contiguous() for x in (options.uniforms, options.forced))
        shapes = (uniforms, actions, torch.float64), (forced, actions, torch.int64), (allowed, self._width, torch.uint8)
        for given, width, dtype in shapes:
            if given is not None and (given.shape != (self._ring.num_envs, width) or given.dtype != dtype):
                what = f"options of a step, {given.dtype} {list(given.shape)}"
                raise ValueError(f"{what}: {dtype} [{self._ring.num_envs}, {width}] fits")
        request.uniforms, request.forced, request.allowed = _pointer(uniforms), _pointer(forced), _pointer(allowed)
        request.allowed_stride = 0 if allowed is None else allowed.shape[1]
        request.marginal = options.marginal
        request.inverse_temperature = 1.0 if options.temperature is None else float(1 / options.temperature)
        return uniforms, forced, allowed


@cache
def _compiled() -> ctypes.CDLL:
    """The compiled step; raises OSError where there is none, or one of another version."""
    return load(SOURCE, "the CPU decoder", ABI, STRUCTS)


def make_decoder(
    model: Gato, legal: Legal, precision: Precision = "float32", threads: int | None = None, *, compiled: bool = False
) -> Decoder:
    """The fastest decoder for a model: `Engine` on a CPU with a C++ compiler, `GraphDecoder` on a GPU of CUDA.

    Elsewhere `TorchDecoder`, with a note. `compiled` is for GPUs.

    Raises:
        UsageError: a precision that the device does not have.
    """
    if model.norm.weight.is_cuda:
        return GraphDecoder(model, legal, precision, compiled=compiled)
    try:
        if model.norm.weight.device.type != "cpu":
            raise OSError("the engine is for CPUs")
        if not Engine.fits(model.config):
            raise OSError("the engine has no place for a model of this shape")
        return Engine(model, legal, precision, threads or torch.get_num_threads())
    except OSError as error:
        if model.norm.weight.device.type == "cpu" or precision != "float32":
            _log.warning("playing with PyTorch alone, in the model's own precision: %s", error)
        return TorchDecoder(model, legal)


def panels(weight: Tensor, precision: Precision) -> _Matrix:
    """Store a matrix [outputs, inputs] as cpu_decoder.cpp reads it: [outputs / 64, inputs, 64], padded with zeros."""
    outputs, inputs = weight.shape
    padded = F.pad(weight.detach().float(), (0, 0, 0, -outputs % PANEL))
    scale = None
    if precision == "int8":  # one scale an output, the largest weight becomes 127
        scale = padded.abs().amax(1).clamp(min=1e-12) / 127
        padded = (padded / scale.unsqueeze(1)).round()
    panels = padded.view(-1, PANEL, inputs).transpose(1, 2).to(getattr(torch, precision)).contiguous()
    return _Matrix(panels, scale)


def _layer(block: Block, precision: Precision) -> _Layer:
    first, second = block.attention_norm, block.feed_forward_norm
    linears = block.attention.qkv, block.attention.out, block.feed_forward.hidden, block.feed_forward.out
    matrices = [panels(linear.weight, precision) for linear in linears]
    return _Layer(*map(_copy, (first.weight, first.bias, second.weight, second.bias)), *matrices)


def _values(
    model: Gato, precision: Precision, chosen: torch.nn.Embedding | None
) -> tuple[Tensor | None, Tensor | None, _Matrix]:
    """The table of values in value groups, that of chosen ids, and the matrix that reads a value group."""
    taken = _copy(chosen.weight) if chosen else None
    if model.config.values_per_token == 1:
        return None, taken, NO_MATRIX
    return (
        _copy(model.embedding.value_group.value.weight),
        taken,
        panels(model.embedding.value_group.mix.weight, precision),
    )


def _decoder_parts(
    decoder: ActionDecoder | None, actions: int, precision: Precision
) -> list[tuple[_Matrix, _Matrix, _Matrix, _Matrix]]:
    """For each action token the matrices of the action decoder: marginal, state, out and read."""
    if decoder is None:
        return [(NO_MATRIX,) * 4] * actions
    part, count = decoder.correction, min(actions, ACTION_GROUP)
    layers = zip(
        *(list(x.parameters())[:count] for x in (decoder.marginal, part.state, part.out, part.read)), strict=True
    )
    grouped = [tuple(panels(weight, precision) for weight in weights) for weights in layers]
    return [grouped[at % ACTION_GROUP] for at in range(actions)]  # type: ignore[misc]  # four each


def _copy(tensor: Tensor) -> Tensor:
    """A copy that C++ may read whatever becomes of the model."""
    return tensor.detach().float().clone(memory_format=torch.contiguous_format)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in NumPy's memory, which is of large pages where Linux has some: the cache is read here and there."""
    return torch.from_numpy(np.zeros((*shape, dtype.itemsize), np.uint8)).view(dtype).squeeze(-1)
