"""The control step as one call into compiled C++ (`cpu_decoder.cpp`), for CPUs.

It computes what `TorchDecoder` computes, several times faster: weights and cache are streamed once, in the order of
memory, by products of few rows, for which no library is tuned.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from gato_agent.inference.decoders.cpu_checks import Limits, check_option, check_prefill
from gato_agent.inference.decoders.cpu_weights import (
    ABI,
    PANEL,
    STRUCTS,
    Choice,
    Layer,
    Model,
    Request,
    Ring,
    action_matrices,
    chain_tables,
    copied,
    layer_of,
    panels,
    pointer,
    value_tables,
)
from gato_agent.inference.decoders.decoder import GREEDY, Legal, Precision, Prefill, StepOptions
from gato_agent.inference.decoders.sampling import MaskBlocks
from gato_agent.inference.decoders.threads import threads_for, torch_threads
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Block, Gato
from gato_agent.model.kv_cache import EMPTY
from gato_agent.native.abi import check, load
from gato_agent.native.build import SOURCES
from gato_agent.tokens.space_tokenizer import BINS, PATCH, VALUES
from gato_agent.tokens.timestep_layout import ACTION_GROUP

SOURCE = SOURCES / "cpu_decoder.cpp"


class CpuDecoder:
    """Decoder of actions on the CPU, one call a step; a `Decoder`.

    It copies the weights: later changes of the model have no effect.

    Args:
        model: in evaluation mode, on the CPU, of a shape that `fits`.
        legal: half-open id range of each action token.
        precision: of the copied weights.
        threads: of the calls; None for as many as a step is worth (`threads_for`).
        digits: see `TorchDecoder`.

    Raises:
        OSError: this machine cannot compile it.
    """

    def __init__(
        self, model: Gato, legal: Legal, precision: Precision = "float32", threads: int | None = 1,
        digits: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self._compiled, self._model, self._threads = _compiled(), model, threads
        config, embedding = model.config, model.embedding
        self._patch, self._ordered = embedding.patch, config.vocabulary.ordered
        self._limits = Limits(config.vocabulary.size, config.local_positions, config.values_per_token)
        self._dtype = torch.float32 if precision == "float32" else torch.bfloat16
        self._patch_vectors: dict[bytes, Tensor] = {}  # pixels of a patch -> its vector
        layers = [layer_of(block, precision) for block in model.blocks if isinstance(block, Block)]
        self._layers = layers, (Layer * len(layers))(*layers)
        rewound = config.layout(0, len(legal)).rewound
        chosen, carry = chain_tables(model.action_decoder, precision)
        chosen_rows = 0 if chosen is None else len(chosen)
        self._weights = Model(
            config.layers, config.heads, config.width, config.feed_forward, config.context,
            get_args(Precision).index(precision), config.values_per_token, config.action_decoder, rewound,
            config.vocabulary.continuous, self._limits.ids, self._limits.positions, 2 * BINS, chosen_rows, len(legal),
            ctypes.addressof(self._layers[1]),
            *map(copied, (model.norm.weight, model.norm.bias, embedding.table.weight, embedding.local.weight)),
            *value_tables(model, precision, chosen),
            carry,
        )  # fmt: skip
        heads = {(low, high): panels(model.scored(low, high), precision) for low, high in legal}
        parts = action_matrices(model.action_decoder, len(legal), precision)
        self._heads = [(low, high, part, heads[low, high]) for (low, high), part in zip(legal, parts, strict=True)]
        self._masks = MaskBlocks([high - low for low, high in legal], digits)

    @staticmethod
    def fits(config: GatoConfig) -> bool:
        """True if a model of this shape can be packed, as all named sizes can."""
        whole = config.width % PANEL == config.feed_forward % (2 * PANEL) == config.head_size % 16 == 0
        return whole and (config.head_size <= PANEL or config.head_size % PANEL == 0)

    def reset(self, num_envs: int, longest: int, prefix: int = 0) -> None:
        """See `Decoder`."""
        c = self._model.config
        rolling = -(-(c.context - prefix + longest - 1) // PANEL) * PANEL
        slots = rolling - (-prefix // PANEL) * PANEL
        self._kv = _zeros((2, c.layers, num_envs, c.heads, slots, c.head_size), self._dtype)  # or a MemoryError
        self._rolling, self._longest, self._envs = rolling, longest, torch.arange(num_envs)
        self._index = torch.full((num_envs, slots), EMPTY)
        self._next_position = torch.zeros(num_envs, dtype=torch.int64)
        self._ring = Ring(
            num_envs, slots, self._rolling, prefix, 1, self._kv[0], self._kv[1], self._index, self._next_position,
        )  # fmt: skip
        self._scores = [torch.empty(num_envs, -(-(high - low) // PANEL) * PANEL) for low, high, *_ in self._heads]
        self._actions = torch.empty(num_envs, len(self._heads), dtype=torch.int64)
        choices = [
            Choice(low, high - low, self._ordered(low), digit, *parts, head, scores)
            for (low, high, parts, head), digit, scores in zip(
                self._heads, self._masks.digits, self._scores, strict=True
            )
        ]
        self._choices = choices, (Choice * len(choices))(*choices)
        self._request = Request(choices=ctypes.addressof(self._choices[1]), chosen=self._actions.data_ptr())
        parts = self._weights, self._ring, self._request
        self._model_at, self._ring_at, self._request_at = (ctypes.byref(part) for part in parts)
        self._prepare(num_envs)

    def _prepare(self, rows: int) -> None:
        """Prepare for steps of so many environments: logits of their rows, and threads."""
        self._rows, self._ring.threads = rows, self._threads or threads_for(self._model.config, rows)
        self.logits = [s[:rows, : high - low] for s, (low, high, *_) in zip(self._scores, self._heads, strict=True)]

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
        rows = envs.nonzero()
        tokens, local, patches, value_groups = self._checked(prompts, len(rows), self._ring.prompt)
        if tokens.shape[1] != self._ring.prompt:
            raise ValueError(f"prompts of {tokens.shape[1]} tokens, and reset prepared for {self._ring.prompt}")
        first_patch, first_group = ([0, *(tokens == kind).sum(1).cumsum(0).tolist()] for kind in (PATCH, VALUES))
        for row, env in enumerate(rows):
            own = None if patches is None else patches[first_patch[row] : first_patch[row + 1]]
            values = None if value_groups is None else value_groups[first_group[row] : first_group[row + 1]]
            self._call(env, tokens[row], local[row], own, values, 0, GREEDY)

    @torch.inference_mode()
    def step(self, prefill: Prefill, options: StepOptions = GREEDY, envs: Tensor | None = None) -> Tensor:
        """See `Decoder`; the next step overwrites the logits."""
        envs = self._envs if envs is None else envs.contiguous()
        if envs.dtype != torch.int64 or envs.ndim != 1:
            raise ValueError(f"envs {envs.dtype} {list(envs.shape)}: int64 [n] fits")
        if len(envs) != self._rows:
            self._prepare(len(envs))
        inputs = self._checked(prefill, len(envs), self._longest)
        groups = -(-len(self._heads) // ACTION_GROUP)
        if self._weights.decoder and inputs[0].shape[1] < groups:
            raise ValueError(f"{inputs[0].shape[1]} tokens cannot predict {len(self._heads)}: it takes {groups}")
        self._call(envs, *inputs, len(self._heads), options)
        return self._actions[: len(envs)].clone()

    def _checked(
        self, prefill: Prefill, rows: int, longest: int
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Tokens, local positions, patch vectors and value groups that C++ can read safely; else raises ValueError."""
        check_prefill(prefill, rows, longest, self._limits)
        tokens, local, patches, intervals, value_groups = prefill
        if value_groups is not None:
            value_groups = value_groups.to(torch.int16).contiguous()
        vectors = None
        if patches is not None:
            with torch_threads(self._ring.threads):
                vectors = self._patch(patches, intervals, self._patch_vectors).float().contiguous()
        return tokens.contiguous(), local.contiguous(), vectors, value_groups

    def _call(
        self, envs: Tensor, tokens: Tensor, local: Tensor, patches: Tensor | None, value_groups: Tensor | None,
        actions: int,
        options: StepOptions,
    ) -> None:  # fmt: skip
        """Run C++: a step of some environments, or without actions the pass over the prompt of one."""
        request = self._request
        request.num_envs, request.count, request.actions = len(envs), tokens.shape[-1], actions
        request.envs, request.tokens, request.local = envs.data_ptr(), tokens.data_ptr(), local.data_ptr()
        request.patches, request.value_groups = pointer(patches), pointer(value_groups)
        request.patch_count = 0 if patches is None else len(patches)
        request.group_count = 0 if value_groups is None else len(value_groups)
        alive = self._fill_options(options, actions)  # tensors that the request points into
        check(self._compiled, self._compiled.gato_step(self._model_at, self._ring_at, self._request_at))
        del alive

    def _fill_options(self, options: StepOptions, actions: int) -> tuple[Tensor | None, ...]:
        """Write the options of a step into the request; returns the tensors that it points into."""
        request = self._request
        if options is GREEDY:
            request.uniforms = request.forced = request.allowed = None
            request.marginal = 0
            return ()
        allowed = None if options.allowed is None else options.allowed.to(torch.uint8).contiguous()
        uniforms, forced = (None if x is None else x.contiguous() for x in (options.uniforms, options.forced))
        check_option(uniforms, torch.float64, self._rows, actions)
        check_option(forced, torch.int64, self._rows, actions)
        check_option(allowed, torch.uint8, self._rows, self._masks.width)
        request.uniforms, request.forced, request.allowed = pointer(uniforms), pointer(forced), pointer(allowed)
        request.allowed_stride = 0 if allowed is None else allowed.shape[1]
        request.marginal = options.marginal
        request.inverse_temperature = 1.0 if options.temperature is None else float(1 / options.temperature)
        return uniforms, forced, allowed


@cache
def _compiled() -> ctypes.CDLL:
    """The compiled step; raises OSError if it cannot be compiled, or is of another version."""
    return load(SOURCE, "the CPU decoder", ABI, STRUCTS)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in NumPy's memory, which uses large pages on Linux: the cache is read in scattered places."""
    return torch.from_numpy(np.zeros((*shape, dtype.itemsize), np.uint8)).view(dtype).squeeze(-1)
