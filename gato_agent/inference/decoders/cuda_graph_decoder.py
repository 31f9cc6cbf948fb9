"""The control step as one CUDA graph: prefill, all passes and the choice of every token in a single launch.

A step is captured at the first inputs of a shape, once for each bucket of filled slots, after an ordinary run that
warms up. Inputs reach the device in one copy from pinned memory, and the action returns in another. Prompts are
ordinary passes.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gato_agent.envs.errors import UsageError
from gato_agent.inference.decoders.cuda_graphs import CudaGraphs, GraphStep, Inputs, InputSpec
from gato_agent.inference.decoders.decoder import GREEDY, Legal, Precision, Prefill, StepOptions
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.model.bf16_linear import use_bfloat16_weights
from gato_agent.model.gato import Gato
from gato_agent.model.kv_cache import EMPTY, KVCache

_log = logging.getLogger(__name__)


class GraphDecoder(TorchDecoder):
    """Decoder on a GPU that replays captured steps; a `Decoder`. The next step overwrites the logits.

    Weights must stay at their addresses: the graphs ignore a model that is moved afterwards.

    Args:
        model: in evaluation mode.
        legal: half-open id range of each action token.
        precision: of weights and cache; bfloat16 takes a copy of the weights.
        digits: see `TorchDecoder`.
        capture: makes a step replayable; by default as a CUDA graph.

    Raises:
        UsageError: int8, which is for CPUs.
    """

    def __init__(
        self, model: Gato, legal: Legal, precision: Precision = "float32", digits: Sequence[int] = (), *,
        capture: Callable[[GraphStep], GraphStep] | None = None,
    ) -> None:  # fmt: skip
        if precision == "int8":
            raise UsageError("--precision int8 is for CPUs: use bfloat16 on a GPU")
        self._dtype = torch.bfloat16 if precision == "bfloat16" else model.norm.weight.dtype
        if precision == "bfloat16":
            model = copy.deepcopy(model)
            for part in (model.blocks, model.action_decoder, getattr(model.embedding, "value_group", None)):
                if part is not None:  # the patch tower stays in float32
                    use_bfloat16_weights(part)
        super().__init__(model, legal, digits)
        self._capture: Callable[[GraphStep], GraphStep] | None = capture or CudaGraphs()
        self._shape = (0, 0, 0)

    def reset(self, num_envs: int, longest: int, prefix: int = 0) -> None:
        """See `Decoder`; captured steps stay valid while the arguments are the same."""
        if self._shape == (num_envs, longest, prefix):
            self.cache.clear()
            self._begin.fill_(EMPTY)
            return
        self.cache = KVCache(self.model.config, num_envs, longest - 1, prefix, device=self.device, dtype=self._dtype)
        self._shape = num_envs, longest, prefix
        shape = num_envs, len(self.legal)
        self._begin: Tensor = torch.full((num_envs,), EMPTY)  # position of environments that begin with the next step
        self._action = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self._answer = torch.zeros(shape, dtype=torch.int64, pin_memory=self.device.type == "cuda")
        self._inputs: dict[InputSpec, Inputs] = {}
        self._steps: dict[tuple[InputSpec, int], GraphStep] = {}  # by inputs and bucket

    @torch.inference_mode()
    def prefill_prefix(self, envs: Tensor, prompts: Prefill) -> None:
        """See `Decoder`."""
        with fused(self.device):
            super().prefill_prefix(envs, prompts)

    def reset_envs(self, envs: Tensor, position: int = 0) -> None:
        """See `Decoder`; it takes place in the next step."""
        self.cache.plan_reset(envs, position)
        self._begin.masked_fill_(envs, position)

    @torch.inference_mode()
    def step(self, prefill: Prefill, options: StepOptions = GREEDY, envs: Tensor | None = None) -> Tensor:
        """See `Decoder`."""
        if envs is not None:
            return self._step_some(prefill, options, envs)
        parts = {
            name: part
            for name, part in {**prefill._asdict(), **options._asdict(), "begin": self._begin}.items()
            if isinstance(part, Tensor)
        }
        shapes = tuple((name, part.shape, part.dtype) for name, part in parts.items())
        layout: InputSpec = (*shapes, *([("marginal", torch.Size(), torch.bool)] if options.marginal else []))
        inputs = self._inputs.get(layout) or Inputs(layout, self.device)
        inputs.fill(parts)
        if layout not in self._inputs:
            self._prepare(layout, inputs, options.marginal)
            self._inputs[layout] = inputs
        self._begin.fill_(EMPTY)
        bucket = self.cache.plan(prefill.tokens.shape[1] + self.passes - 1, self.rewound)
        self.logits = self._steps[layout, bucket]()
        self._answer.copy_(self._action, non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return self._answer.clone()

    def _prepare(self, layout: InputSpec, inputs: Inputs, marginal: bool) -> None:
        """Capture the step for every bucket, so that no later step waits for it; leaves the cache as it was."""
        cache, step = self.cache, self._step(inputs, marginal)
        state = [cache.index, cache.next_position, cache.k, cache.v]
        saved = [part.clone() for part in state]
        for bucket in cache.buckets:
            cache.bucket = bucket
            step()
            for part, before in zip(state, saved, strict=True):
                part.copy_(before)
            self._steps[layout, bucket] = self._captured(step)

    def _step(self, inputs: Inputs, marginal: bool) -> GraphStep:
        """The step as ordinary operators of PyTorch."""
        tensors = inputs.tensors
        prefill = Prefill(*(tensors.get(name) for name in Prefill._fields))  # type: ignore[arg-type]
        options = StepOptions(**{name: tensors.get(name) for name in StepOptions._fields[:-1]}, marginal=marginal)

        def step() -> list[Tensor]:
            cache, begin = self.cache, tensors["begin"]
            new = begin != EMPTY
            cache.index.masked_fill_(new.unsqueeze(1), EMPTY)
            cache.next_position.copy_(torch.where(new, begin, cache.next_position))
            with fused(self.device):
                self._action.copy_(self.decode(prefill, options))
            return self.logits

        return step

    def _captured(self, step: GraphStep) -> GraphStep:
        """The step captured, or unchanged if it cannot be captured."""
        if self._capture is not None:
            try:
                return self._capture(step)
            except RuntimeError as error:
                _log.warning("playing without CUDA graphs: %s", error)
                self._capture = None
        return step


@contextmanager
def fused(device: torch.device) -> Iterator[None]:
    """Context in which attention uses fused kernels that take a mask and exist in both precisions."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield
