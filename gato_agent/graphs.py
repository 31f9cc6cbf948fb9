"""The control step as one CUDA graph: prefill, all passes, and the choice of every token, without Python between them.

A step is recorded when inputs of a shape first come, once for each bucket of filled slots, after an ordinary run that
warms up what is to be warmed up; afterwards each is one launch. What enters reaches the device in one copy from pinned
memory, and the action returns in another. Prompts, which come once an episode, are ordinary passes. Not measured: no
GPU was at hand.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gato_agent.cache import NEVER
from gato_agent.decode import Choose, Legal, Precision, Prefill, TorchDecoder
from gato_agent.envs.errors import UsageError
from gato_agent.halved import halve
from gato_agent.model import Gato
from gato_agent.recording import CudaGraphs, Drawn, Inputs, Layout, Run
from gato_agent.static_cache import StaticCache

RECOMPILED = 64  # times that a block may be compiled: for each number of tokens, of lanes, and of filled slots

_log = logging.getLogger(__name__)


class GraphDecoder(TorchDecoder):
    """Decodes on a GPU by replaying recorded steps; a `Decoder`. The next step overwrites the logits.

    Weights must stay where they are: a model that is moved afterwards is played as it was.

    Args:
        model: in evaluation mode.
        legal: half-open id range of each action token.
        precision: of weights and cache; bfloat16 takes a copy of the weights.
        compiled: whether blocks are compiled first, which fuses what surrounds their products; takes a copy, too.
        record: makes a replayable step of one; by default a CUDA graph.

    Raises:
        UsageError: int8, which is for CPUs.
    """

    def __init__(
        self, model: Gato, legal: Legal, precision: Precision = "float32", *, compiled: bool = False,
        record: Callable[[Run], Run] | None = None,
    ) -> None:  # fmt: skip
        if precision == "int8":
            raise UsageError("--precision int8 is for CPUs: use bfloat16 on a GPU")
        self._dtype = torch.bfloat16 if precision == "bfloat16" else model.norm.weight.dtype
        if precision == "bfloat16" or compiled:
            model = copy.deepcopy(model)
        if precision == "bfloat16":
            for room in (model.blocks, model.actions, getattr(model.embedding, "pack", None)):
                if room is not None:  # the patch tower stays as it is
                    halve(room)
        if compiled:
            torch.compiler.config.recompile_limit = RECOMPILED
            for block in model.blocks:
                block.compile(fullgraph=True, dynamic=False)
        super().__init__(model, legal)
        self._record: Callable[[Run], Run] | None = record or CudaGraphs()
        self._shape = (0, 0, 0)

    def reset(self, lanes: int, longest_pass: int, prompt: int = 0) -> None:
        """See `Decoder`; what was recorded is kept where the shape is that of before."""
        if self._shape == (lanes, longest_pass, prompt):
            self.cache.clear()
            self._begin.fill_(NEVER)
            return
        self._shape = lanes, longest_pass, prompt
        self.cache: StaticCache = StaticCache(
            self.model.config, lanes, longest_pass, prompt, device=self.device, dtype=self._dtype
        )
        shape = lanes, len(self.legal)
        self._begin: Tensor = torch.full((lanes,), NEVER)  # age of lanes that begin anew with the next step
        self._action = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self._answer = torch.zeros(shape, dtype=torch.int64, pin_memory=self.device.type == "cuda")
        self._inputs: dict[Layout, Inputs] = {}
        self._steps: dict[tuple[Layout, int], Run] = {}  # by layout and bucket

    @torch.inference_mode()
    def pin(self, lanes: Tensor, prompts: Prefill) -> None:
        """See `Decoder`."""
        with fused(self.device):
            super().pin(lanes, prompts)

    def restart(self, lanes: Tensor, age: int = 0) -> None:
        """See `Decoder`; it takes place in the next step."""
        self._begin.masked_fill_(lanes, age)

    @torch.inference_mode()
    def step(self, prefill: Prefill, choose: Choose) -> Tensor:
        """See `Decoder`."""
        parts = self._parts(prefill, choose)
        layout: Layout = tuple((name, part.shape, part.dtype) for name, part in parts.items())
        inputs = self._inputs.get(layout) or Inputs(layout, self.device)
        inputs.fill(parts)
        if layout not in self._inputs:
            self._prepare(layout, inputs)
            self._inputs[layout] = inputs
        self._begin.fill_(NEVER)
        more = 0 if self.model.config.parallel_actions else len(self.legal) - 1
        self.logits = self._steps[layout, self.cache.plan(prefill.tokens.shape[1] + more)]()
        self._answer.copy_(self._action, non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return self._answer.clone()

    def _parts(self, prefill: Prefill, choose: Choose) -> dict[str, Tensor]:
        """All that a step reads, by name."""
        parts = {name: part for name, part in prefill._asdict().items() if part is not None} | {"begin": self._begin}
        if choose.temperature:
            parts["temperature"] = torch.tensor(choose.temperature, dtype=torch.float64)
            noises = [choose.noise(high - low) for low, high in self.legal]
            parts |= {f"noise{at}": noise for at, noise in enumerate(noises) if noise is not None}
        return parts

    def _prepare(self, layout: Layout, inputs: Inputs) -> None:
        """Record the step for every bucket, and leave the cache as it was, so that no later step waits for it."""
        cache, step = self.cache, self._step(inputs)
        state = [cache.index, cache.age, cache.written] + ([cache.k, cache.v] if cache.used else [])
        kept = [part.clone() for part in state]
        for bucket in cache.buckets:
            cache.bucket = bucket
            step()
            for part, before in zip(state, kept, strict=True):
                part.copy_(before)
            self._steps[layout, bucket] = self._recorded(step)

    def _step(self, inputs: Inputs) -> Run:
        """A step as PyTorch runs it, one operator after the other."""
        prefill = Prefill(*(inputs.there.get(name) for name in Prefill._fields))  # type: ignore[arg-type]

        def step() -> list[Tensor]:
            cache, begin = self.cache, inputs.there["begin"]
            new = begin != NEVER
            cache.index.masked_fill_(new.unsqueeze(1), NEVER)
            cache.age.copy_(torch.where(new, begin, cache.age))
            choose = Drawn(inputs.there) if "temperature" in inputs.there else Choose()
            with fused(self.device):
                self._action.copy_(self.decode(prefill, choose))
            return self.logits

        return step

    def _recorded(self, step: Run) -> Run:
        """A step to be replayed, or as it was where it cannot be recorded."""
        if self._record is not None:
            try:
                return self._record(step)
            except RuntimeError as error:
                _log.warning("playing without CUDA graphs: %s", error)
                self._record = None
        return step


@contextmanager
def fused(device: torch.device) -> Iterator[None]:
    """Attention by the kernels that take a mask and are the same for both precisions."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield
