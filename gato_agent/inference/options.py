"""Options of decoding: device, precision, sampling and prompt, as keyword arguments with their types."""

from typing import TypedDict

import torch

from gato_agent.envs.errors import UsageError
from gato_agent.inference.decoders.decoder import Precision
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import Kind


class DecodingOptions(TypedDict, total=False):
    """Keyword arguments of `Agent`, where they are documented, for functions that forward them."""

    device: str
    temperature: float | None
    seed: int
    precision: Precision
    prompt: Kind | None
    demonstration: Episode | None
    num_threads: int | None
    marginal: bool


def resolve_device(device: str) -> str:
    """`auto` -> CUDA where there is one; raises UsageError for a device that is unknown or not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device).cpu()  # which `meta` cannot
    except (RuntimeError, AssertionError) as error:
        cause = (
            str(error).splitlines()[0].partition(" (")[0] if "Expected one of" not in str(error) else "no such device"
        )
        others = "auto or cpu" if device.startswith("cuda") else "auto, cpu or cuda"
        raise UsageError(f"--device {device} cannot be used here ({cause}): choose {others}") from error
    return device
