"""CUDA graphs of steps, and their inputs: tensors at fixed addresses that one copy fills."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

GraphStep = Callable[[], list[Tensor]]  # one step; returns its logits
InputSpec = tuple[tuple[str, torch.Size, torch.dtype], ...]  # names, shapes and dtypes of a step's inputs
ALIGNED = 16  # bytes


class Inputs:
    """Inputs of a step that reach a device in one copy.

    Args:
        spec: names, shapes and dtypes.
        device: of the step.

    Attributes:
        tensors: by name, at fixed addresses on the device.
    """

    def __init__(self, spec: InputSpec, device: torch.device) -> None:
        sizes = [shape.numel() * dtype.itemsize for _, shape, dtype in spec]
        ends = torch.tensor([-(-size // ALIGNED) * ALIGNED for size in sizes]).cumsum(0).tolist()
        self._host = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._device = torch.empty(ends[-1], dtype=torch.uint8, device=device)
        begins = [0, *ends]

        def views(buffer: Tensor) -> dict[str, Tensor]:
            return {
                name: buffer[begin : begin + size].view(dtype).view(shape)
                for (name, shape, dtype), begin, size in zip(spec, begins, sizes, strict=False)
            }

        self._staged, self.tensors = views(self._host), views(self._device)

    def fill(self, parts: Mapping[str, Tensor]) -> None:
        """Copy new values to the device; the previous step must have read its own."""
        for name, part in parts.items():
            self._staged[name].copy_(part)
        self._device.copy_(self._host, non_blocking=True)


class CudaGraphs:
    """Capture of steps as CUDA graphs; capturing a step does not run it.

    Graphs of one stream share cuBLAS memory that is freed with the first of them, so each decoder has its own stream.
    Graphs of a decoder replay one after the other and share one memory pool: a replay overwrites other results.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: GraphStep) -> GraphStep:
        """Capture a step; raises RuntimeError if it cannot be captured."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                logits = step()
        finally:
            torch.cuda.set_stream(before)  # a capture that fails leaves another stream

        def replay() -> list[Tensor]:
            graph.replay()
            return logits

        return replay
