"""Read zips of Stable-Baselines3 and sb3-contrib, without running what they say.

A zip keeps everything twice: pickled, and as plain JSON beside it. Only the plain part and the weights are read.

`python -m gato_agent.rollouts.sb3 model.zip CartPole-v1.safetensors` keeps what acting needs, in one safetensors file.
"""

import io
import json
import pickle
import re
import struct
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import write_files
from gato_agent.rollouts.normalize import find_normalizer
from gato_agent.rollouts.policy import NAMED, NOT_ACTOR, PLAIN, POLICIES, UNUSED, Policy


def read_zip(path: Path) -> Policy:
    """Read an SB3 or sb3-contrib zip and the observation statistics beside it; nothing in them is run.

    Raises:
        GatoError: damaged, or a policy that is not in the tables above; the message names the file.
    """
    import torch

    advice = "restore it, or train one with --expert train"
    try:
        with zipfile.ZipFile(path) as file:
            data = json.loads(file.read("data"))
            weights = io.BytesIO(file.read("policy.pth"))
            state = torch.load(weights, map_location="cpu", weights_only=True)  # noqa: TID251
        actor = {name: tensor.numpy() for name, tensor in state.items() if not name.startswith(NOT_ACTOR)}
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise GatoError(f"{path} is no SB3 model, or truncated or damaged ({error}): {advice}") from error
    except (pickle.UnpicklingError, RuntimeError, AttributeError, struct.error) as error:
        what = str(error).strip().splitlines()[0]
        raise GatoError(f"{path}: policy.pth is damaged, or more than weights ({what}): {advice}") from error
    try:
        policy, kwargs = _class_name(data["policy_class"]), _plain_kwargs(data["policy_kwargs"])
    except (KeyError, TypeError, AttributeError) as error:
        raise GatoError(f"{path} does not say what policy it holds ({error}): {advice}") from error
    except GatoError as error:
        raise GatoError(f"{path}: {error}") from None
    if data.get("use_sde"):
        kwargs["use_sde"] = True
    return Policy(policy, kwargs, actor, find_normalizer(path))


def _class_name(described: dict[str, str]) -> str:
    """Find the policy's class from `__module__` and from `<function NAME.__init__ at 0x...>`."""
    match = re.match(r"<function (\w+)\.__init__ at ", described["__init__"])
    name = f"{described['__module__']}.{match[1] if match else '?'}"
    if name not in POLICIES:
        raise GatoError(
            f"policies of class {name} cannot be loaded from a file: load it in Python and "
            "use --expert module:callable, where callable(observation_space, action_space) returns it"
        )
    return name


def _plain_kwargs(described: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments that are known, from their plain values."""
    kwargs: dict[str, Any] = {}
    for key, value in described.items():
        if key in PLAIN and not isinstance(value, str):
            kwargs[key] = value
        elif key in NAMED and (name := str(value)[len("<class '") : -len("'>")]) in NAMED[key]:
            kwargs[key] = NAMED[key][name]
        elif key not in UNUSED and not (key.startswith(":") and key.endswith(":")) and value is not None:
            raise GatoError(
                f"policy argument {key}={value} cannot be loaded from a file: load it in Python and use "
                "--expert module:callable, where callable(observation_space, action_space) returns it"
            )
    match kwargs.get("net_arch"):
        case [dict() as layers]:  # the form before SB3 1.8
            kwargs["net_arch"] = layers
    return kwargs


def main(arguments: list[str]) -> None:
    """Convert ZIP to OUT; KEY=VALUE are kept as notes (algo, source, licence).

    Two are no notes: `wrappers=JSON` says what it was trained behind, `half=yes` keeps weights in 16 bits.
    """
    if len(arguments) < 2 or not all("=" in note for note in arguments[2:]):
        raise UsageError("usage: python -m gato_agent.rollouts.sb3 ZIP OUT [algo=ppo source=... wrappers={} half=no]")
    notes = dict(note.split("=", 1) for note in arguments[2:])
    wrappers, half = json.loads(notes.pop("wrappers", "{}")), notes.pop("half", "no") == "yes"
    policy = replace(read_zip(Path(arguments[0])), notes=notes, wrappers=wrappers)
    if half:
        policy = replace(policy, weights={key: array.astype("float16") for key, array in policy.weights.items()})
    write_files({Path(arguments[1]): policy.to_bytes()})


if __name__ == "__main__":
    main(sys.argv[1:])
