"""Loading of experts by name."""

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv, VectorEnv

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import below
from gato_agent.envs.random_actor import RandomActor
from gato_agent.envs.suggested_commands import suggest
from gato_agent.rollouts.experts.callables import CallableExpert
from gato_agent.rollouts.experts.expert import Expert, ExpertContext, ExpertKind, WindowOptions
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers, candidates

SHIPPED = Path(__file__).with_name("weights")
SUMS = "SHA256SUMS"  # made by `sha256sum *.safetensors`


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
    window: WindowOptions | None = None,
) -> Expert:
    """Load the expert that `spec` names.

    Args:
        spec: `catalogue` (shipped with this package, or else scripted), `scripted`, `random`, `train` (trained with
            SB3, or loaded from `folder`), the path of an SB3 or sb3-contrib zip or of its folder, `hub:ORG/NAME` (a
            zip on the Hugging Face hub), `module:callable`, see forms.py, or `human`, a person at a window.
        env_id: id of the environment.
        observation_space: space of single observations.
        action_space: space of single actions.
        seed: seed of random actions and of training.
        envs: environments in which the expert acts; some scripted experts read their state.
        env_kwargs: arguments of the environment, for training.
        folder: folder of trained experts.
        train_steps: environment steps of training; None for the number that suits the task.
        statistics: file of the VecNormalize statistics of an SB3 zip or model, or `none`; by default the file beside
            the zip.
        wrappers: wrappers of its training, see obs_wrappers.py; by default from the settings beside the zip, or those
            that fit.
        window: options of the window of `human`.

    Raises:
        UsageError: there is no such expert; the message lists the possible forms.
        GatoError: its file is damaged, of an unknown format, or was made for other spaces.
    """
    spaces = Spaces(deepcopy(observation_space), deepcopy(action_space))  # the environment may change its own
    kind = next((kind for kind in KINDS.values() if kind.matches(spec)), None)
    if kind is None:
        raise UsageError(f"no expert {spec!r}: use one of {', '.join(each.form for each in KINDS.values())}")
    if not kind.takes_sb3_options and (statistics is not None or wrappers is not None):
        raise UsageError(f"--expert {spec} takes no --expert-statistics and no --expert-wrappers: leave them out")
    return kind.load(
        ExpertContext(
            spec, env_id, spaces, seed, envs, env_kwargs or {}, folder, train_steps, statistics, wrappers, window
        )
    )  # fmt: skip


def _random(context: ExpertContext) -> Expert:
    return RandomExpert(context.spaces.action, context.seed)


def _scripted(context: ExpertContext) -> Expert:
    from gato_agent.rollouts.experts.scripted import find_scripted

    return find_scripted(context.env_id, context.envs.envs if isinstance(context.envs, SyncVectorEnv) else ())


def _catalogue(context: ExpertContext) -> Expert:
    path = SHIPPED / f"{quote(context.env_id, safe='')}.safetensors"
    if path.is_file():
        check_shipped(path)
        return _load_sb3(path, "catalogue", context.env_id, context)
    try:
        return _scripted(context)
    except UsageError:
        raise UsageError(
            f"no expert for {context.env_id} is shipped: --expert train trains one, --expert PATH takes an SB3 zip, "
            f"and --expert MODULE:FUNCTION a script; `{suggest('tasks')}` lists the tasks that have one"
        ) from None


def _trained(context: ExpertContext) -> Expert:
    from gato_agent.rollouts.experts.sb3.train import train

    folder = below(context.folder, quote(context.env_id, safe=""))
    path = train(context.env_id, context.env_kwargs or {}, context.seed, context.train_steps, folder)
    return _load_sb3(path, "train", "stable-baselines3", context._replace(env_kwargs=None))


def _human(context: ExpertContext) -> Expert:
    from gato_agent.rollouts.experts.human.actor import HumanActor

    if context.window is None or context.envs is None:
        raise UsageError("--expert human plays in `gato-agent collect` only: give another expert here")
    return HumanActor(context.env_id, context.spaces, context.envs, *context.window)


def _sb3(context: ExpertContext) -> Expert:
    path = _model_file(Path(context.spec))
    return _load_sb3(path, "sb3", path.name, context)


