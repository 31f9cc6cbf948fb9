"""The verb `train`: behaviour cloning by cross-entropy of the expert's action tokens."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gato_agent.checkpoints.checkpoint import Checkpoint, locate, read
from gato_agent.checkpoints.task_matching import differences
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.commands.model_fields import expand_json
from gato_agent.commands.train_arguments import TrainArguments
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.load import load_data, mixture
from gato_agent.dataset.token_file import FILE as TOKENS
from gato_agent.dataset.token_file import Data
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import lock_folder
from gato_agent.envs.io.console import print_line
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.inference.options import resolve_device
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.training import run_folder
from gato_agent.training.config import TrainConfig
from gato_agent.training.distributed import Distributed
from gato_agent.training.loggers import package
from gato_agent.training.run import Run
from gato_agent.training.trainer import Trainer, compiles

__all__ = ["TrainArguments", "TrainConfig", "defaults", "expand_json", "fine_tuning", "train", "train_command"]


def train(config: TrainConfig) -> Path:
    """Train or resume a run; returns the path of the model file.

    Raises:
        UsageError: no training data, or a run is already in `out` and `resume` is off.
        GatoError: the loss is not finite, or a file is damaged.
    """
    config.check()
    for name in config.logger:
        package(name)  # a missing package is an error before anything is read
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    distributed, device = Distributed.init(resolve_device(config.device))
    config.check_processes(distributed.size)
    size = GatoConfig.named(config.size).reshaped(config.shape)
    start = _initial(config.init, size, device) if config.init else None
    schedule = ("steps", "decay_steps")  # checked by `check_past`: they may change if past learning rates do not
    with distributed.main_first():
        if distributed.is_main:  # an error in the data comes before the folder is made
            data = _data(config, size, start)
    with closing(lock_folder(config.out, "train")) if distributed.is_main else nullcontext():
        with distributed.main_first():
            if distributed.is_main:
                fingerprint = _fingerprint(config, size, start, data, device, distributed)
                before = run_folder.prepare(config.out, fingerprint, resume=config.resume, may_change=schedule)
                data = data.mapped(config.out / TOKENS, size)
        if not distributed.is_main:
            data = _data(config, size, start)
            before = fingerprint = _fingerprint(config, size, start, data, device, distributed)
        if any(other != data.sha256 for other in distributed.gather(data.sha256)):
            raise GatoError(f"{config.data} is not the same in all processes: wait until nothing writes to it")
        sampler = _sampler(config, size, data)
        torch.manual_seed(config.seed % 2**64)
        model = start.model if start else Gato(size).to(device)
        model.config = size  # positions are relative and have no weights: the context may differ from --init's
        trainer = Trainer(config, model, distributed)
        trainer.load_latest(config.out)
        config.check_past(before, trainer.step)
        if before != fingerprint:
            run_folder.write(config.out, fingerprint)
        if config.init and distributed.is_main:
            print_line(_changed_by_init(config))
        distributed.wait()  # all processes read before the main one writes
        path = Run(trainer, sampler, data, fingerprint, device).to_the_end()
    distributed.shutdown()
    return path


def _initial(init: str, size: GatoConfig, device: str) -> Checkpoint:
    """Checkpoint of --init; raises UsageError if it is of another size."""
    start = Checkpoint.load(init, device)
    if replace(start.model.config, context=size.context) != size:
        raise UsageError(
            f"--init {init} is of another size: leave --size and --model.FIELD out, except for --model.context, "
            f"which may differ; it is a {' with '.join(start.model.config.described())}"
        )
    return start


def _data(config: TrainConfig, size: GatoConfig, start: Checkpoint | None) -> Data:
    """Training data, memory-mapped if the run folder holds its token file."""
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


def _sampler(config: TrainConfig, size: GatoConfig, data: Data) -> BatchSampler:
    """Sampler of training batches: sequences of twice the context length."""
    return BatchSampler(
        data.tokenized, sequence_length=2 * size.context, batch_size=config.batch_size, seed=config.seed,
        weights=mixture(config.mixture, list(data.tasks)), min_segment=config.min_segment,
        loss_per_timestep=config.loss_over == "timesteps",
    )  # fmt: skip


def _fingerprint(
    config: TrainConfig, size: GatoConfig, start: Checkpoint | None, data: Data, device: str, distributed: Distributed
) -> dict[str, Any]:
    """Config fingerprint: everything that determines the trained weights bit for bit, as JSON."""
    fingerprint = {**config.fingerprint(), "num_threads": torch.get_num_threads(), "device": device}
    fingerprint["compile"] = compiles(config, size, torch.device(device)) or None
    fingerprint |= {"data_sha256": data.sha256, **({"init_sha256": start.sha256()} if start else {})}
    return fingerprint | ({"processes": distributed.size, "device": config.device} if distributed.size > 1 else {})


def _check_tasks(config: TrainConfig, tasks: Mapping[str, TrainedTask], known: Mapping[str, TrainedTask]) -> None:
    """Raise UsageError for --eval-env tasks without data, and for spaces that differ from the checkpoint's."""
    parse_kwargs(config.eval_env_kwargs, "--eval-env-kwargs")
    for name in sorted({find_spec(env).id for env in config.eval_env} - set(tasks)):
        raise UsageError(f"--eval-env {name} is not among the training tasks: choose from {', '.join(tasks)}")
    for name in sorted(tasks.keys() & known.keys()):
        task, known_task = tasks[name], known[name]
        if other := differences((task.observation_space, task.action_space), known_task):
            raise UsageError(f"{name} has other spaces than in --init {config.init}: {other}; give it another id")


def fine_tuning(init: str, **options: Any) -> TrainConfig:
    """Fine-tuning options for the model size of a checkpoint.

    Args:
        init: run folder, checkpoint file, or `shipped`.
        options: fields of TrainConfig that replace the defaults.

    Raises:
        UsageError: no checkpoint, or one that does not describe a model of this version.
    """
    path = locate(init)
    try:
        size, shape = GatoConfig.from_json(read(path)[1]["config"]).described()
    except (AttributeError, LookupError, TypeError, UsageError) as error:
        raise UsageError(f"--init {init} does not describe a model of this version: {error}") from error
    return TrainConfig.fine_tuning(size, init, **{"shape": shape, **options})


def defaults(arguments: Sequence[str]) -> TrainArguments:
    """Default options for a command line: those of fine-tuning if it has --init."""
    init = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    init.add_argument("--init", nargs="?")
    reference = init.parse_known_args(arguments)[0].init
    return TrainArguments.of(fine_tuning(reference) if reference else TrainConfig())


def train_command(arguments: TrainArguments) -> Path:
    """Train with the options of a command line; raises as `train` does."""
    return train(arguments.config())


def _changed_by_init(config: TrainConfig) -> str:
    """Options whose defaults --init changes, with their values in this run."""
    usual, own = TrainConfig(), fine_tuning(str(config.init))
    names = [each.name for each in dataclasses.fields(own) if getattr(own, each.name) != getattr(usual, each.name)]
    shown = [name for name in names if name not in ("init", "shape") and getattr(config, name) == getattr(own, name)]
    values = " ".join(f"--{name.replace('_', '-')} {getattr(config, name)}" for name in shown)
    return f"defaults of --init {config.init}: {values}"
