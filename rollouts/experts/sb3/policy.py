"""A trained Stable-Baselines3 policy as plain data, and that data as an Actor.

Classes and their arguments are found by name in the tables below: a file has no say in what is imported or called.
"""

import hashlib
import importlib
import itertools
import json
from collections.abc import Iterator, Mapping
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
from gato_agent.envs.io.strict_json import typed
from gato_agent.envs.io.tensor_file import parse_header
from gato_agent.envs.io.zip_file import MOST_TIMES
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.sb3.loaded_model import Masks, masks_of, raw_starts
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.experts.sb3.preprocess import Preprocess, starts_elsewhere
from gato_agent.rollouts.experts.sb3.vecnormalize import Normalizer

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy

FORMAT = 1
MOST_LAYERS = 64
MOST_SIZE = 2**12  # of a layer, where no weight in the file is larger
POLICIES = {
    f"{module}.{name}"
    for module, names in {
        "stable_baselines3.common.policies": "ActorCriticPolicy ActorCriticCnnPolicy MultiInputActorCriticPolicy",
        "stable_baselines3.dqn.policies": "DQNPolicy CnnPolicy MultiInputPolicy",
        "stable_baselines3.sac.policies": "SACPolicy CnnPolicy MultiInputPolicy",
        "stable_baselines3.td3.policies": "TD3Policy CnnPolicy MultiInputPolicy",
        "sb3_contrib.ars.policies": "ARSPolicy ARSLinearPolicy",
        "sb3_contrib.qrdqn.policies": "QRDQNPolicy CnnPolicy MultiInputPolicy",
        "sb3_contrib.tqc.policies": "TQCPolicy CnnPolicy MultiInputPolicy",
        "sb3_contrib.crossq.policies": "CrossQPolicy",
        "sb3_contrib.common.maskable.policies": (
            "MaskableActorCriticPolicy MaskableActorCriticCnnPolicy MaskableMultiInputActorCriticPolicy"
        ),
        "sb3_contrib.common.recurrent.policies": (
            "RecurrentActorCriticPolicy RecurrentActorCriticCnnPolicy RecurrentMultiInputActorCriticPolicy"
        ),
    }.items()
    for name in names.split()
}
PLAIN = {  # arguments that are numbers, booleans, or lists and dicts of them
    "net_arch", "log_std_init", "ortho_init", "full_std", "use_expln", "squash_output", "use_sde", "n_critics",
    "n_quantiles", "clip_mean", "with_bias", "share_features_extractor", "normalize_images",
    "features_extractor_kwargs", "lstm_hidden_size", "n_lstm_layers", "shared_lstm", "enable_critic_lstm",
    "lstm_kwargs", "batch_norm", "batch_norm_momentum", "batch_norm_eps", "renorm_warmup_steps",
}  # fmt: skip
PLANES = "gato_agent.rollouts.experts.minatar_cnn.PlanesCNN"
NAMED = {  # arguments that are classes
    "activation_fn": {f"torch.nn.modules.activation.{name}": f"torch.nn.{name}" for name in
                      ("CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish",
                       "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh", "Tanhshrink")},
    "features_extractor_class": {name: name for name in
                                 ("stable_baselines3.common.torch_layers.FlattenExtractor",
                                  "stable_baselines3.common.torch_layers.NatureCNN",
                                  "stable_baselines3.common.torch_layers.CombinedExtractor",
                                  PLANES)} | {"gato_agent.rollouts.planes.PlanesCNN": PLANES},
}  # fmt: skip
UNUSED = {"optimizer_class", "optimizer_kwargs"}  # of no use to a policy that only acts
SIZED = {"net_arch", "features_extractor_kwargs", "lstm_hidden_size", "lstm_kwargs", "n_quantiles"}
COUNTS = {"n_critics", "n_lstm_layers"}
DIGEST = "digest"
NOT_ACTOR = (  # weights that no action depends on
    "critic", "actor_target.", "q_net_target.", "quantile_net_target.", "value_net.", "mlp_extractor.value_net.",
    "vf_features_extractor.", "lstm_critic.", "pi_features_extractor.",  # the last is features_extractor once more
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Policy:
    """All that acting needs of a trained policy, as plain data.

    Attributes:
        policy: dotted name of the policy's class, one of POLICIES.
        kwargs: its arguments beyond the spaces, JSON; classes by dotted name.
        weights: name -> array, as in the class's state dict, without critics and target networks.
        normalize: statistics of the observations it was trained on, if they were normalised.
        notes: where it came from: algo, source, licence.
        wrappers: what it was trained behind, see wrappers.py.
        starts: true if discrete values of the spaces that it was trained in start elsewhere than at 0; not kept.
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
        """Identity of what it does: the same for a zip and for the file made from it."""
        return replace(self, notes={}).digest()

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self._serialised({})).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialise as safetensors with one metadata entry, canonical JSON, which has the digest of all else."""
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
        """Read what `to_bytes` wrote; raises GatoError naming a file that is damaged or of another kind."""
        data = path.read_bytes()
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
            if DIGEST in about and about[DIGEST] != policy.digest():  # which those of earlier versions lack
                raise ValueError("it does not match its digest")
            for name, array in weights.items():
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise ValueError(f"{name:.80} is not finite")
            check_arguments(policy.kwargs, weights)
        except (SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise GatoError(f"{path} is no expert of gato-agent's, or damaged ({error}): restore it") from error
        return policy


class SB3Expert:
    """A trained policy as an Actor: greedy, actions inside the space as SB3's `predict` gives them."""

    def __init__(
        self, policy: "BasePolicy", preprocess: Preprocess, provenance: dict[str, str], masks: Masks | None = None
    ) -> None:
        """Let a policy act; `masks` gives the actions that each environment allows to a policy that takes them."""
        self.provenance = provenance
        self._policy = policy
        self._preprocess = preprocess
        self._masks = masks
        self._state: tuple[NDArray[Any], ...] | None = None

    def seed(self, seed: int) -> None:
        """Nothing to do: greedy actions need no random numbers."""

    def reset(self, num_envs: int) -> None:
        """Forget the recurrent state, if there is one."""
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
    """Make the policy's class for these spaces and give it the weights.

    Args:
        policy: as it was read.
        spaces: of the environment.
        provenance: of the expert.
        envs: the environments; a policy that masks actions asks them.

    Raises:
        GatoError: the policy was trained for other spaces.
    """
    import torch

    name = provenance["source"]
    masks = masks_of(envs) if "maskable" in policy.policy else None
    if unknown := policy.kwargs.keys() - PLAIN - NAMED.keys():
        raise GatoError(f"expert {name} has arguments that no expert may have: {', '.join(sorted(unknown))}")
    if policy.starts and any(map(starts_elsewhere, spaces)):
        raise GatoError(raw_starts(f"expert {name}", spaces))
    preprocess = Preprocess(spaces, policy.wrappers, policy.normalize, name)
    observation_space, action_space = preprocess.spaces
    kwargs = {key: _resolve(value) if key in NAMED else value for key, value in policy.kwargs.items()}
    if "ars" not in policy.policy:
        # An optimizer of torch's own would be of no use, and takes two seconds to import.
        kwargs |= {"lr_schedule": _nothing, "optimizer_class": _nothing}
    try:
        module: BasePolicy = _resolve(policy.policy)(_channels_first(observation_space), action_space, **kwargs)
    except (
        ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError
    ) as error:  # fmt: skip
        raise GatoError(
            f"expert {name} cannot act in these spaces ({one_line(error)}): it was trained for others"
        ) from error
    state = module.state_dict()
    wanted = {key: tuple(tensor.shape) for key, tensor in state.items() if not key.startswith(NOT_ACTOR)}
    found = {key: array.shape for key, array in policy.weights.items()}
    for key in sorted(wanted.keys() | found.keys()):
        there, here = found.get(key, "absent"), wanted.get(key, "absent")
        if there != here:
            raise GatoError(
                f"expert {name} does not fit: {key} is {there} in the file and {here} for this environment; was it "
                f"trained in another one, or behind a wrapper{_likely(there, here)}? Say with --expert-wrappers which, "
                "or return from --expert module:callable an object that does what the wrapper did"
            )
    module.load_state_dict({key: torch.tensor(array) for key, array in policy.weights.items()}, strict=False)
    module.set_training_mode(False)
    return SB3Expert(module, preprocess, provenance, masks)


def _likely(there: Any, here: Any) -> str:
    """The wrapper that would explain the shapes of a first layer's weights [out, in, ...], in words; or an example."""
    if isinstance(there, tuple) and isinstance(here, tuple) and len(there) == len(here) > 1:
        frames, rest = divmod(there[1], here[1] or 1)
        if not rest and frames > 1 and there[:1] + there[2:] == here[:1] + here[2:]:
            return f' (such as VecFrameStack: --expert-wrappers \'{{"frame_stack": {{"n": {frames}}}}}\')'
    return " (such as TimeFeatureWrapper)"


def check_arguments(kwargs: dict[str, Any], weights: Mapping[str, NDArray[Any]]) -> None:
    """Compare the sizes that a file asks for with the weights that it holds, before any network is made.

    Raises:
        ValueError: a layer wider than any weight, more layers, critics or quantiles than there can be, or no number.
    """
    widest = max([MOST_SIZE, *(side for array in weights.values() for side in array.shape)])
    for key in sorted(SIZED & kwargs.keys()):
        sizes = list(_numbers(kwargs[key], key))
        if len(sizes) > MOST_LAYERS or not all(0 <= size <= widest for size in sizes):
            raise ValueError(f"{key} {kwargs[key]!r:.80} asks for a larger network than the weights in the file are of")
        between = [a * b for a, b in itertools.pairwise(sizes)]
        if sum(between) > MOST_TIMES * (sum(array.size for array in weights.values()) + MOST_SIZE):
            raise ValueError(f"{key} {kwargs[key]!r:.80} asks for a larger network than the weights in the file are of")
    for key in sorted(COUNTS & kwargs.keys()):
        if not all(0 <= count <= MOST_LAYERS for count in _numbers(kwargs[key], key)):
            raise ValueError(f"{key} {kwargs[key]!r:.80} is more than a policy has")


def _numbers(value: Any, key: str) -> Iterator[int]:
    """All whole numbers in nested lists and dicts; raises ValueError for others, but not for booleans and None."""
    if isinstance(value, list | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _numbers(entry, key)
    elif type(value) is int:
        yield value
    elif value is not None and type(value) is not bool and not key.endswith("_kwargs"):
        raise ValueError(f"{key} has {value!r:.80}, which is no whole number")


def _channels_first(space: gym.Space[Any]) -> gym.Space[Any]:
    """The space that SB3 makes its networks for: images with their channels first."""
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
    from stable_baselines3.common.vec_env import VecTransposeImage

    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(key, _channels_first(entry)) for key, entry in space.items()])  # in their order
    if isinstance(space, gym.spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def _resolve(name: str) -> Any:
    """The class of that dotted name, if it is in the tables: a file has no say in what is imported."""
    if name not in POLICIES and not any(name in table.values() for table in NAMED.values()):
        raise GatoError(f"{name} is not a class that experts may use")
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _nothing(*_: Any, **__: Any) -> float:
    """Stand in for a learning rate and for an optimizer: the policy only acts."""
    return 0.0
