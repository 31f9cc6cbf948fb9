"""Checkpoint: one safetensors file of weights, with one JSON entry that describes the model and its tasks."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gato_agent.checkpoints.former import upgraded
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import write_files
from gato_agent.envs.io.strict_json import typed
from gato_agent.envs.io.tensor_file import read_header
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.rollouts.experts.hub import PREFIX, download, load_hub
from gato_agent.tokens.text_tokenizer import TextTokenizer

FORMAT = 1
FILE = "model.safetensors"
SHIPPED = (None, "shipped")  # how the weights in this package are referred to
TEXT_MODEL = "text.model"  # name of the uint8 tensor that holds the SentencePiece model


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with its tasks.

    Attributes:
        model: of the file, in float32.
        tasks: by id.
        text: tokenizer of texts; None if no task has any.
        training: arguments, steps and data of its training.
        name: of the file, for messages.
    """

    model: Gato
    tasks: dict[str, TrainedTask]
    text: TextTokenizer | None = None
    training: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def to_bytes(self, dtype: torch.dtype = torch.float32) -> bytes:
        """The contents of a checkpoint file; raises GatoError for weights that are not finite."""
        tensors = {name: tensor.detach().cpu().to(dtype) for name, tensor in self.model.state_dict().items()}
        if name := not_finite(tensors):
            raise GatoError(f"{self.name or 'the model'}: {name} is not finite, so it is not saved and the last "
                            "checkpoint is kept: train again with a lower --learning-rate")  # fmt: skip
        if self.text is not None:
            tensors[TEXT_MODEL] = torch.frombuffer(bytearray(self.text.model), dtype=torch.uint8)
        about = {
            "config": self.model.config.to_json(),
            "tasks": [task.to_json() for task in self.tasks.values()],
            "training": self.training,
        }
        return to_bytes(tensors, about)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
        """Write `folder/model.safetensors` whole or not at all; return its path."""
        path = folder / FILE
        write_files({path: self.to_bytes(dtype)})
        return path

    def sha256(self) -> str:
        """Digest of the weights."""
        return digest({name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}, {})

    def temperatures(self) -> dict[str, float]:
        """Temperatures above 0, by task."""
        return {task.id: task.temperature for task in self.tasks.values() if task.temperature}

    @classmethod
    def load(cls, reference: str | Path | None, device: torch.device | str = "cpu") -> Self:
        """Load a checkpoint in float32, ready for evaluation.

        Args:
            reference: a run folder, a `.safetensors` file, `hub:ORG/NAME` on the Hugging Face hub, or None or
                `shipped` for the weights in this package.
            device: where to put the weights.

        Raises:
            UsageError: there is no such file.
            GatoError: the file is damaged, of another kind or version, or has weights of another model.
        """
        path = locate(reference)
        tensors, about = read(path)
        try:
            config = GatoConfig.from_json(about["config"])
            tasks = [TrainedTask.from_json(task) for task in about["tasks"]]
            training = typed(about.get("training", {}), dict[str, Any], "training")
            piece = tensors.pop(TEXT_MODEL, None)
            text = None if piece is None else TextTokenizer(piece.numpy().tobytes())
            if text and text.size > config.text:
                raise ValueError(f"a text tokenizer of {text.size:,} pieces for a model of {config.text:,}")
            model = _skeleton(config, tensors)
            tensors = upgraded(tensors, model)
            _check_shapes(model, tensors)
        except (AttributeError, GatoError, LookupError, TypeError, ValueError) as error:
            raise GatoError(f"{path} does not describe a checkpoint of this version: {error}") from error
        if name := not_finite(tensors):
            raise GatoError(f"{path}: {name} is not finite: train again, or restore it from a copy")
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
        name = "shipped weights" if reference in SHIPPED else str(reference)
        return cls(model.to(device).eval(), {task.id: task for task in tasks}, text, training, name)


def _skeleton(config: GatoConfig, tensors: Mapping[str, Tensor]) -> Gato:
    """The model of a configuration, without weights.

    Raises:
        ValueError: the tensors are too few for it, which is checked before the model is made, or it is too large.
    """
    least = config.layers + len(config.patch_channels)
    if least > len(tensors):
        raise ValueError(f"the file lacks weights: it has {len(tensors):,} for {config.layers:,} layers")
    try:
        return Gato.skeleton(config)
    except RuntimeError as error:  # more elements than can be counted
        raise ValueError(one_line(error)) from None


def _check_shapes(model: Gato, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if these tensors are not the weights of a model."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"the file {'lacks' if name in expected else 'has too many'} weights: {name:.80}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensors[name].shape)} instead of {shape}")
        if not tensors[name].is_floating_point():
            raise ValueError(f"{name} is of {tensors[name].dtype}")


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor, in order of names, with NaN or an infinity; None if all are finite."""
    for name, tensor in sorted(tensors.items()):
        if not bool(tensor.sum().isfinite() or tensor.isfinite().all()):  # a sum is quick, and might overflow
            return name
    return None


def locate(reference: str | Path | None) -> Path:
    """Path of a checkpoint file: for None or `shipped` the package's own; raises UsageError if there is none."""
    if reference in SHIPPED:
        return Path(str(files("gato_agent.checkpoints"))) / "weights" / FILE
    if isinstance(reference, str) and reference.startswith(PREFIX):
        return _from_hub(reference.removeprefix(PREFIX))
    path = Path(reference)
    if path.is_dir():
        path = path / FILE
        if not path.exists():
            raise UsageError(f"no checkpoint at {path}: `train` writes it at --save-every, at its end and at Ctrl+C")
    if not path.is_file():
        raise UsageError(f"no checkpoint at {path}: give the folder of a run, or `shipped` for the weights in the "
                         "package")  # fmt: skip
    return path


def _from_hub(repo: str) -> Path:
    path = download(load_hub(PREFIX + repo), repo, FILE)
    if path is None:
        raise UsageError(f"{PREFIX}{repo} has no {FILE}: `push_to_hub` did not write it")
    return path


def to_bytes(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """Serialise tensors and a JSON description; the same content gives the same bytes."""
    tensors = {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}
    about = {"format": FORMAT, **about}
    return save(tensors, {"gato": canonical({**about, "sha256": digest(tensors, about)})})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of `to_bytes`; raises GatoError with the path if the file is damaged or of another kind."""
    advice = "train again, or restore it from a copy"
    try:
        about = read_header(path).about
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, OSError) as error:
        raise GatoError(f"{path} is truncated or damaged ({error}): {advice}") from error
    if about is None or "format" not in about:
        raise GatoError(f"{path} is a safetensors file, but not of gato-agent: it has no 'gato' entry")
    if about["format"] != FORMAT:
        raise GatoError(f"{path} has format {about['format']} and this version reads {FORMAT}: upgrade gato-agent")
    if about.pop("sha256", None) != digest(tensors, about):
        raise GatoError(f"{path} is damaged (it does not match its checksum): {advice}")
    return tensors, about


def digest(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """SHA-256 over the description, and over names, dtypes, shapes and bytes of all tensors."""
    sha = hashlib.sha256(canonical(about).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def canonical(data: dict[str, Any]) -> str:
    """JSON with sorted keys: the same content gives the same text."""
    return json.dumps(data, sort_keys=True, allow_nan=False)
