"""Roofline measurements: memory bandwidth (B/s), matmul peak (FLOP/s), launch latency (s)."""

import math
import time
from collections.abc import Callable
from functools import cached_property

import torch

from gato_agent.inference.decoders.cuda_graphs import CudaGraphs, GraphStep
from gato_agent.training.flops import peak_flops

WARM_UP = 3  # calls before the timed ones


class Roofline:
    """Roofline of a device, measured at first use and cached."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._bandwidth: dict[int, float] = {}

    def bandwidth(self, size: int) -> float:
        """Bandwidth in B/s of reading `size` bytes repeatedly, from the cache that holds them or from memory."""
        rounded = 2 ** round(math.log2(size))
        if rounded not in self._bandwidth:
            x = torch.ones(rounded // 4, device=self.device)
            if self.device == "cpu":
                walls, _ = timed(lambda: torch.dot(x, x), max(50, 2**31 // rounded), self.device)
            else:  # 20 in one graph: the launch of a single one takes longer than a small read
                sums = self._captured(lambda: [x.sum() for _ in range(20)])
                walls = [wall / 20 for wall in timed(sums, 20, self.device)[0]]
            self._bandwidth[rounded] = rounded / min(walls)
        return self._bandwidth[rounded]

    def peak(self, dtype: torch.dtype) -> float:
        """Peak FLOP/s of a product of square matrices."""
        return peak_flops(self.device, dtype)

    @cached_property
    def launch(self) -> float:
        """Latency in seconds of launching and synchronising a minimal CUDA graph; 0 on a CPU."""
        if self.device == "cpu":
            return 0.0
        x = torch.zeros(1, device=self.device)
        return min(timed(self._captured(lambda: [x.add_(1)]), 50, self.device)[0])

    @staticmethod
    def _captured(work: GraphStep) -> GraphStep:
        """Capture work as a CUDA graph, after one warm-up call."""
        work()
        return CudaGraphs()(work)


def timed(
    step: Callable[[], object], repeats: int, device: str, warm_up: int = WARM_UP
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Wall and CPU times in seconds of each call, after a warm-up."""
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
