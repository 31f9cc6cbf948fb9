"""What the machine can do at best, measured: bytes and operations a second, and how soon it starts."""

import math
import time
from collections.abc import Callable
from functools import cached_property

import torch

from gato_agent.inference.cuda_graphs import CudaGraphs, GraphStep

WARM_UP = 3  # calls that are not counted


class Roofline:
    """A device as it is measured when it is first asked; later answers are the same."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._bandwidth: dict[int, float] = {}
        self._peak: dict[torch.dtype, float] = {}

    def bandwidth(self, size: int) -> float:
        """Bytes a second of reading `size` bytes again and again, from whichever cache holds them."""
        rounded = 2 ** round(math.log2(size))
        if rounded not in self._bandwidth:
            x = torch.ones(rounded // 4, device=self.device)
            if self.device == "cpu":
                walls, _ = timed(lambda: torch.dot(x, x), max(50, 2**31 // rounded), self.device)
            else:  # many in a call: starting one and waiting for it takes longer than to read a little
                sums = self._captured(lambda: [x.sum() for _ in range(20)])
                walls = [wall / 20 for wall in timed(sums, 20, self.device)[0]]
            self._bandwidth[rounded] = rounded / min(walls)
        return self._bandwidth[rounded]

    def peak(self, dtype: torch.dtype) -> float:
        """Operations a second of a product of square matrices."""
        if dtype not in self._peak:
            n = 512 if self.device == "cpu" else 8192
            x = torch.randn(n, n, device=self.device).to(dtype)  # ones would draw less power, and run faster
            walls, _ = timed(lambda: x @ x, 50, self.device)
            self._peak[dtype] = 2 * n**3 / min(walls)
        return self._peak[dtype]

    @cached_property
    def launch(self) -> float:
        """Seconds to start the smallest CUDA graph and wait for it; nothing on a CPU."""
        if self.device == "cpu":
            return 0.0
        x = torch.zeros(1, device=self.device)
        return min(timed(self._captured(lambda: [x.add_(1)]), 50, self.device)[0])

    @staticmethod
    def _captured(work: GraphStep) -> GraphStep:
        """Work as a CUDA graph, after it was done once."""
        work()
        return CudaGraphs()(work)


def timed(
    step: Callable[[], object], repeats: int, device: str, warm_up: int = WARM_UP
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Wall and processor seconds of each call, after a warm-up."""
    walls, cpus = [], []
    for i in range(repeats + warm_up):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        if device != "cpu":
            torch.cuda.synchronize()
        if i >= warm_up:
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    return walls, cpus
