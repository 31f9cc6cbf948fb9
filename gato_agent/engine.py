"""The control step as one call into compiled C++, for CPUs: `engine.cpp`, built once by the machine's own compiler.

It computes what `decode.TorchDecoder` computes, several times faster: weights and cache are streamed once, in the order
of memory, by products of few rows, for which no library is tuned.
"""

import ctypes
import logging
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.config import GatoConfig
from gato_agent.decode import Choose, Decoder, Legal, Precision, Prefill, TorchDecoder
from gato_agent.graphs import GraphDecoder
from gato_agent.model import Block, Gato
from gato_agent.native import library
from gato_agent.spaces import BINS, PACK, PAD, PATCH

SOURCE = Path(__file__).with_name("engine.cpp")
PANEL = 64  # outputs that are stored side by side, as in engine.cpp
NEVER = -(2**62)  # token index of a slot that nothing may see

_log = logging.getLogger(__name__)


class _Struct(ctypes.Structure):
    """A struct of engine.cpp; keeps the tensors alive that it points into."""

    def __init__(self, *values: Any) -> None:
        self.kept = values
        super().__init__(*map(_pointer, values))


POINTER, INT32, INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class _Matrix(_Struct):
    _fields_ = [("w", POINTER), ("scale", POINTER)]  # ctypes' own way


class _Layer(_Struct):
    _fields_ = [
        *((name, POINTER) for name in ("norm1", "bias1", "norm2", "bias2")),
        *((name, _Matrix) for name in ("qkv", "out", "hidden", "down")),
    ]


class _Model(_Struct):
    _fields_ = [
        *((name, INT32) for name in ("layers", "heads", "width", "feed_forward", "context", "kind", "pack", "each")),
        *((name, POINTER) for name in ("layer", "norm", "bias", "table", "local", "values")),
        ("mix", _Matrix),
    ]


class _Ring(_Struct):
    _fields_ = [
        *((name, INT32) for name in ("lanes", "slots", "rolling", "prompt", "threads")),
        *((name, POINTER) for name in ("keys", "values", "index", "age")),
        ("written", INT64),
    ]


class _Choice(_Struct):
    _fields_ = [
        ("low", INT32), ("count", INT32), ("ordered", INT32), ("split", _Matrix), ("head", _Matrix), ("noise", POINTER),
        ("logits", POINTER),
    ]  # fmt: skip


