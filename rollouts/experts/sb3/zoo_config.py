"""Reader of rl-baselines3-zoo's files of a training run: config.yml, args.yml and env_kwargs.yml.

They are YAML with tags that name Python objects. Tags are ignored and their plain content is read, so no name in the
files is imported or called.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers

CONFIGS = ("config.yml", "args.yml", "env_kwargs.yml")
MAX_BYTES, MAX_ITEMS = 2**18, 10_000
HARMLESS = {  # of training alone, or they change no observation and no action of a greedy policy
    "Monitor", "VecMonitor", "TimeLimit", "TruncatedOnSuccessWrapper", "DoneOnSuccessWrapper", "DelayedRewardWrapper",
    "ActionNoiseWrapper", "PlotActionWrapper",
}  # fmt: skip
DRAWN = {"render_mode", "renderer", "render"}  # arguments of environments that change no observation
WAY_OUT = (
    "return the model with this wrapper from --expert module:callable, or name the wrappers and statistics of its "
    "training with --expert-wrappers and --expert-statistics"
)


class RunConfig(NamedTuple):
    """Settings of a training run.

    Attributes:
        normalized: true if observations were normalised by VecNormalize.
        wrappers: wrappers of the observations, see obs_wrappers.py; empty if none are named.
        env_kwargs: arguments of the environment.
    """

    normalized: bool = False
    wrappers: Wrappers = {}  # noqa: RUF012  # never changed
    env_kwargs: dict[str, Any] = {}  # noqa: RUF012


def read_config(folders: Sequence[Path], horizon: int | None) -> RunConfig:
    """Read the files of a run, each from the first folder that has it.

    Args:
        folders: folders of the files, in order of precedence.
        horizon: maximal steps of an episode, if the environment has a limit.

    Raises:
        UsageError: a wrapper is not supported.
        GatoError: a file is damaged, or has another format.
    """
    paths = {name: folder / name for name in CONFIGS for folder in reversed(folders) if (folder / name).is_file()}
    config, args, kwargs = (_mapping(paths[name]) if name in paths else {} for name in CONFIGS)
    arguments = _pairs(args.get("env_kwargs")) or kwargs
    wrappers: Wrappers = {}
    for key in ("env_wrapper", "vec_env_wrapper"):
        for name, wrapper_kwargs in _wrappers(config.get(key)):
            wrappers |= _supported(name, wrapper_kwargs, horizon, paths["config.yml"])
    if frames := config.get("frame_stack"):
        wrappers |= _supported("VecFrameStack", {"n_stack": frames}, horizon, paths["config.yml"])
    normalize = config.get("normalize", False)
    rewards_alone = re.search(r"norm_obs['\"]?\s*[:=]\s*False", str(normalize)[:1000])
    plain = {key: value for key, value in arguments.items() if key not in DRAWN}
    return RunConfig(bool(normalize) and not rewards_alone, wrappers, plain)


def _wrappers(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments of wrappers in the zoo's forms: a name, a dict of one, or a list of either."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            yield from ((str(name), kwargs or {}) for name, kwargs in each.items())
        elif each is not None:
            yield str(each), {}


def _supported(name: str, kwargs: dict[str, Any], horizon: int | None, path: Path) -> Wrappers:
    """Wrapper of a dotted name; raises UsageError if it is not supported."""
    kind = name.rpartition(".")[2]
    if kind in HARMLESS:
        return {}
    if kind == "TimeFeatureWrapper" and not kwargs.get("test_mode"):
        steps = horizon or kwargs.get("max_steps", 1000)
        if isinstance(steps, int) and steps > 0:
            return {"time_feature": {"horizon": steps}}
    if kind == "VecFrameStack" and kwargs.keys() == {"n_stack"} and isinstance(kwargs["n_stack"], int):
        return {"frame_stack": {"n": kwargs["n_stack"]}}
    arguments = f" with {str(kwargs)[:200]}" if kwargs else ""
    raise UsageError(f"{path}: its wrapper {name[:200]}{arguments} is not supported: {WAY_OUT}")


class _Plain(yaml.SafeLoader):  # type: ignore[misc]
    """Loader that ignores unknown tags."""


def _untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_Plain.add_multi_constructor("", _untagged)


def _mapping(path: Path) -> dict[str, Any]:
    """Read a file as plain data; raises GatoError naming a file that is damaged or too large."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES} bytes")
        loader = _Plain(path.read_bytes())
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
        _count(value, [MAX_ITEMS])
    except (yaml.YAMLError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise GatoError(
            f"{path} cannot be read as the settings of an expert's training ({one_line(error)[:200]}): restore it, or "
            "name the expert's statistics with --expert-statistics PATH, or none"
        ) from error
    return _pairs(value)


def _count(value: Any, left: list[int]) -> None:
    """Raise ValueError for too many items, which YAML aliases can make from few."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"over {MAX_ITEMS} items")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | set | tuple) else ():
        _count(item, left)


def _pairs(value: Any) -> dict[str, Any]:
    """Mapping of a value: a dict, or the list of pairs of an OrderedDict; empty for other values."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = {str(pair[0]): pair[1] for pair in value[0] if isinstance(pair, list) and len(pair) == 2}
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def check_arguments(config: RunConfig, env_kwargs: Mapping[str, Any], name: str) -> None:
    """Raise UsageError if an expert was trained in an environment with other arguments."""
    current = {key: value for key, value in env_kwargs.items() if key not in DRAWN}
    if config.env_kwargs and config.env_kwargs != current:
        wanted = json.dumps(config.env_kwargs, default=str)
        raise UsageError(
            f"expert {name} was trained in an environment with arguments {wanted}, and here they are "
            f"{json.dumps(current, default=str)}: use --env-kwargs '{wanted}', or ignore these settings by naming its "
            "statistics with --expert-statistics PATH, or none"
        )
