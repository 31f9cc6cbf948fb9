"""How a step is recorded and fed: tensors at fixed places, filled in one copy, and CUDA graphs that read them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

GraphStep = Callable[[], list[Tensor]]  # one step; returns its logits
InputSpec = tuple[tuple[str, torch.Size, torch.dtype], ...]  # names, shapes and types of what enters
ALIGNED = 16  # bytes


class Inputs:
    """Tensors of a layout that reach a device together.

    Attributes:
        there: by name, at their fixed place on the device.
    """

    def __init__(self, layout: InputSpec, device: torch.device) -> None:
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


class CudaGraphs:
    """Records steps, which do not take place while they are recorded.

    Each decoder has its own, since graphs of one stream share memory of cuBLAS, which is gone with the first of them.
    They are replayed one after the other, so they share their own memory too: a replay overwrites what others found.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: GraphStep) -> GraphStep:
        """Record a step; raises RuntimeError for what cannot be recorded."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                logits = step()
        finally:
            torch.cuda.set_stream(before)  # a recording that fails leaves another

        def replay() -> list[Tensor]:
            graph.replay()
            return logits

        return replay
