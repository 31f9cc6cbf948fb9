"""A trained Stable-Baselines3 policy as plain data, and as an Actor.

Classes and their arguments come from the tables below, so a file cannot name anything else to import or call.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gato_agent.envs.errors import GatoError, one_line
from gato_agent.envs.files import read_named
from gato_agent.envs.io.strict_json import typed
from gato_agent.envs.io.tensor_file import parse_header
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.sb3.loaded_model import Masks, masks_of, raw_starts
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.experts.sb3.policy_classes import NAMED, NOT_ACTOR, PLAIN, check_arguments, resolve
from gato_agent.rollouts.experts.sb3.preprocess import Preprocess, starts_elsewhere
from gato_agent.rollouts.experts.sb3.vecnormalize import Normalizer

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy

FORMAT = 1
DIGEST = "digest"


@dataclass(frozen=True, eq=False)
class Policy:
    """Plain data of a trained policy.

    Attributes:
        policy: dotted name of the policy's class, one of POLICIES.
        kwargs: arguments of the class except the spaces, JSON; classes by dotted name.
        weights: name -> array, as in the class's state dict, without critics and target networks.
        normalize: statistics of its observations, if they were normalised.
        notes: origin: algorithm, source, licence.
        wrappers: wrappers of its training, see obs_wrappers.py.
        starts: true if discrete values of its training's spaces do not start at 0; not stored.
    """

    policy: str
    kwargs: dict[str, Any]
    weights: dict[str, NDArray[Any]]
    normalize: Normalizer | None = None
    notes: dict[str, str] = field(default_factory=dict)
    wrappers: Wrappers = field(default_factory=dict)
    starts: bool = False

    @property
    def sha256(self) -> str:
        """SHA-256 without the notes: equal for a zip and for the file converted from it."""
        return replace(self, notes={}).digest()

    def digest(self) -> str:
        """SHA-256 of all fields that are stored."""
        return hashlib.sha256(self._serialised({})).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialise as safetensors with one metadata entry of canonical JSON, which includes the digest."""
        return self._serialised({DIGEST: self.digest()})

    def _serialised(self, more: dict[str, Any]) -> bytes:
        about = (
            more
            | {
                "format": FORMAT,
                "policy": self.policy,
                "kwargs": self.kwargs,
                "normalize": self.normalize and self.normalize.to_json(),
                "notes": self.notes,
            }
            | ({"wrappers": self.wrappers} if self.wrappers else {})
        )
        return save(self.weights, {"gato": json.dumps(about, sort_keys=True, allow_nan=False)})

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a file of `to_bytes`; raises GatoError naming a file that is damaged or no policy."""
        data = read_named(path)
        try:
            about = parse_header(data, len(data)).about or {}
            if about["format"] != FORMAT:
                raise GatoError(f"{path} has format {about['format']}, this version reads {FORMAT}: upgrade gato-agent")
            weights = load(data)
            stats = None if about["normalize"] is None else Normalizer.from_json(about["normalize"])
            policy = cls(
                typed(about["policy"], str, "policy"), typed(about["kwargs"], dict[str, Any], "kwargs"), weights, stats,
                typed(about["notes"], dict[str, str], "notes"),
                typed(about.get("wrappers", {}), dict[str, dict[str, int]], "wrappers"),
            )  # fmt: skip
            if DIGEST in about and about[DIGEST] != policy.digest():  # version 0.1 wrote no digest
                raise ValueError("it does not match its digest")
            for name, array in weights.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise ValueError(f"{name:.80} is not finite")
            check_arguments(policy.kwargs, weights)
        except (SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise GatoError(f"{path} is no expert of gato-agent, or damaged ({error}): restore it") from error
        return policy


class SB3Expert:
    """A trained policy as an Actor: greedy actions of SB3's `predict`."""

    def __init__(
        self, policy: "BasePolicy", preprocess: Preprocess, provenance: dict[str, str], masks: Masks | None = None
    ) -> None:
        """Combine a policy and its preprocessing; `masks` returns action masks for a maskable policy."""
        self.provenance = provenance
        self._policy = policy
        self._preprocess = preprocess
        self._masks = masks
        self._state: tuple[NDArray[Any], ...] | None = None

    def seed(self, seed: int) -> None:
        """Nothing to do: greedy actions need no random numbers."""

    def reset(self, num_envs: int) -> None:
        """Clear the recurrent state, if there is one."""
        self._state = None
        self._preprocess.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> NDArray[Any]:
        """Greedy actions [num_envs, ...] for a batch of observations."""
        seen = self._preprocess.observe(observation, start)
        more: dict[str, Any] = {} if self._masks is None else {"action_masks": self._masks()}
        actions, self._state = self._policy.predict(seen, self._state, start, deterministic=True, **more)
        taken: NDArray[Any] = self._preprocess.action(actions)
        return taken


