"""Preprocessing for Stable-Baselines3 models and policies that users load in Python.

`predict` of a model does not normalise observations, and counts discrete values from 0. Here observations are
preprocessed as in training, with the statistics of the model's VecNormalize or those that the user names.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.choice_masks import flat_mask
from gato_agent.envs.spaces.flatten import Leaf
from gato_agent.envs.vector import SeparateInfos
from gato_agent.rollouts.experts.action_batches import Misfit
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.experts.sb3.preprocess import Preprocess, starts_elsewhere
from gato_agent.rollouts.experts.sb3.run_files import OPTION, given_statistics
from gato_agent.rollouts.experts.sb3.vecnormalize import Normalizer

Masks = Callable[[], NDArray[np.bool_]]
"""Function without arguments that returns the action masks, bool [num_envs, choices]."""


def is_sb3(expert: Any) -> bool:
    """True for a model or policy of Stable-Baselines3 or sb3-contrib."""
    if "stable_baselines3" not in sys.modules:  # then no object is of it
        return False
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.policies import BasePolicy

    return isinstance(expert, BaseAlgorithm | BasePolicy)


def preprocess_of(
    expert: Any, spaces: Spaces, statistics: str | None, wrappers: Wrappers | None, name: str
) -> Preprocess:
    """Preprocessing of observations and actions for a model or policy.

    Args:
        expert: model or policy.
        spaces: spaces of the environment.
        statistics: file of VecNormalize statistics, or `none`; by default the model's own.
        wrappers: wrappers of its training, see obs_wrappers.py.
        name: name of the expert in messages.

    Raises:
        Misfit: it was trained for other spaces, or with VecNormalize whose statistics are missing.
        GatoError: the statistics are damaged, or another expert's.
    """
    normalize = _own(expert, name) if statistics is None else given_statistics(statistics)
    preprocess = Preprocess(spaces, wrappers or {}, normalize, name)
    theirs = Spaces(expert.observation_space, expert.action_space)
    if any(map(starts_elsewhere, theirs)) and any(map(starts_elsewhere, spaces)):
        raise Misfit(raw_starts(name, spaces))
    for what, has, wanted in zip(("observations", "actions"), preprocess.spaces, theirs, strict=True):
        if _differ(has, wanted):
            raise Misfit(
                f"{name} was trained for {what} {wanted}, and here they are {has}: say with --expert-wrappers what it "
                "was trained behind, or return an object whose predict() makes the one of the other"
            )
    return preprocess


def raw_starts(name: str, spaces: Spaces) -> str:
    """Message for an expert that was trained with discrete values that do not start at 0, unshifted."""
    return (
        f"{name} counts discrete values from 0, as SB3 does, and was trained in an environment where they start "
        f"elsewhere ({spaces.action}, observed {spaces.observation}) without a wrapper that shifts them: its numbers "
        "mean something else here; train it behind such a wrapper, with --expert train, or return an object that "
        "translates them from --expert module:callable"
    )


def _own(expert: Any, name: str) -> Normalizer | None:
    """Statistics of a model's VecNormalize; None if it was trained without."""
    get = getattr(expert, "get_vec_normalize_env", None)
    envs: Any = get() if callable(get) else None
    if envs is not None:
        return Normalizer.of(envs)
    if _behind(expert):
        raise Misfit(
            f"{name} was trained with VecNormalize, and has no statistics: name them with {OPTION}, or "
            "load it with env=VecNormalize.load(...)"
        )
    return None


def _behind(expert: Any) -> bool:
    """True if a model was certainly trained with VecNormalize; zip_model.py does the same for zips."""
    original, last = (getattr(expert, name, None) for name in ("_last_original_obs", "_last_obs"))
    if not hasattr(expert, "replay_buffer"):
        return original is not None
    return original is not None and last is not None and _dtypes(original) != _dtypes(last)


def _dtypes(observation: Any) -> list[Any]:
    arrays = [observation[key] for key in sorted(observation)] if isinstance(observation, dict) else [observation]
    return [np.asarray(array).dtype for array in arrays]


def _differ(ours: Space[Any], theirs: Any) -> bool:
    """True if a policy made for one space certainly cannot act in the other."""
    if isinstance(ours, Dict) and isinstance(theirs, Dict):
        return ours.keys() != theirs.keys() or any(_differ(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, Box) and isinstance(theirs, Box):  # images may have their channels first
        return ours.shape != theirs.shape and (len(ours.shape) != 3 or sorted(ours.shape) != sorted(theirs.shape))
    if isinstance(ours, Discrete) and isinstance(theirs, Discrete):
        return bool(ours.n != theirs.n)
    if isinstance(ours, MultiDiscrete) and isinstance(theirs, MultiDiscrete):
        return not np.array_equal(ours.nvec, theirs.nvec)
    if isinstance(ours, MultiBinary) and isinstance(theirs, MultiBinary):
        return ours.shape != theirs.shape
    known = (Box, Dict, Discrete, MultiBinary, MultiDiscrete)
    return isinstance(ours, known) and isinstance(theirs, known)


def masks_of(envs: VectorEnv[Any, Any, Any] | None) -> Masks | None:
    """Build the function that returns the action masks of environments, bool [num_envs, choices].

    It raises GatoError if an environment has no mask, see `SeparateInfos.action_masks`, or an invalid one.

    Returns:
        None without vector environments.
    """
    if not isinstance(envs, SyncVectorEnv):
        return None
    leaf = Leaf("", envs.single_action_space)
    ask = envs.action_masks if isinstance(envs, SeparateInfos) else lambda: list(envs.call("action_masks"))

    def masks() -> NDArray[np.bool_]:
        values = ask()
        if any(mask is None for mask in values):
            raise GatoError(
                'the environment has no action mask: wrap it so that it has action_masks(), or info["action_mask"]'
            )
        return np.stack([np.concatenate(flat_mask(leaf, mask)) for mask in values])

    return masks
