"""Decoders that keep their logits, and columns of one environment among several."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from gato_agent.envs.spaces.flatten import Columns
from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.decoder import Decoder, Legal, Precision, Prefill, StepOptions
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.model.gato import Gato


def recording(kind: type[TorchDecoder | CpuDecoder], seen: list[Tensor]) -> Callable[..., Decoder]:
    """A `make_decoder` whose decoders keep their logits."""

    def make(model: Gato, legal: Legal, precision: Precision, threads: int | None, digits: Sequence[int]) -> Decoder:
        decoder: Decoder = kind(model, legal, digits=digits)
        step = decoder.step

        def recorded(prefill: Prefill, options: StepOptions, envs: Tensor | None = None) -> Tensor:
            action = step(prefill, options, envs)
            seen.extend(logits.clone() for logits in decoder.logits)
            return action

        decoder.step = recorded  # type: ignore[method-assign]
        return decoder

    return make


def columns_of(batches: list[Columns], env_index: int) -> Columns:
    """Columns of one environment, a row for each batch."""
    return {path: np.stack([batch[path][env_index] for batch in batches]) for path in batches[0]}
