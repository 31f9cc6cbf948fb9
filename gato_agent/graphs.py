"""The control step as one CUDA graph: prefill, all passes, and the choice of every token, without Python between them.

A step is recorded for each shape of its inputs and each bucket of filled slots: its first run is an ordinary one, which
warms up what is there to be warmed up; the second is recorded; all later ones are one launch. What enters reaches the
device in one copy from pinned memory, and the action returns in another. Not measured: no GPU was at hand.
"""

import copy
import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from gato_agent.decode import Choose, Legal, Precision, Prefill, TorchDecoder
from gato_agent.envs.errors import UsageError
from gato_agent.model import Gato
from gato_agent.static_cache import StaticCache

Run = Callable[[], list[Tensor]]  # one step; returns its logits
Layout = tuple[tuple[str, torch.Size, torch.dtype], ...]  # names, shapes and types of what enters
ALIGNED = 16  # bytes
RECOMPILED = 64  # times that a block may be compiled: for each number of tokens, of lanes, and of filled slots

_log = logging.getLogger(__name__)


class Inputs:
    """Tensors of a layout that reach a device together.

    Attributes:
        there: by name, at their fixed place on the device.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        sizes = [shape.numel() * dtype.itemsize for _, shape, dtype in layout]
        ends = torch.tensor([-(-size // ALIGNED) * ALIGNED for size in sizes]).cumsum(0).tolist()
        self._host = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._device = torch.empty(ends[-1], dtype=torch.uint8, device=device)
        begins = [0, *ends]

        def views(buffer: Tensor) -> dict[str, Tensor]:
            return {
                name: buffer[begin : begin + size].view(dtype).view(shape)
                for (name, shape, dtype), begin, size in zip(layout, begins, sizes, strict=False)
            }

        self._here, self.there = views(self._host), views(self._device)

    def fill(self, parts: Mapping[str, Tensor]) -> None:
        """Copy new values; those before must have been read."""
        for name, part in parts.items():
            self._here[name].copy_(part)
        self._device.copy_(self._host, non_blocking=True)


class Drawn(Choose):
    """Chooses with noise that was drawn before, as it lies on the device."""

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.temperature = inputs["temperature"]  # type: ignore[assignment]  # as good as a number
        self._noises = iter([part for name, part in inputs.items() if name.startswith("noise")])

    def noise(self, count: int) -> Tensor:
        """That of the next action token."""
        return next(self._noises)


def cuda_graph(step: Run) -> Run:
    """Record a step, which does not take place."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step()

    def replay() -> list[Tensor]:
        graph.replay()
        return logits

    return replay


class GraphDecoder(TorchDecoder):
    """Decodes on a GPU by replaying recorded steps; a `Decoder`. The next step overwrites the logits.

    Args:
        model: in evaluation mode.
        legal: half-open id range of each action token.
        precision: of matrix products and of the cache; bfloat16 takes a copy of the weights.
        compiled: whether blocks are compiled first, which fuses what surrounds their products; takes a copy, too.
        record: makes a replayable step of one.

    Raises:
        UsageError: int8, which is for CPUs.
    """

    def __init__(
        self, model: Gato, legal: Legal, precision: Precision = "float32", *, compiled: bool = False,
        record: Callable[[Run], Run] = cuda_graph,
    ) -> None:  # fmt: skip
        if precision == "int8":
            raise UsageError("--precision int8 is for CPUs: use bfloat16 on a GPU")
        self._half = precision == "bfloat16"
        if self._half or compiled:
            model = copy.deepcopy(model)
        if self._half:
            halve(model)
        if compiled:
            torch.compiler.config.recompile_limit = RECOMPILED
            for block in model.blocks:
                block.compile(fullgraph=True, dynamic=False)
        super().__init__(model, legal)
        self._record: Callable[[Run], Run] | None = record

    def reset(self, lanes: int, longest_pass: int, prompt: int = 0) -> None:
        """See `Decoder`."""
        dtype = torch.bfloat16 if self._half else self.model.norm.weight.dtype
        self.cache: StaticCache = StaticCache(
            self.model.config, lanes, longest_pass, prompt, device=self.device, dtype=dtype
        )
        self._action = torch.zeros(lanes, len(self.legal), dtype=torch.int64, device=self.device)
        self._inputs: dict[Layout, Inputs] = {}
        self._steps: dict[tuple[Layout, int], Run] = {}  # by layout and bucket
        self._recorded: set[tuple[Layout, int]] = set()

    @torch.inference_mode()
    def pin(self, lanes: Tensor, prompts: Prefill) -> None:
        """See `Decoder`."""
        with self._autocast():
            super().pin(lanes, prompts)

    @torch.inference_mode()
    def step(self, prefill: Prefill, choose: Choose) -> Tensor:
        """See `Decoder`."""
        parts = self._parts(prefill, choose)
        layout: Layout = tuple((name, part.shape, part.dtype) for name, part in parts.items())
        if layout not in self._inputs:
            self._inputs[layout] = Inputs(layout, self.device)
        self._inputs[layout].fill(parts)
        more = 0 if self.model.config.parallel_actions else len(self.legal) - 1
        key = layout, self.cache.plan(prefill.tokens.shape[1] + more)
        if key not in self._steps:
            self._steps[key] = self._eager(self._inputs[layout])
        elif key not in self._recorded:
            self._recorded.add(key)
            self._steps[key] = self._replayed(self._steps[key])
        self.logits = self._steps[key]()
        return self._action.to("cpu", copy=True)

    def _parts(self, prefill: Prefill, choose: Choose) -> dict[str, Tensor]:
        """All that a step reads, by name."""
        parts = {name: part for name, part in prefill._asdict().items() if part is not None}
        if choose.temperature:
            parts["temperature"] = torch.tensor(choose.temperature, dtype=torch.float64)
            noises = [choose.noise(high - low) for low, high in self.legal]
            parts |= {f"noise{at}": noise for at, noise in enumerate(noises) if noise is not None}
        return parts

    def _eager(self, inputs: Inputs) -> Run:
        """A step as PyTorch runs it, one operator after the other."""
        prefill = Prefill(*(inputs.there.get(name) for name in Prefill._fields))  # type: ignore[arg-type]

        def step() -> list[Tensor]:
            choose = Drawn(inputs.there) if "temperature" in inputs.there else Choose()
            with self._autocast():
                self._action.copy_(self.decode(prefill, choose))
            return self.logits

        return step

    def _replayed(self, step: Run) -> Run:
        """A step as it was recorded, or as it was where that cannot be done."""
        if self._record is not None:
            try:
                return self._record(step)
            except RuntimeError as error:
                _log.warning("playing without CUDA graphs: %s", error)
                self._record = None
        return step

    def _autocast(self) -> torch.autocast:
        """Products of bfloat16 where the weights are; what is around them stays float32, as in training."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half, cache_enabled=False)


def halve(model: Gato) -> None:
    """Make bfloat16 of the matrices that products read; tables, norms and the patch tower stay as they are."""
    rooms = [model.blocks, model.actions, getattr(model.embedding, "pack", None)]
    for room in rooms:
        for module in room.modules() if room is not None else ():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
