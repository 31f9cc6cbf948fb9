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
    "return the model behind it from --expert module:callable, or say with --expert-wrappers and --expert-statistics "
    "what it was trained behind"
)


class RunConfig(NamedTuple):
    """Settings of a training run.

    Attributes:
        normalized: true if observations were normalised by VecNormalize.
        wrappers: what observations went through, see wrappers.py; empty where nothing is said.
        env_kwargs: arguments of the environment.
    """

    normalized: bool = False
    wrappers: Wrappers = {}  # noqa: RUF012  # never changed
    env_kwargs: dict[str, Any] = {}  # noqa: RUF012


def read_config(folders: Sequence[Path], horizon: int | None) -> RunConfig:
    """Read the files of a run, each from the first folder that has it.

    Args:
        folders: where they may be.
        horizon: steps of an episode, where the environment has a limit.

    Raises:
        UsageError: it names a wrapper that is not known here.
        GatoError: a file is damaged, or no such file.
    """
    found = {name: folder / name for name in CONFIGS for folder in reversed(folders) if (folder / name).is_file()}
    config, args, kwargs = (_mapping(found[name]) if name in found else {} for name in CONFIGS)
    arguments = _pairs(args.get("env_kwargs")) or kwargs
    wrappers: Wrappers = {}
    for key in ("env_wrapper", "vec_env_wrapper"):
        for name, given in _wrappers(config.get(key)):
            wrappers |= _known(name, given, horizon, found["config.yml"])
    if frames := config.get("frame_stack"):
        wrappers |= _known("VecFrameStack", {"n_stack": frames}, horizon, found["config.yml"])
    normalize = config.get("normalize", False)
    rewards_alone = re.search(r"norm_obs['\"]?\s*[:=]\s*False", str(normalize)[:1000])
    plain = {key: value for key, value in arguments.items() if key not in DRAWN}
    return RunConfig(bool(normalize) and not rewards_alone, wrappers, plain)


def _wrappers(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments out of the forms that the zoo takes: a name, a dict of one, or a list of either."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, dict):
            yield from ((str(name), given or {}) for name, given in each.items())
        elif each is not None:
            yield str(each), {}


def _known(name: str, given: dict[str, Any], horizon: int | None, path: Path) -> Wrappers:
    """The wrapper of that dotted name; raises UsageError for one that is not known here."""
    kind = name.rpartition(".")[2]
    if kind in HARMLESS:
        return {}
    if kind == "TimeFeatureWrapper" and not given.get("test_mode"):
        steps = horizon or given.get("max_steps", 1000)
        if isinstance(steps, int) and steps > 0:
            return {"time_feature": {"horizon": steps}}
    if kind == "VecFrameStack" and given.keys() == {"n_stack"} and isinstance(given["n_stack"], int):
        return {"frame_stack": {"n": given["n_stack"]}}
    arguments = f" with {str(given)[:200]}" if given else ""
    raise UsageError(f"{path}: it was trained behind {name[:200]}{arguments}, which is not known here: {WAY_OUT}")


class _Plain(yaml.SafeLoader):  # type: ignore[misc]
    """Reads whatever has a tag that is not known as if it had none."""


def _untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_Plain.add_multi_constructor("", _untagged)


def _mapping(path: Path) -> dict[str, Any]:
    """The content of a file, plain data; raises GatoError naming one that is damaged or too large."""
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
            f"{path} cannot be read as the settings that an expert was trained with ({one_line(error)[:200]}): restore "
            "it, or say with --expert-statistics PATH, or none, what belongs to the expert"
        ) from error
    return _pairs(value)


def _count(value: Any, left: list[int]) -> None:
    """Raise ValueError for more items than any such file has: aliases make many of few."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"over {MAX_ITEMS} items")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | set | tuple) else ():
        _count(item, left)


def _pairs(value: Any) -> dict[str, Any]:
    """A mapping, or the pairs that an OrderedDict is written as; empty for anything else."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = {str(pair[0]): pair[1] for pair in value[0] if isinstance(pair, list) and len(pair) == 2}
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def check_arguments(config: RunConfig, env_kwargs: Mapping[str, Any], name: str) -> None:
    """Raise UsageError where an expert was trained in an environment with other arguments."""
    given = {key: value for key, value in env_kwargs.items() if key not in DRAWN}
    if config.env_kwargs and config.env_kwargs != given:
        wanted = json.dumps(config.env_kwargs, default=str)
        raise UsageError(
            f"expert {name} was trained in an environment with arguments {wanted}, and here they are "
            f"{json.dumps(given, default=str)}: give --env-kwargs '{wanted}', or say with --expert-statistics PATH, or "
            "none, that only this belongs to the expert"
        )
