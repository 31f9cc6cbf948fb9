"""FLOPs of a training step by formula, and the measured peak FLOP/s of a device: their ratio is the utilisation.

Counted are matrix products, attention within the context, the patch tower, and the logits of targets; a multiply-add
counts as two. The backward pass takes twice as much as the forward pass (Kaplan et al. 2020). Attention is counted as
if every sequence were one episode: sequences of several short episodes need a little less.
"""

import time
from functools import cache

import torch

from gato_agent.dataset.batch import Batch
from gato_agent.model.action_decoder import Scores
from gato_agent.model.config import GatoConfig
from gato_agent.model.embedding import VALUE_WIDTH
from gato_agent.tokens.leaf_codecs import distinct
from gato_agent.tokens.space_tokenizer import PATCH_SIZE


def training_flops(config: GatoConfig, batch: Batch) -> float:
    """FLOPs of one forward and backward pass over a batch."""
    sequences, length = batch.tokens.shape
    seen = min(length, config.context)  # keys of the last query; the first ones have fewer
    pairs = sequences * (length * seen - seen * (seen - 1) / 2)
    matrices = config.layers * (4 * config.width**2 + config.feed_forward * config.width * 3 // 2)
    forward = 2.0 * sequences * length * matrices + 4 * pairs * config.layers * config.width
    state, split, chain = Scores.of(config)
    for at, ranges in enumerate(batch.targets.ranges):
        for low, high, rows, learned in ranges:
            count = len(rows) + (len(learned) if chain and at else 0)  # marginal states, and conditional ones
            forward += 2 * count * (split + state * (high - low))
    if batch.patches is not None:
        unique = distinct(batch.patches.numpy())[0] if batch.patches.device.type == "cpu" else batch.patches
        forward += patch_flops(config) * len(unique)
    if batch.value_groups is not None:
        forward += 2.0 * batch.value_groups.numel() * VALUE_WIDTH * config.width
    return 3 * forward


def patch_flops(config: GatoConfig) -> float:
    """FLOPs of embedding one image patch."""
    stem, *units = config.patch_channels
    size = PATCH_SIZE // 2
    total = 2.0 * 7 * 7 * 4 * stem * size**2
    for channels, out in zip(config.patch_channels, units, strict=False):
        total += 2 * 9 * channels * (out // 2) * size**2
        size = (size + 1) // 2
        total += 2 * (9 * (out // 2) + channels) * out * size**2
    return total + (2 * units[-1] * config.width if units[-1] != config.width else 0)


class RunningPeak:
    """Largest FLOP/s of a run: measured, or achieved in a step.

    A peak that was measured while other programs used the device is too low. It is measured again when a step exceeds
    it, so that no utilisation is above 1.

    Args:
        device: device of the run.
        dtype: of its matrix products.
    """

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self.value = peak_flops(device, dtype)

    def utilisation(self, flops: float, seconds: float) -> float:
        """Share of the peak in a step of so many FLOPs and seconds, in (0, 1]."""
        rate = flops / seconds
        if rate > self.value:
            self.value = max(rate, measure_peak(self._device, self._dtype))
        return rate / self.value


@cache
def peak_flops(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Peak FLOP/s of a device, measured once."""
    return measure_peak(device, dtype)


def measure_peak(device: str, dtype: torch.dtype) -> float:
    """Peak FLOP/s of a product of large square matrices on a device: the best of up to ten."""
    size = 1024 if device == "cpu" else 8192
    own = torch.Generator(device).manual_seed(0)  # training's random numbers do not depend on this
    x = torch.randn(size, size, device=device, generator=own).to(dtype)  # constant data would draw less power
    best, start = float("inf"), time.perf_counter()
    for repeat in range(10):
        began = time.perf_counter()
        if device == "cpu" and repeat > 0 and began - start > 0.5:  # bfloat16 can take seconds
            break
        x @ x
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
