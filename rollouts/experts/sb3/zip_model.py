"""Safe reader of zips of Stable-Baselines3 and sb3-contrib.

A zip contains its data twice: pickled, and as plain JSON. Only the JSON and the weights are read.

`python -m gato_agent.rollouts.experts.sb3.zip_model model.zip CartPole-v1.safetensors` writes the policy alone to a
safetensors file.
"""

import io
import json
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import write_files
from gato_agent.envs.io.strict_json import parse
from gato_agent.envs.io.zip_file import MOST_TIMES, check_sizes, read_members
from gato_agent.rollouts.experts.sb3.policy import Policy
from gato_agent.rollouts.experts.sb3.policy_classes import NAMED, NOT_ACTOR, PLAIN, POLICIES, UNUSED, check_arguments
from gato_agent.rollouts.experts.sb3.run_files import look_beside
from gato_agent.rollouts.experts.sb3.trained_behind import trained_behind

IN_PYTHON = (
    "load {} in Python, and use --expert module:callable, where callable(observation_space, action_space) returns it"
)


def read_zip(
    path: Path, env_id: str = "", *,
    statistics: str | None = None, horizon: int | None = None, env_kwargs: Mapping[str, Any] | None = None,
) -> Policy:  # fmt: skip
    """Read an SB3 or sb3-contrib zip and what belongs to it; nothing in them is run.

    Args:
        path: of the zip.
        env_id: see `look_beside`, as all that follows.
        statistics: file of statistics, or `none`; by default what lies beside the zip.
        horizon: steps of an episode.
        env_kwargs: arguments of the environment.

    Raises:
        UsageError: statistics are missing, or may be another zip's.
        GatoError: damaged, or a policy that is not in the tables above; the message names the file.
    """
    advice = "restore it, or train one with --expert train"
    try:
        members = read_members(path, ("data", "policy.pth"))
        data = parse(members["data"], finite=False)  # numbers of training that are not used may be infinite
    except (OSError, ValueError) as error:
        if saved_policy(path):
            raise GatoError(
                f"{path} is the policy alone, as policy.save() writes it, which does not say its class as plain "
                f"data: {IN_PYTHON.format('its class, such as ActorCriticPolicy.load(...)')}; or save the model"
            ) from error
        raise GatoError(f"{path} is no SB3 model, or truncated or damaged ({error}): {advice}") from error
    try:
        state = read_weights(members["policy.pth"])
    except Exception as error:  # from unpickling, which can fail in nearly any way
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise GatoError(f"{path}: policy.pth is damaged, or more than weights ({what}): {advice}") from error
    actor = {name: array for name, array in state.items() if not name.startswith(NOT_ACTOR)}
    try:
        policy, kwargs = _class_name(data["policy_class"]), _plain_kwargs(data["policy_kwargs"])
        check_arguments(kwargs, state)
    except (KeyError, TypeError, AttributeError) as error:
        raise GatoError(f"{path} does not say what policy it holds ({error}): {advice}") from error
    except (GatoError, ValueError) as error:
        raise GatoError(f"{path}: {error}") from None
    if data.get("use_sde"):
        kwargs["use_sde"] = True
    beside = look_beside(path, env_id, trained_behind(data), option=statistics, horizon=horizon, env_kwargs=env_kwargs)
    starts = any(_starts(data.get(key)) for key in ("observation_space", "action_space"))
    return Policy(policy, kwargs, actor, beside.normalize, wrappers=beside.wrappers, starts=starts)


def saved_policy(path: Path) -> bool:
    """True for a file of `torch.save`, such as `policy.save()` writes, and false for SB3's zip of several files."""
    try:
        with zipfile.ZipFile(path) as file:
            names, first = file.namelist(), min((entry.header_offset for entry in file.infolist()), default=1)
    except Exception:  # noqa: BLE001  # from zipfile and struct, of many kinds
        return False
    # A file that does not begin at 0 is a member of a truncated zip.
    return first == 0 and "data" not in names and any(name.endswith("/data.pkl") for name in names)


def _starts(space: Any) -> bool:
    """True if discrete values of a space in a zip do not start at 0."""
    entries = space if isinstance(space, dict) else {}
    within = re.findall(r"start=\[?([-\d ]+)", str(entries.get("spaces", ""))[:10_000])
    return any(re.search("[1-9]", str(start)[:10_000]) for start in (entries.get("start", 0), *within))


def read_weights(data: bytes) -> dict[str, NDArray[Any]]:
    """Read the tensors of a file of `torch.save` as arrays.

    Raises:
        ValueError: contents too large for the file, or a number that is not finite.
        Exception: of any type, from unpickling.
    """
    import torch

    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            check_sizes(file, len(data))
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)  # noqa: TID251
    total = 0
    for name, tensor in state.items():
        total += tensor.numel() * tensor.element_size()  # a stride of 0 repeats an element
        if total > MOST_TIMES * len(data):
            raise ValueError(f"weights of {total:,} bytes in {len(data):,}")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name:.80} is not finite")
    return {str(name): tensor.numpy() for name, tensor in state.items()}


def _class_name(described: dict[str, str]) -> str:
    """Find the policy's class from `__module__` and from `<function NAME.__init__ at 0x...>`."""
    match = re.match(r"<function (\w+)\.__init__ at ", described.get("__init__", ""))
    module = described["__module__"]
    name = f"{module}.{match[1]}" if match else f"a class of {module}"  # one without a constructor has no name here
    if name not in POLICIES:
        raise GatoError(f"policies of {name} cannot be loaded from a file: {IN_PYTHON.format('the model')}")
    return name


def _plain_kwargs(described: dict[str, Any]) -> dict[str, Any]:
    """Supported arguments, from their plain values; raises GatoError for others."""
    kwargs: dict[str, Any] = {}
    for key, value in described.items():
        if key in PLAIN and not isinstance(value, str):
            kwargs[key] = value
        elif key in NAMED and (name := str(value)[len("<class '") : -len("'>")]) in NAMED[key]:
            kwargs[key] = NAMED[key][name]
        elif key not in UNUSED and not (key.startswith(":") and key.endswith(":")) and value is not None:
            raise GatoError(
                f"policy argument {key}={value} cannot be loaded from a file: {IN_PYTHON.format('the model')}"
            )
    match kwargs.get("net_arch"):
        case [dict() as layers]:  # the form before SB3 1.8
            kwargs["net_arch"] = layers
    return kwargs


def main(arguments: list[str]) -> None:
    """Convert ZIP to OUT; KEY=VALUE arguments are stored as notes (algo, source, licence).

    Two are options: `wrappers=JSON` names the wrappers of its training, `half=yes` stores weights in 16 bits.
    """
    if len(arguments) < 2 or not all("=" in note for note in arguments[2:]):
        raise UsageError(
            "usage: python -m gato_agent.rollouts.experts.sb3.zip_model ZIP OUT "
            "[algo=ppo source=... wrappers={} half=no]"
        )
    notes = dict(note.split("=", 1) for note in arguments[2:])
    wrappers, half = json.loads(notes.pop("wrappers", "{}")), notes.pop("half", "no") == "yes"
    policy = replace(read_zip(Path(arguments[0])), notes=notes, wrappers=wrappers)
    if half:
        policy = replace(policy, weights={key: array.astype("float16") for key, array in policy.weights.items()})
    write_files({Path(arguments[1]): policy.to_bytes()})


if __name__ == "__main__":
    main(sys.argv[1:])
