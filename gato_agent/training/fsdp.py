"""Sharded training by PyTorch's FSDP2, and its distributed checkpoints.

A checkpoint is a folder of safetensors files, one for each process, and `state.json`, which names the folder. It is
written last, so that an incomplete folder of a killed run is never read.
"""

import hashlib
import re
import shutil
from pathlib import Path

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from gato_agent.envs.errors import GatoError, one_line
from gato_agent.envs.files import below, make_folder, open_own, read_own, sync_folder, write_files
from gato_agent.envs.io import plain
from gato_agent.envs.io.strict_json import checked_digest, typed, with_digest
from gato_agent.envs.io.tensor_file import read_header
from gato_agent.model.gato import Gato
from gato_agent.training.loss import ActionLoss

POINTER = "state.json"
PART = re.compile(r"state-\d+")
State = dict[str, Tensor]


def shard(loss: ActionLoss) -> nn.Module:
    """Shard a model's parameters, gradients and optimizer state among all processes, in place."""
    device = loss.model.norm.weight.device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for module in (*loss.model.blocks, loss):
        fully_shard(module, mesh=mesh)
        assert isinstance(module, FSDPModule)
        module.set_force_sum_reduction_for_comms(device == "cpu")  # gloo has no mean
    loss.set_reduce_scatter_unused_params(True)  # type: ignore[operator]  # one process may have images, another none
    return loss


def whole(model: Gato) -> Gato:
    """Unsharded copy of a model on the main process, without weights on the others; a collective."""
    tensors = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    copy = Gato.skeleton(model.config)
    if dist.get_rank() == 0:
        copy.load_state_dict(tensors, assign=True)
    return copy


def save(folder: Path, step: int, state: State) -> None:
    """Write a checkpoint, each process its own shards of `state`; a collective, complete when it returns."""
    part = folder / f"state-{step}"
    if dist.get_rank() == 0:
        _remove(part)  # left by a killed run
        make_folder(part)
    dist.barrier()
    save_state(dict(state), storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True))
    dist.barrier()
    digests = {path.name: _sha256(path) for path in _own(sorted(part.glob("*.safetensors")))}
    write_files({part / f"digests-{dist.get_rank()}.json": with_digest(digests)})
    dist.barrier()
    if dist.get_rank() == 0:
        sync_folder(part)
        write_files({folder / POINTER: with_digest({"step": step, "folder": part.name})})
        for other in folder.glob("state-*"):
            if other != part:
                _remove(other)


def _remove(folder: Path) -> None:
    """Delete a folder, or a link in its place."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def saved(folder: Path) -> tuple[int, Path] | None:
    """Step and folder of the latest complete checkpoint; None if there is none.

    Raises:
        GatoError: the pointer is damaged.
    """
    path, way_out = folder / POINTER, "restore it, or train again into another --out"
    if not path.exists():
        return None
    try:
        pointer = checked_digest(read_own(path))
        step = typed(pointer["step"], int, "step")
        return step, below(folder, plain.name(pointer["folder"], path, way_out, PART))
    except (ValueError, TypeError, LookupError) as error:
        raise GatoError(f"{path} is damaged ({error}): {way_out}") from error


def names(part: Path) -> set[str]:
    """Names of a checkpoint's tensors; its files are compared with their digests.

    Raises:
        GatoError: a file is missing or damaged.
    """
    try:
        _check_digests(part)
        for path in sorted(part.glob("*.safetensors")):
            open_own(path).close()  # no link
            read_header(path)
        return set(_reader(part).read_metadata().state_dict_metadata)
    except (OSError, RuntimeError, ValueError) as error:
        raise _damaged(part, error) from error


def load(part: Path, state: State) -> None:
    """Load the tensors of `state` in place, each process its own shards; the number of processes may differ.

    Raises:
        GatoError: a file is missing, truncated, or of another model.
    """
    try:
        load_state(dict(state), storage_reader=_reader(part))
    except (CheckpointException, OSError, RuntimeError, ValueError) as error:
        raise _damaged(part, error) from error


def _damaged(part: Path, error: BaseException) -> GatoError:
    return GatoError(f"{part} is damaged, or of another model ({one_line(error)}): restore it, or train again into "
                     "another --out")  # fmt: skip


def _own(paths: list[Path]) -> list[Path]:
    """Every n-th path, for rank r of n processes from the r-th on."""
    return paths[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else paths


def _sha256(path: Path) -> str:
    with open_own(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_digests(part: Path) -> None:
    """Raise ValueError for a file that differs from its digest; checkpoints of version 0.1 may have no digests."""
    known: dict[str, str] = {}
    for path in sorted(part.glob("digests-*.json")):
        known |= typed(checked_digest(read_own(path)), dict[str, str], path.name)
    paths = [part / plain.name(name, part, "train again into another --out") for name in sorted(known)]
    for path in _own(paths):
        if _sha256(path) != known[path.name]:
            raise ValueError(f"{path.name} does not match its digest")


def _reader(part: Path) -> HuggingFaceStorageReader:
    return HuggingFaceStorageReader(str(part))
