"""From the name of an expert to an Actor that shows how a task is done."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, unquote

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv, VectorEnv

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import below
from gato_agent.envs.loop import Actor
from gato_agent.envs.random_actor import RandomActor
from gato_agent.rollouts.experts.callables import CallableExpert
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers, candidates

SHIPPED = Path(__file__).with_name("weights")
SUMS = "SHA256SUMS"  # made by `sha256sum *.safetensors`
BUILT_IN = ("random", "catalogue", "scripted", "train")  # experts that come with all that belongs to them
NO_NETWORK = ("random", "scripted", "planned")  # kinds of experts that need no torch
Provenance = dict[str, str]


class Behind(NamedTuple):
    """Surroundings of an SB3 expert: its environments, and what the user says of its training, see `load_expert`."""

    envs: VectorEnv[Any, Any, Any] | None
    statistics: str | None = None
    wrappers: Wrappers | None = None
    env_kwargs: Mapping[str, Any] | None = None


class Expert(Actor, Protocol):
    """An Actor that can say where it comes from.

    Attributes:
        provenance: kind, source (a name, never a path of this machine) and sha256.
    """

    provenance: Provenance

    def seed(self, seed: int) -> None:
        """Start random numbers, if any, from this seed at the next reset."""


def load_expert(
    spec: str,
    env_id: str,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    seed: int = 0,
    *,
    envs: VectorEnv[Any, Any, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    folder: Path = Path("data/experts"),
    train_steps: int | None = None,
    statistics: str | None = None,
    wrappers: Wrappers | None = None,
) -> Expert:
    """Load the expert that `spec` names.

    Args:
        spec: `catalogue` (shipped with this package, or else scripted), `scripted`, `random`, `train` (with SB3, now;
            reused if `folder` has it), the path of an SB3 or sb3-contrib zip or of its folder, `hub:ORG/NAME` (a zip
            on the Hugging Face hub), or `module:callable`, an SB3 model, an object with SB3's `predict` or an Actor's
            `act`, a function of an observation, or what makes one of these; forms.py has them all.
        env_id: the environment it is to act in.
        observation_space: of single observations.
        action_space: of single actions.
        seed: of random actions and of training.
        envs: the environments it is to act in; some scripted experts look into them.
        env_kwargs: arguments of the environment, for training.
        folder: where trained experts are kept.
        train_steps: environment steps of training; None for the number that suits the task.
        statistics: file of VecNormalize's statistics that an SB3 zip or model was trained behind, or `none`; by default
            what lies beside the zip.
        wrappers: what it was trained behind, see wrappers.py; by default what is said beside the zip, or fits.

    Raises:
        UsageError: there is no such expert; the message lists what there is.
        GatoError: its file is damaged, of an unknown kind, or was made for other spaces.
    """
    observation_space, action_space = deepcopy(observation_space), deepcopy(action_space)  # the environment has its own
    spaces = Spaces(observation_space, action_space)
    if spec in BUILT_IN:
        if statistics is not None or wrappers is not None:
            raise UsageError(f"--expert {spec} needs no --expert-statistics and no --expert-wrappers: leave them out")
        if spec == "train":
            from gato_agent.rollouts.experts.sb3.train import train

            path = train(env_id, env_kwargs or {}, seed, train_steps, below(folder, quote(env_id, safe="")))
            return _load_sb3(path, "train", "stable-baselines3", env_id, spaces, Behind(envs))
        return _of_ours(spec, env_id, spaces, seed, envs)
    behind = Behind(envs, statistics, wrappers, env_kwargs or {})
    if Path(spec).exists():
        path = _model_file(Path(spec))
        return _load_sb3(path, "sb3", path.name, env_id, spaces, behind)
    if spec.startswith("hub:"):
        from gato_agent.rollouts.experts.hub import fetch

        path, name = fetch(spec)
        return _load_sb3(path, "hub", name, env_id, spaces, behind)
    if ":" in spec:
        return CallableExpert(spec, spaces, seed, envs=envs, statistics=statistics, wrappers=wrappers)
    raise UsageError(
        f"no expert {spec!r}: give the path of an SB3 zip, hub:ORG/NAME, module:callable, catalogue, scripted, train "
        "or random"
    )


def _of_ours(spec: str, env_id: str, spaces: Spaces, seed: int, envs: VectorEnv[Any, Any, Any] | None) -> Expert:
    """An expert that comes with this package, or with the environment's."""
    if spec == "random":
        return RandomExpert(spaces.action, seed)
    if spec == "scripted":
        return _scripted(env_id, envs)
    path = SHIPPED / f"{quote(env_id, safe='')}.safetensors"
    if path.is_file():
        check_shipped(path)
        return _load_sb3(path, "catalogue", env_id, env_id, spaces, Behind(envs))
    try:
        return _scripted(env_id, envs)
    except UsageError:
        raise UsageError(
            f"no expert for {env_id} is shipped: train one with --expert train, or give an SB3 zip with "
            f"--expert PATH (shipped: {', '.join(shipped())}; scripted: Meta-World, BabyAI, toy text)"
        ) from None


