"""Validation of the arrays of collected, imported and verified episodes."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, SpaceError, UsageError
from gato_agent.envs.spaces.space_json import space_to_json
from gato_agent.envs.spaces.step_results import MOST
from gato_agent.envs.spaces.values import column_validator
from gato_agent.envs.tasks.task import view_of
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.space_tokenizer import SpaceTokenizer, Vocabulary


class EpisodeValidator:
    """Validator of a task's episodes.

    Args:
        observation_space: space of single observations.
        action_space: space of single actions.
        clip_actions: true to clip actions to the bounds of a Box instead of refusing them.
    """

    def __init__(self, observation_space: Space[Any], action_space: Space[Any], *, clip_actions: bool = False) -> None:
        acted = column_validator(action_space, acted=True, clip=clip_actions)
        self._validators = {"observations": column_validator(observation_space), "actions": acted, "labels": acted}

    def validate(self, episode: Episode) -> Episode:
        """Cast all arrays of an episode to the dtypes of their spaces.

        Raises:
            GatoError: no steps, different numbers of rows, or an invalid value; the message names group, step and
                element.
        """
        rewards = validated_rewards(episode.rewards)
        groups: dict[str, Any] = {}
        for group, validate in self._validators.items():
            columns = getattr(episode, group)
            if columns is None:
                continue
            try:
                groups[group] = validate(columns)
            except SpaceError as error:
                raise GatoError(f"{group}{'' if error.row is None else f', step {error.row}'}: {error}") from error
            rows = len(rewards) + (group == "observations")
            for path, column in groups[group].items():
                if len(column) != rows:
                    named = f"{group} {path!r}" if path else group
                    raise GatoError(f"{named}: {len(column)} rows, but {len(rewards)} steps have {rows}")
        return replace(episode, rewards=rewards, **groups)


def validated_rewards(values: Any) -> NDArray[np.float64]:
    """Rewards as float64 [T]; raises GatoError for no rewards, other shapes, and numbers that are not finite."""
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


def check_learnable(env_id: str, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
    """Raise UsageError for spaces that cannot be tokenized, before any episode is stored."""
    try:
        SpaceTokenizer(observation_space, action_space, Vocabulary(0), view=view_of(env_id, observation_space))
    except SpaceError as error:
        raise UsageError(f"{env_id}: its episodes cannot be tokenized: {error}") from error
    try:
        _ = space_to_json(observation_space), space_to_json(action_space)
    except SpaceError as error:
        raise UsageError(f"{env_id}: its episodes cannot be stored: {error}") from error