def _hub(context: ExpertContext) -> Expert:
    from gato_agent.rollouts.experts.hub import fetch

    path, name = fetch(context.spec)
    return _load_sb3(path, "hub", name, context)


def _callable(context: ExpertContext) -> Expert:
    return CallableExpert(
        context.spec, context.spaces, context.seed,
        envs=context.envs, statistics=context.statistics, wrappers=context.wrappers,
    )  # fmt: skip


KINDS = {  # the first that matches is taken; a new kind of expert is an entry here
    "catalogue": ExpertKind("catalogue", "catalogue".__eq__, _catalogue),
    "scripted": ExpertKind("scripted", "scripted".__eq__, _scripted),
    "train": ExpertKind("train", "train".__eq__, _trained),
    "random": ExpertKind("random", "random".__eq__, _random),
    "human": ExpertKind("human", "human".__eq__, _human),
    "sb3": ExpertKind("the path of an SB3 zip", lambda spec: Path(spec).exists(), _sb3, takes_sb3_options=True),
    "hub": ExpertKind("hub:ORG/NAME", lambda spec: spec.startswith("hub:"), _hub, takes_sb3_options=True),
    "callable": ExpertKind("module:callable", lambda spec: ":" in spec, _callable, takes_sb3_options=True),
}


def shipped() -> list[str]:
    """Ids of the environments with a shipped expert."""
    return sorted(unquote(path.stem) for path in SHIPPED.glob("*.safetensors"))


def check_shipped(path: Path) -> None:
    """Raise GatoError if a shipped expert's file does not match its SHA-256."""
    known = (path.parent / SUMS).read_text().splitlines()
    if f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" not in known:
        raise GatoError(f"{path} is damaged (it does not match {SUMS} beside it): install gato-agent again")


def _load_sb3(path: Path, kind: str, source: str, context: ExpertContext) -> Expert:
    """Load a policy from its file; if no file names the wrappers of its training, those that fit are used."""
    from gato_agent.rollouts.experts.sb3.policy import Policy, build
    from gato_agent.rollouts.experts.sb3.run_files import given_statistics
    from gato_agent.rollouts.experts.sb3.zip_model import read_zip

    converted, registered = path.suffix == ".safetensors", gym.registry.get(context.env_id)
    horizon = registered.max_episode_steps if registered else None
    if converted:
        policy = Policy.from_file(path)
        if context.statistics is not None:
            policy = replace(policy, normalize=given_statistics(context.statistics))
    else:
        policy = read_zip(
            path, context.env_id, statistics=context.statistics, horizon=horizon, env_kwargs=context.env_kwargs
        )  # fmt: skip
    if policy.policy == "baby-a3c":
        from gato_agent.rollouts.experts.atari_a3c import AtariExpert

        provenance = {"kind": kind, "source": source, "sha256": policy.sha256}
        return AtariExpert(policy, *context.spaces, provenance)
    options = [policy.wrappers] if converted or policy.wrappers else candidates(context.env_id, horizon)
    misfit: GatoError | None = None
    for wrappers in options if context.wrappers is None else [context.wrappers]:
        policy = replace(policy, wrappers=wrappers)
        provenance = {"kind": kind, "source": source, "sha256": policy.sha256}
        try:
            return build(policy, context.spaces, provenance, context.envs)
        except GatoError as error:
            misfit = misfit or error
    assert misfit is not None
    raise misfit


def _model_file(path: Path) -> Path:
    """Path of a zip, or of the zip in a folder: model.zip, or else the only one."""
    if path.is_file():
        return path
    zips = sorted(path.glob("*.zip"))
    named = [file for file in zips if file.name == "model.zip"] or zips
    if len(named) != 1:
        raise UsageError(f"{path} holds {len(zips)} zips and no model.zip: give the path of the SB3 zip itself")
    return named[0]


class RandomExpert(RandomActor):
    """Uniformly random actions as an expert."""

    def __init__(self, action_space: gym.Space[Any], seed: int) -> None:
        super().__init__(action_space, seed)
        name = "gymnasium.Space.sample"
        self.provenance = {"kind": "random", "source": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}

    def seed(self, seed: int) -> None:
        """Seed the actions after the next reset."""
        self._seed = seed