def _pointer(value: Any) -> Any:
    return value.data_ptr() if isinstance(value, Tensor) else value


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
        self._function, self._model, self._threads = library(SOURCE).gato_step, model, threads
        config, embedding = model.config, model.embedding
        self._positions, self._patch, self._ordered = config.local_positions, embedding.patch, config.vocabulary.ordered
        self._dtype = torch.float32 if precision == "float32" else torch.bfloat16
        self._known: dict[bytes, Tensor] = {}  # patches and what they look like
        layers = [_layer(block, precision) for block in model.blocks if isinstance(block, Block)]
        self._layers = layers, (_Layer * len(layers))(*layers)
        self._packed = _Model(
            config.layers, config.heads, config.width, config.feed_forward, config.context,
            get_args(Precision).index(precision), config.pack, config.parallel_actions,
            ctypes.addressof(self._layers[1]),
            *map(_copy, (model.norm.weight, model.norm.bias, embedding.table.weight, embedding.local.weight)),
            *_values(model, precision),
        )  # fmt: skip
        heads = {(low, high): pack(model.scored(low, high), precision) for low, high in legal}
        splits = _splits(model, len(legal), precision)
        self._heads = [(low, high, split, heads[low, high]) for (low, high), split in zip(legal, splits, strict=True)]

    @staticmethod
    def fits(config: GatoConfig) -> bool:
        """Whether a model of this shape can be packed: all named sizes can."""
        whole = config.width % PANEL == config.feed_forward % (2 * PANEL) == config.head_size % 16 == 0
        return whole and (config.head_size <= PANEL or config.head_size % PANEL == 0)

    def reset(self, lanes: int, longest_pass: int, prompt: int = 0) -> None:
        """See `Decoder`."""
        c = self._model.config
        self._rolling = -(-(c.context - prompt + longest_pass - 1) // PANEL) * PANEL
        slots = self._rolling - (-prompt // PANEL) * PANEL
        self._longest = longest_pass
        shape = (2, c.layers, lanes, c.heads, slots, c.head_size)
        self._kv = _zeros(shape, self._dtype)
        self._index = torch.full((lanes, slots), NEVER)
        self._age = torch.zeros(lanes, dtype=torch.int64)
        self._ring = _Ring(
            lanes, slots, self._rolling, prompt, self._threads, self._kv[0], self._kv[1], self._index, self._age, 0
        )
        self._scores = [torch.empty(lanes, -(-(high - low) // PANEL) * PANEL) for low, high, *_ in self._heads]
        self.logits = [s[:, : high - low] for s, (low, high, *_) in zip(self._scores, self._heads, strict=True)]
        self._actions = torch.empty(lanes, len(self._heads), dtype=torch.int64)
        self._greedy = self._choices([None] * len(self._heads))

    def restart(self, lanes: Tensor, age: int = 0) -> None:
        """See `Decoder`."""
        self._index[:, : self._rolling].masked_fill_(lanes.unsqueeze(1), NEVER)
        self._age.masked_fill_(lanes, age)

    @torch.inference_mode()
    def pin(self, lanes: Tensor, prompts: Prefill) -> None:
        """See `Decoder`."""
        found = lanes.nonzero().flatten().tolist()
        tokens, local, patches, packs = self._checked(prompts, len(found), self._ring.prompt)
        if tokens.shape[1] != self._ring.prompt:
            raise ValueError(f"prompts of {tokens.shape[1]} tokens, and reset prepared for {self._ring.prompt}")
        shown, packed = ([0, *(tokens == kind).sum(1).cumsum(0).tolist()] for kind in (PATCH, PACK))
        for row, lane in enumerate(found):
            own = None if patches is None else patches[shown[row] : shown[row + 1]]
            values = None if packs is None else packs[packed[row] : packed[row + 1]]
            self._call(lane, tokens[row], local[row], own, values, tokens.shape[1], None, 0, 1.0)

    @torch.inference_mode()
    def step(self, prefill: Prefill, choose: Choose) -> Tensor:
        """See `Decoder`; the next step overwrites the logits."""
        tokens, local, patches, packs = self._checked(prefill, self._ring.lanes, self._longest)
        if self._packed.each and tokens.shape[1] * self._packed.each < len(self._heads):
            raise ValueError(f"{tokens.shape[1]} tokens cannot predict {len(self._heads)}")
        choices, temperature = self._greedy, choose.temperature or 1.0
        if choose.temperature:
            choices = self._choices([choose.noise(high - low) for low, high, *_ in self._heads])
        self._call(-1, tokens, local, patches, packs, tokens.shape[1], choices[1], len(self._heads), 1 / temperature)
        return self._actions.clone()

    def _checked(
        self, prefill: Prefill, rows: int, longest: int
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Tokens, local positions, vectors of patches, and packs, as C++ may read them; else raises ValueError."""
        tokens, local, patches, intervals, packs = prefill
        if tokens.shape[0] != rows or tokens.shape[1] > longest or tokens.dtype != torch.int64:
            raise ValueError(
                f"tokens {tokens.dtype} {list(tokens.shape)}, and reset prepared for int64 [{rows}, n] "
                f"with n at most {longest}"
            )
        if local.shape != tokens.shape or local.dtype != torch.int64 or local.max() >= self._positions:
            raise ValueError(
                f"local positions {local.dtype} {list(local.shape)}: int64 below {self._positions} are known"
            )
        ids = tokens.numpy()  # whose operations cost a tenth of a tensor's, of so few values
        for name, given, kind in (("patches", patches, PATCH), ("packs", packs, PACK)):
            count, places = 0 if given is None else len(given), np.count_nonzero(ids == kind)
            if count != places:
                raise ValueError(f"{count} {name} for {places} places among the tokens")
        if packs is not None:
            shape, values = list(packs.shape[1:]), packs.numpy()
            if self._packed.pack == 1 or shape != [self._packed.pack] or values.min() < PAD or values.max() >= 2 * BINS:
                raise ValueError(f"packs of {shape} values: the model has {self._packed.pack}, PAD or below {2 * BINS}")
            packs = packs.to(torch.int16).contiguous()
        seen = None if patches is None else self._patch(patches, intervals, self._known).float().contiguous()
        return tokens.contiguous(), local.contiguous(), seen, packs

    def _call(
        self, lane: int, tokens: Tensor, local: Tensor, patches: Tensor | None, packs: Tensor | None, count: int,
        choices: Any, actions: int, inverse_temperature: float,
    ) -> None:  # fmt: skip
        """Run C++: a step of all lanes, or with a lane the pass over its prompt."""
        self._function(
            ctypes.byref(self._packed), ctypes.byref(self._ring), lane, ctypes.c_void_p(tokens.data_ptr()),
            ctypes.c_void_p(local.data_ptr()), ctypes.c_void_p(None if patches is None else patches.data_ptr()),
            ctypes.c_void_p(None if packs is None else packs.data_ptr()), count, choices,
            actions, ctypes.c_double(inverse_temperature), ctypes.c_void_p(self._actions.data_ptr()),
        )  # fmt: skip

    def _choices(self, noises: list[Tensor | None]) -> tuple[list[_Choice], Any]:
        """What is to be chosen: as objects that keep tensors alive, and as the array that C++ reads."""
        kept = [
            _Choice(low, high - low, self._ordered(low), split, head, noise, scores)
            for (low, high, split, head), noise, scores in zip(self._heads, noises, self._scores, strict=True)
        ]
        return kept, (_Choice * len(kept))(*kept)


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


def pack(weight: Tensor, precision: Precision) -> _Matrix:
    """Store a matrix [outputs, inputs] as engine.cpp reads it: [outputs / 64, inputs, 64], padded with zeros."""
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
    matrices = [pack(linear.weight, precision) for linear in linears]
    return _Layer(*map(_copy, (first.weight, first.bias, second.weight, second.bias)), *matrices)


def _values(model: Gato, precision: Precision) -> tuple[Tensor | None, _Matrix]:
    """The table of values in packs, and the matrix that reads a pack."""
    if model.config.pack == 1:
        return None, _Matrix(None, None)
    return _copy(model.embedding.pack.value.weight), pack(model.embedding.pack.mix.weight, precision)


def _splits(model: Gato, actions: int, precision: Precision) -> list[_Matrix]:
    """For each action token what makes its state out of that of the token which predicts it."""
    if model.actions is None:
        return [_Matrix(None, None)] * actions
    weights = list(model.actions.split.parameters())[:actions]
    places = [pack(weight, precision) for weight in weights]
    return [places[at % len(places)] for at in range(actions)]


def _copy(tensor: Tensor) -> Tensor:
    """A copy that C++ may read whatever becomes of the model."""
    return tensor.detach().float().clone(memory_format=torch.contiguous_format)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in NumPy's memory, which is of large pages where Linux has some: the cache is read here and there."""
    return torch.from_numpy(np.zeros((*shape, dtype.itemsize), np.uint8)).view(dtype).squeeze(-1)