def build(
    policy: Policy, spaces: Spaces, provenance: dict[str, str], envs: VectorEnv[Any, Any, Any] | None = None
) -> SB3Expert:
    """Make the policy's network for these spaces and load its weights.

    Args:
        policy: the policy's data.
        spaces: spaces of the environment.
        provenance: provenance of the expert.
        envs: environments, which give a maskable policy its action masks.

    Raises:
        GatoError: the policy was trained for other spaces.
    """
    import torch

    name = provenance["source"]
    masks = masks_of(envs) if "maskable" in policy.policy else None
    if unknown := policy.kwargs.keys() - PLAIN - NAMED.keys():
        raise GatoError(f"expert {name} has unsupported arguments: {', '.join(sorted(unknown))}")
    if policy.starts and any(map(starts_elsewhere, spaces)):
        raise GatoError(raw_starts(f"expert {name}", spaces))
    preprocess = Preprocess(spaces, policy.wrappers, policy.normalize, name)
    observation_space, action_space = preprocess.spaces
    kwargs = {key: resolve(value) if key in NAMED else value for key, value in policy.kwargs.items()}
    if "ars" not in policy.policy:
        # Acting needs no optimizer, and torch's take long to import.
        kwargs |= {"lr_schedule": _nothing, "optimizer_class": _nothing}
    try:
        module: BasePolicy = resolve(policy.policy)(_channels_first(observation_space), action_space, **kwargs)
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError
    ) as error:  # fmt: skip
        raise GatoError(
            f"expert {name} cannot act in these spaces ({one_line(error)}): it was trained for others"
        ) from error
    state = module.state_dict()
    wanted = {key: tuple(tensor.shape) for key, tensor in state.items() if not key.startswith(NOT_ACTOR)}
    stored = {key: array.shape for key, array in policy.weights.items()}
    for key in sorted(wanted.keys() | stored.keys()):
        in_file, needed = stored.get(key, "absent"), wanted.get(key, "absent")
        if in_file != needed:
            raise GatoError(
                f"expert {name} does not fit: {key} is {in_file} in the file and {needed} for this environment; was it "
                f"trained in another one, or with a wrapper{_likely(in_file, needed)}? Name it with --expert-wrappers, "
                "or return from --expert module:callable an object that does the wrapper's work"
            )
    module.load_state_dict({key: torch.tensor(array) for key, array in policy.weights.items()}, strict=False)
    module.set_training_mode(False)
    return SB3Expert(module, preprocess, provenance, masks)


def _likely(in_file: Any, needed: Any) -> str:
    """Wrapper that explains the shapes of a first layer's weights [out, in, ...], for a message; or an example."""
    if isinstance(in_file, tuple) and isinstance(needed, tuple) and len(in_file) == len(needed) > 1:
        frames, rest = divmod(in_file[1], needed[1] or 1)
        if not rest and frames > 1 and in_file[:1] + in_file[2:] == needed[:1] + needed[2:]:
            return f' (such as VecFrameStack: --expert-wrappers \'{{"frame_stack": {{"n": {frames}}}}}\')'
    return " (such as TimeFeatureWrapper)"


def _channels_first(space: gym.Space[Any]) -> gym.Space[Any]:
    """Space of SB3's networks: images with channels first."""
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
    from stable_baselines3.common.vec_env import VecTransposeImage

    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(key, _channels_first(entry)) for key, entry in space.items()])  # in their order
    if isinstance(space, gym.spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def _nothing(*_: Any, **__: Any) -> float:
    """Stand in for a learning rate and for an optimizer: the policy only acts."""
    return 0.0
