"""Behaviour cloning: predict the expert's action tokens, and only those."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gato_agent.checkpoints.checkpoint import Checkpoint, locate, read
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.load import load_data, mixture
from gato_agent.dataset.token_file import FILE as TOKENS
from gato_agent.dataset.token_file import Data
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import lock_folder
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.inference.options import resolve_device
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.training import run_folder
from gato_agent.training.config import TrainConfig
from gato_agent.training.distributed import Distributed, join
from gato_agent.training.loggers import package
from gato_agent.training.run import Run
from gato_agent.training.trainer import Trainer, compiles

__all__ = ["TrainConfig", "defaults", "fine_tuning", "train"]


def train(config: TrainConfig) -> Path:
    """Train, or resume training; returns the path of the model.

    Raises:
        UsageError: nothing to train on, or a run is already in `out` and `resume` is off.
        GatoError: the loss is not finite, or a file is damaged.
    """
    config.check()
    for name in config.logger:
        package(name)  # what is missing is said before anything is read
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    ranks, device = join(resolve_device(config.device))
    config.check_processes(ranks.size)
    size = GatoConfig.named(config.size).reshaped(config.shape)
    start = Checkpoint.load(config.init, device) if config.init else None
    if start and replace(start.model.config, context=size.context) != size:
        its = " --shape ".join(start.model.config.described())
        raise UsageError(
            f"--init {config.init} is of another size: leave --size and --shape out, or give --size {its}; only the "
            "context may differ"
        )
    schedule = ("steps", "decay_steps")  # what of it may change is said by the rates of the steps that were taken
    with ranks.first_alone():
        if ranks.first:  # says what is wrong with the data before there is a folder
            data = _data(config, size, start)
    with closing(lock_folder(config.out, "train")) if ranks.first else nullcontext():
        with ranks.first_alone():
            if ranks.first:
                fingerprint = _fingerprint(config, size, start, data, device, ranks)
                before = run_folder.prepare(config.out, fingerprint, resume=config.resume, may_change=schedule)
                data = data.mapped(config.out / TOKENS, size)
        if not ranks.first:
            data = _data(config, size, start)
            before = fingerprint = _fingerprint(config, size, start, data, device, ranks)
        if any(other != data.sha256 for other in ranks.gather(data.sha256)):
            raise GatoError(f"{config.data} is not the same in all processes: wait until nothing writes to it")
        windows = _windows(config, size, data)
        torch.manual_seed(config.seed)
        model = start.model if start else Gato(size).to(device)
        model.config = size  # positions are relative and have no weights: any context goes on from any other
        trainer = Trainer(config, model, ranks)
        trainer.load_latest(config.out)
        config.check_past(before, trainer.step)
        if before != fingerprint:
            run_folder.write(config.out, fingerprint)
        ranks.wait()  # nobody writes before all have read
        path = Run(trainer, windows, data, fingerprint, device).to_the_end()
    ranks.leave()
    return path


def _data(config: TrainConfig, size: GatoConfig, start: Checkpoint | None) -> Data:
    """What is learned from, mapped if the run has its tokens already."""
    text = start.text if start else None
    known = start.tasks if start else {}
    kinds = {task.prompt.kind for task in known.values()} if config.prompt == "auto" else set()
    data = load_data(
        config.data, size, config.text_pieces, config.text_model, text, config.holdout,
        kinds.pop() if len(kinds) == 1 else config.prompt, config.out / TOKENS,
    )  # fmt: skip
    _check_tasks(config, data.tasks, known)
    mixture(config.mixture, list(data.tasks))
    return data


def _windows(config: TrainConfig, size: GatoConfig, data: Data) -> BatchSampler:
    """Where what is learned from comes from, step by step."""
    return BatchSampler(
        data.tokenized, window=2 * size.context, batch_size=config.batch_size, seed=config.seed,
        weights=mixture(config.mixture, list(data.tasks)), shortest=config.min_segment,
        loss_per_timestep=config.loss_over == "timesteps",
    )  # fmt: skip


def _fingerprint(
    config: TrainConfig, size: GatoConfig, start: Checkpoint | None, data: Data, device: str, ranks: Distributed
) -> dict[str, Any]:
    """All that makes a run what it is, to the bit."""
    fingerprint = {**config.fingerprint(), "num_threads": torch.get_num_threads(), "device": device}
    fingerprint["compile"] = compiles(config, size, torch.device(device)) or None
    fingerprint |= {"data_sha256": data.sha256, **({"init_sha256": start.sha256()} if start else {})}
    return fingerprint | ({"processes": ranks.size, "device": config.device} if ranks.size > 1 else {})


def _check_tasks(config: TrainConfig, tasks: Mapping[str, TrainedTask], known: Mapping[str, TrainedTask]) -> None:
    """Raise UsageError for tasks to be played that are not learned, and for spaces that are not the checkpoint's."""
    parse_kwargs(config.eval_env_kwargs, "--eval-env-kwargs")
    for name in sorted({find_spec(env).id for env in config.eval_env} - set(tasks)):
        raise UsageError(f"--eval-env {name} is not learned: there are {', '.join(tasks)}")
    for name in sorted(tasks.keys() & known.keys()):
        ours, theirs = tasks[name], known[name]
        if (ours.observation_space, ours.action_space) != (theirs.observation_space, theirs.action_space):
            raise UsageError(
                f"{name} has other spaces than in --init {config.init}: observations {ours.observation_space} and not "
                f"{theirs.observation_space}, actions {ours.action_space} and not {theirs.action_space}; give it "
                "another id"
            )


def fine_tuning(init: str, **given: Any) -> TrainConfig:
    """Arguments for going on from a checkpoint on other tasks.

    Args:
        init: run folder, checkpoint file, or `shipped`.
        given: fields of TrainConfig that are to be otherwise than by default.
    """
    path = locate(init)
    try:
        size, shape = GatoConfig.from_json(read(path)[1]["config"]).described()
    except (AttributeError, LookupError, TypeError, UsageError) as error:
        raise UsageError(f"--init {init} does not describe a model of this version: {error}") from error
    return TrainConfig.fine_tuning(size, init, **{"shape": shape, **given})


def defaults(arguments: Sequence[str]) -> TrainConfig:
    """What options are that the command line does not have: those of fine-tuning if it has --init."""
    init = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    init.add_argument("--init", nargs="?")
    given = init.parse_known_args(arguments)[0].init
    return fine_tuning(given) if given else TrainConfig()
