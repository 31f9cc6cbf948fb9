"""Models and policies of Stable-Baselines3 that users load in Python, with what they were trained behind.

`predict` of a model does not normalise observations, and counts discrete values from 0. Here it is called as in
training: with the statistics that the model's own VecNormalize has or that the user names.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError
from gato_agent.envs.vector import SeparateInfos
from gato_agent.rollouts.experts.forms import Misfit, Spaces
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.experts.sb3.preprocess import Preprocess, starts_elsewhere
from gato_agent.rollouts.experts.sb3.run_files import OPTION, given_statistics
from gato_agent.rollouts.experts.sb3.vecnormalize import Normalizer

Masks = Callable[[], NDArray[np.bool_]]
"""Gives bool [num_envs, choices], the actions that each environment allows."""


def is_sb3(expert: Any) -> bool:
    """True for a model or policy of Stable-Baselines3's or sb3-contrib's."""
    if "stable_baselines3" not in sys.modules:  # then nothing can be of it
        return False
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.policies import BasePolicy

    return isinstance(expert, BaseAlgorithm | BasePolicy)


def preprocess_of(
    expert: Any, spaces: Spaces, statistics: str | None, wrappers: Wrappers | None, name: str
) -> Preprocess:
    """What observations and actions of these spaces go through.

    Args:
        expert: a model or policy.
        spaces: of the environment.
        statistics: file of VecNormalize's statistics, or `none`; by default the model's own.
        wrappers: what it was trained behind, see wrappers.py.
        name: of the expert, in messages.

    Raises:
        Misfit: it was trained for other spaces, or behind a VecNormalize that it has not got.
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
    """What is wrong with an expert whose environment was given SB3's numbers although its values start elsewhere."""
    return (
        f"{name} counts discrete values from 0, as SB3 does, and was trained in an environment where they start "
        f"elsewhere ({spaces.action}, observed {spaces.observation}) without a wrapper that shifts them: its numbers "
        "mean something else here; train it behind such a wrapper, with --expert train, or return an object that "
        "translates them from --expert module:callable"
    )


def _own(expert: Any, name: str) -> Normalizer | None:
    """Statistics of the VecNormalize that a model is loaded with; None where it was trained without."""
    get = getattr(expert, "get_vec_normalize_env", None)
    envs: Any = get() if callable(get) else None
    if envs is not None:
        return Normalizer.of(envs)
    if _behind(expert):
        raise Misfit(
            f"{name} was trained behind VecNormalize, and has no statistics: say with {OPTION}, where they are, or "
            "load it with env=VecNormalize.load(...)"
        )
    return None


def _behind(expert: Any) -> bool:
    """True if a model surely was trained behind VecNormalize; sb3.py has the same of zips."""
    original, last = (getattr(expert, name, None) for name in ("_last_original_obs", "_last_obs"))
    if not hasattr(expert, "replay_buffer"):
        return original is not None
    return original is not None and last is not None and _dtypes(original) != _dtypes(last)


def _dtypes(observation: Any) -> list[Any]:
    arrays = [observation[key] for key in sorted(observation)] if isinstance(observation, dict) else [observation]
    return [np.asarray(array).dtype for array in arrays]


def _differ(ours: Space[Any], theirs: Any) -> bool:
    """True where a policy made for one space surely cannot act in the other."""
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
    """Function that gives bool [num_envs, choices], the allowed actions of each environment; None without any.

    It raises GatoError where an environment gives no mask, see `SeparateInfos.action_masks`.
    """
    if not isinstance(envs, SyncVectorEnv):
        return None
    ask = envs.action_masks if isinstance(envs, SeparateInfos) else lambda: list(envs.call("action_masks"))

    def masks() -> NDArray[np.bool_]:
        given = ask()
        if any(mask is None for mask in given):
            raise GatoError(
                "the environment says nothing of the actions that it allows: wrap it so that it has action_masks(), or "
                'info["action_mask"]'
            )
        return np.stack([np.asarray(mask, np.bool_).ravel() for mask in given])

    return masks
