"""Inputs of control steps: tokens of every environment, with what its episode carries from step to step."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from gato_agent.dataset.unique_patches import flat
from gato_agent.envs.errors import GatoError, SpaceError, UsageError
from gato_agent.envs.spaces.flatten import Columns, columns
from gato_agent.envs.spaces.leaf_table import leaf_kind
from gato_agent.inference.decoders.decoder import Prefill
from gato_agent.tokens.space_tokenizer import PAD, Observed, SpaceTokenizer

Envs = slice | NDArray[np.int64]  # environments of a step: all, or indices in rising order
ALL = slice(None)


class StepInputs:
    """Tokens that enter the model in each step: the last action token if it stays visible, observation, separators.

    Args:
        tokenizer: of the task.
        separator: id of the separator.
        num_envs: environments.

    Attributes:
        steps: int64 [num_envs], steps of each episode so far.
        start: bool [num_envs], environments whose episode begins with the next step unless a caller sets it otherwise.
    """

    def __init__(self, tokenizer: SpaceTokenizer, separator: int, num_envs: int) -> None:
        layout = tokenizer.layout
        self._carried = layout.carried
        self._observed = slice(layout.carried, layout.carried + layout.n_obs)
        local = np.concatenate((np.full(layout.carried, -1), layout.local[: layout.n_prefill]))
        self._tokens = torch.full((num_envs, len(local)), separator)
        self._local = torch.from_numpy(local).repeat(num_envs, 1)
        self._patches = len(tokenizer.patch_intervals)
        self._intervals = torch.from_numpy(tokenizer.patch_intervals).repeat(num_envs, 1, 1)
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self.start = np.ones(num_envs, dtype=np.bool_)

    def begin(self, start: NDArray[np.bool_]) -> None:
        """Begin episodes, bool [num_envs]: a PAD stands in place of the last action token."""
        self._tokens[:, : self._carried].masked_fill_(torch.from_numpy(start).unsqueeze(1), PAD)
        self.steps[start] = 0

    def prefill(self, observed: Observed, envs: Envs = ALL) -> Prefill:
        """Tokens of a step of some environments with these observations; the next step overwrites them."""
        self.start[envs] = False
        self._tokens.numpy()[envs, self._observed] = observed.tokens
        patches, value_groups = (
            torch.from_numpy(flat(part)) if part.size else None for part in (observed.patches, observed.value_groups)
        )
        rows = len(observed.tokens)
        intervals = self._intervals[: rows * self._patches]
        return Prefill(self._tokens[envs], self._local[:rows], patches, intervals, value_groups)

    def finish(self, action: torch.Tensor, envs: Envs = ALL) -> None:
        """End a step of some environments whose action tokens are int64 [env, A]."""
        if self._carried:
            self._tokens[envs, : self._carried] = action[:, action.shape[1] - self._carried :]
        self.steps[envs] += 1

    def state(self) -> tuple[torch.Tensor, NDArray[np.int64], NDArray[np.bool_]]:
        """A copy of all that a step changes."""
        return self._tokens.clone(), self.steps.copy(), self.start.copy()

    def restore(self, state: tuple[torch.Tensor, NDArray[np.int64], NDArray[np.bool_]]) -> None:
        """Restore a `state`."""
        self._tokens, self.steps, self.start = state


def batch_columns(space: gym.Space[Any], observation: Any, name: str) -> Columns:
    """Columns of a batch of observations.

    Args:
        space: of one observation.
        observation: batch in the form of `VectorEnv.observation_space`.
        name: of the task, for messages.

    Raises:
        UsageError: one observation in place of a batch.
        GatoError: the observations are not in the space.
    """
    try:
        return columns(space, observation)
    except SpaceError as error:
        if is_single(space, observation):
            raise UsageError(
                f"{name}: one observation without a batch axis: `act` takes a batch, as gymnasium.vector has them; "
                "`predict` takes one observation too"
            ) from error
        raise GatoError(f"{name}: observations: {error}") from error


def is_single(space: gym.Space[Any], observation: Any) -> bool:
    """True for one observation, False for a batch or what is neither, by the dimensions of its first leaf."""
    try:
        return bool(_is_single(space, observation))
    except (IndexError, KeyError, TypeError, ValueError):  # another structure, which `columns` names
        return False


def _is_single(space: gym.Space[Any], observation: Any) -> bool | None:
    """`is_single` by the first leaf; None for a space without leaves."""
    if isinstance(space, gym.spaces.Dict):
        parts = [(space.spaces[key], observation[key]) for key in sorted(space.spaces)]
    elif isinstance(space, gym.spaces.Tuple):
        parts = list(zip(space.spaces, observation, strict=True))
    else:
        return leaf_kind(space).is_single(space, observation)
    return next((single for part in parts if (single := _is_single(*part)) is not None), None)


def num_envs_of(observation: Columns) -> int:
    """Number of observations in a batch."""
    return len(next(iter(observation.values())))
