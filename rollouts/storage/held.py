"""Episodes that this project can hold: what is collected, imported and verified passes this one check."""

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, SpaceError
from gato_agent.envs.spaces.values import MOST, column_holder
from gato_agent.rollouts.storage.episode import Episode


class EpisodeHolder:
    """The check of a task's episodes.

    Args:
        observation_space: of single observations.
        action_space: of single actions.
        clip_actions: clips actions beyond the bounds of a Box instead of refusing them.
    """

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], *, clip_actions: bool = False) -> None:
        acted = column_holder(action_space, acted=True, clip=clip_actions)
        self._holders = {"observations": column_holder(observation_space), "actions": acted, "labels": acted}

    def hold(self, episode: Episode) -> Episode:
        """The episode with all arrays in the dtypes of their spaces.

        Raises:
            GatoError: it has no steps, rows that do not match, or a value that cannot be held; the message names the
                group, the step and the element.
        """
        rewards = held_rewards(episode.rewards)
        groups: dict[str, Any] = {}
        for group, hold in self._holders.items():
            columns = getattr(episode, group)
            if columns is None:
                continue
            try:
                groups[group] = hold(columns)
            except SpaceError as error:
                raise GatoError(f"{group}{'' if error.row is None else f', step {error.row}'}: {error}") from error
            rows = len(rewards) + (group == "observations")
            for path, column in groups[group].items():
                if len(column) != rows:
                    named = f"{group} {path!r}" if path else group
                    raise GatoError(f"{named}: {len(column)} rows, where {len(rewards)} steps have {rows}")
        return replace(episode, rewards=rewards, **groups)


def held_rewards(values: Any) -> NDArray[np.float64]:
    """Rewards as float64 [T]; raises GatoError for none, for other shapes, and for what is not finite."""
    raw = np.asarray(values)
    if raw.ndim != 1 or not len(raw) or raw.dtype.kind not in "biuf":
        raise GatoError(
            f"rewards: shape {raw.shape} of {raw.dtype} instead of one number for each of at least one step"
        )
    rewards = raw.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = ~(abs(rewards) < MOST) | ~(abs(np.cumsum(rewards)) < MOST)
    if wrong.any():
        step = int(np.argmax(wrong))
        raise GatoError(
            f"rewards, step {step}: {rewards[step]:g}, with which the return is not finite or beyond {MOST:g}"
        )
    return rewards
