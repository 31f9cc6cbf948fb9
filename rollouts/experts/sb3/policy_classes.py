"""Classes of policies, and arguments of theirs, that a file may name: nothing else is imported or called."""

import importlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError
from gato_agent.envs.io.zip_file import MOST_TIMES

MOST_LAYERS = 64
MOST_SIZE = 2**12  # width of a layer, unless a weight in the file is larger
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
UNUSED = {"optimizer_class", "optimizer_kwargs"}  # unused when acting
SIZED = {"net_arch", "features_extractor_kwargs", "lstm_hidden_size", "lstm_kwargs", "n_quantiles"}
COUNTS = {"n_critics", "n_lstm_layers"}
NOT_ACTOR = (  # prefixes of weights that actions do not depend on
    "critic", "actor_target.", "q_net_target.", "quantile_net_target.", "value_net.", "mlp_extractor.value_net.",
    "vf_features_extractor.", "lstm_critic.", "pi_features_extractor.",  # the last is a copy of features_extractor
)  # fmt: skip


def check_arguments(kwargs: dict[str, Any], weights: Mapping[str, NDArray[Any]]) -> None:
    """Compare the declared sizes of a network with the weights of its file, before the network is made.

    Raises:
        ValueError: a layer wider than any weight, too many layers, critics or quantiles, or no number.
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
    """Yield all integers in nested lists and dicts; raises ValueError for values other than bools and None."""
    if isinstance(value, list | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _numbers(entry, key)
    elif type(value) is int:
        yield value
    elif value is not None and type(value) is not bool and not key.endswith("_kwargs"):
        raise ValueError(f"{key} has {value!r:.80}, which is no whole number")


def resolve(name: str) -> Any:
    """The class of that dotted name, if it is in the tables: a file has no say in what is imported."""
    for table in NAMED.values():
        name = table.get(name, name)  # the shipped experts name a class by its former module
    if name not in POLICIES and not any(name in table.values() for table in NAMED.values()):
        raise GatoError(f"{name} is not a class that experts may use")
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
