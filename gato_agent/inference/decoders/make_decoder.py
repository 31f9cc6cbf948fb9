"""Choice of the decoder of a model, by its device and shape."""

import logging
from collections.abc import Sequence
from typing import get_args

from gato_agent.envs.errors import UsageError
from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.cuda_graph_decoder import GraphDecoder
from gato_agent.inference.decoders.decoder import Decoder, Legal, Precision
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.model.gato import Gato

_log = logging.getLogger(__name__)


def make_decoder(
    model: Gato, legal: Legal, precision: Precision = "float32", threads: int | None = None, digits: Sequence[int] = ()
) -> Decoder:
    """The fastest decoder for a model: `CpuDecoder` on a CPU with a C++ compiler, `GraphDecoder` on a CUDA device.

    Elsewhere `TorchDecoder`, with a warning.

    Raises:
        UsageError: a precision that is unknown, or that the device does not have.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r:.80}: choose one of {', '.join(get_args(Precision))}")
    if model.norm.weight.is_cuda:
        return GraphDecoder(model, legal, precision, digits)
    try:
        if model.norm.weight.device.type != "cpu":
            raise OSError("the compiled decoder is for CPUs")
        if not CpuDecoder.fits(model.config):
            raise OSError("the compiled decoder cannot hold a model of this shape")
        return CpuDecoder(model, legal, precision, threads, digits)
    except OSError as error:
        if model.norm.weight.device.type == "cpu" or precision != "float32":
            _log.warning("playing with PyTorch alone, in the model's own precision: %s", error)
        return TorchDecoder(model, legal, digits)
