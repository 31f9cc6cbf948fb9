"""Checkpoint of an expert's training: parameters, optimizers and running statistics, as tensors without pickles.

A resumed training is not bit-exact: its episodes begin anew, and an off-policy algorithm fills its replay buffer again.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from gato_agent.envs.errors import GatoError, one_line
from gato_agent.envs.files import read_own, write_files
from gato_agent.envs.io.tensor_file import parse_header

FILE = "interrupted.safetensors"
STATISTICS = ("mean", "var", "count")


def save_state(folder: Path, model: BaseAlgorithm, wanted: dict[str, Any]) -> None:
    """Write the checkpoint of a training.

    Args:
        folder: of the expert.
        model: algorithm with its environments.
        wanted: seed, steps and arguments of the training, as JSON.
    """
    tensors = {name: value.detach().clone().contiguous() for name, value in _tensors(model)}
    about = {**wanted, "done": model.num_timesteps}
    write_files({folder / FILE: save(tensors, {"gato": json.dumps(about, sort_keys=True)})})


def load_state(folder: Path, model: BaseAlgorithm, wanted: dict[str, Any]) -> bool:
    """Continue from the checkpoint of an equal training, if there is one; returns True if there is.

    Raises:
        GatoError: the file is damaged, or of another network.
    """
    path = folder / FILE
    if not path.exists():
        return False
    try:
        data = read_own(path, most=2**36)  # a replay buffer may be large
        about = parse_header(data, len(data)).about or {}
        done = about.pop("done", None)
        if about != wanted:
            return False
        if type(done) is not int or not done >= 0:
            raise ValueError(f"{done!r:.80} steps")
        _restore(model, load(data))
        model.num_timesteps = done
    except (ValueError, LookupError, TypeError, RuntimeError) as error:
        raise GatoError(f"{path} is damaged ({one_line(error):.200}): delete it") from error
    return True


def remove_state(folder: Path) -> None:
    """Delete the checkpoint of a complete training."""
    (folder / FILE).unlink(missing_ok=True)


def _tensors(model: BaseAlgorithm) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a training by name."""
    for part, state in model.get_parameters().items():
        if "param_groups" in state:  # an optimizer's
            for index, values in state["state"].items():
                for name, value in values.items():
                    yield f"{part}/{index}/{name}", torch.as_tensor(value)
        else:
            for name, value in state.items():
                yield f"{part}/{name}", value
    for name, running in _running(model):
        for each in STATISTICS:
            yield f"{name}/{each}", torch.tensor(np.asarray(getattr(running, each), np.float64))


def _running(model: BaseAlgorithm) -> Iterator[tuple[str, Any]]:
    """Running statistics of VecNormalize by name."""
    envs = model.get_vec_normalize_env()
    if isinstance(envs, VecNormalize):
        observed: Any = getattr(envs, "obs_rms", None)
        keyed = observed if isinstance(observed, dict) else {} if observed is None else {"": observed}
        yield from ((f"observation/{key}", running) for key, running in keyed.items())
        yield "return", envs.ret_rms


def _restore(model: BaseAlgorithm, tensors: dict[str, Tensor]) -> None:
    """Put the tensors of a file in their places; raises ValueError, LookupError or RuntimeError if they do not fit."""
    parameters: dict[str, Any] = model.get_parameters()
    for part, state in parameters.items():
        if "param_groups" in state:
            state["state"] = _optimizer(part, tensors)
        else:
            parameters[part] = {name: tensors[f"{part}/{name}"] for name in state}
    model.set_parameters(parameters, exact_match=True, device=model.device)
    for name, running in _running(model):
        for each in STATISTICS:
            value, before = tensors[f"{name}/{each}"].numpy(), np.asarray(getattr(running, each))
            if value.shape != before.shape:
                raise ValueError(f"{name}/{each} of shape {value.shape}, not {before.shape}")
            setattr(running, each, value.astype(np.float64) if value.ndim else float(value))


def _optimizer(part: str, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """State of an optimizer by the index of its parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{part}/"):
            index, key = name.removeprefix(f"{part}/").split("/")
            state.setdefault(int(index), {})[key] = value
    return state