def shipped() -> list[str]:
    """Ids of the environments that an expert is shipped for."""
    return sorted(unquote(path.stem) for path in SHIPPED.glob("*.safetensors"))


def check_shipped(path: Path) -> None:
    """Raise GatoError for a file of a shipped expert that is not as it was shipped."""
    known = (path.parent / SUMS).read_text().splitlines()
    if f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" not in known:
        raise GatoError(f"{path} is damaged (it does not match {SUMS} beside it): install gato-agent again")


def _scripted(env_id: str, envs: VectorEnv[Any, Any, Any] | None) -> Expert:
    from gato_agent.rollouts.experts.scripted import find_scripted

    return find_scripted(env_id, envs.envs if isinstance(envs, SyncVectorEnv) else ())


def _load_sb3(path: Path, kind: str, source: str, env_id: str, spaces: Spaces, behind: Behind) -> Expert:
    """A policy from its file; where nothing says behind which wrappers it was trained, those are tried that fit."""
    from gato_agent.rollouts.experts.sb3.policy import Policy, build
    from gato_agent.rollouts.experts.sb3.run_files import given_statistics
    from gato_agent.rollouts.experts.sb3.zip_model import read_zip

    plain, registered = path.suffix == ".safetensors", gym.registry.get(env_id)
    horizon = registered.max_episode_steps if registered else None
    if plain:
        policy = Policy.from_file(path)
        if behind.statistics is not None:
            policy = replace(policy, normalize=given_statistics(behind.statistics))
    else:
        policy = read_zip(
            path, env_id, statistics=behind.statistics, horizon=horizon, env_kwargs=behind.env_kwargs
        )  # fmt: skip
    if policy.policy == "baby-a3c":
        from gato_agent.rollouts.experts.atari_a3c import AtariExpert

        provenance = {"kind": kind, "source": source, "sha256": policy.sha256}
        return AtariExpert(policy, *spaces, provenance)
    known = [policy.wrappers] if plain or policy.wrappers else candidates(env_id, horizon)
    misfit: GatoError | None = None
    for tried in known if behind.wrappers is None else [behind.wrappers]:
        policy = replace(policy, wrappers=tried)
        provenance = {"kind": kind, "source": source, "sha256": policy.sha256}
        try:
            return build(policy, spaces, provenance, behind.envs)
        except GatoError as error:
            misfit = misfit or error
    assert misfit is not None
    raise misfit


def _model_file(path: Path) -> Path:
    """The zip itself, or the one in the folder: model.zip, or else the only one."""
    if path.is_file():
        return path
    zips = sorted(path.glob("*.zip"))
    named = [file for file in zips if file.name == "model.zip"] or zips
    if len(named) != 1:
        raise UsageError(f"{path} holds {len(zips)} zips and no model.zip: give the path of the SB3 zip itself")
    return named[0]


class RandomExpert(RandomActor):
    """Uniform random actions as an expert, to collect what knows nothing."""

    def __init__(self, action_space: gym.Space[Any], seed: int) -> None:
        super().__init__(action_space, seed)
        name = "gymnasium.Space.sample"
        self.provenance = {"kind": "random", "source": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}

    def seed(self, seed: int) -> None:
        """Start from this seed at the next reset."""
        self._seed = seed
