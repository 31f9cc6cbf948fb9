"""One control step: read the observation, then write the action token by token."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gato_agent.cache import Cache
from gato_agent.model import Gato

Choose = Callable[[Tensor], Tensor]  # logits [lanes, ids] -> index of the chosen id [lanes]


class Prefill(NamedTuple):
    """What enters the model before the first action token: last action token, observation, separator."""

    tokens: Tensor  # integer [lanes, 1 + n_obs + 1]
    local: Tensor  # integer, the same shape
    patches: Tensor | None  # uint8 [lanes * k, 16, 16, 4]
    intervals: Tensor | None  # integer [lanes * k, 2, 2]


def greedy(logits: Tensor) -> Tensor:
    """The likeliest id."""
    return logits.argmax(-1)


def sampler(temperature: float, generators: list[torch.Generator]) -> Choose:
    """Sample from softmax(logits / temperature), one random stream a lane so that lanes do not disturb each other."""

    def choose(logits: Tensor) -> Tensor:
        noise = torch.stack([torch.rand(logits.shape[1], generator=g, dtype=torch.float64) for g in generators])
        gumbel = -torch.log(-torch.log(noise.clamp(min=1e-300)))
        return (logits.double() / temperature + gumbel.to(logits.device)).argmax(-1)

    return choose


@torch.inference_mode()
def control_step(model: Gato, cache: Cache, prefill: Prefill, legal: list[tuple[int, int]], choose: Choose) -> Tensor:
    """Decode one action per lane; every token is chosen among the ids that are legal for it.

    The separator's hidden state gives the first token and each token gives the next, so an action of A tokens takes
    A passes; the last one is not fed back here but enters with the next observation.

    Args:
        model: in evaluation mode.
        cache: of as many lanes as `prefill` has; grows by the prefill and all action tokens but the last.
        prefill: the tokens since the cache's last one.
        legal: half-open id range of each action token.
        choose: picks one of the legal ids.

    Returns:
        Action tokens, int64 [lanes, A].
    """
    tokens, local, patches, intervals = prefill
    hidden = model(tokens, patches, local=local, intervals=intervals, cache=cache)[:, -1]
    action: list[Tensor] = []
    for low, high in legal:
        if action:
            hidden = model(action[-1].unsqueeze(1), cache=cache)[:, -1]
        action.append(low + choose(model.logits(hidden, low, high)))
    return torch.stack(action, dim=1)
