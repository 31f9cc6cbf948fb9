"""A model that lies in parts on several devices: PyTorch's FSDP2, and its distributed checkpoints.

A checkpoint is a folder of safetensors files, one a process, and `state.json`, which names the folder and is written
last: what a killed run has begun to write beside it is nobody's.
"""

import json
import re
import shutil
from pathlib import Path

from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from gato_agent.envs import plain
from gato_agent.envs.errors import GatoError, one_line
from gato_agent.envs.files import below, make_folder, read_own, sync_folder, write_files
from gato_agent.loss import ActionLoss
from gato_agent.model import Gato

POINTER = "state.json"
PART = re.compile(r"state-\d+")
State = dict[str, Tensor]


def shard(loss: ActionLoss) -> nn.Module:
    """Divide a model's parameters, and with them gradients and moments, among all processes; in place."""
    device = loss.model.norm.weight.device.type
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    for module in (*loss.model.blocks, loss):
        fully_shard(module, mesh=mesh)
        assert isinstance(module, FSDPModule)
        module.set_force_sum_reduction_for_comms(device == "cpu")  # gloo has no mean
    loss.set_reduce_scatter_unused_params(True)  # type: ignore[operator]  # one process may have images, another none
    return loss


def whole(model: Gato) -> Gato:
    """A copy of a sharded model in one piece, on the first process; elsewhere an empty one. All must call this."""
    tensors = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    copy = Gato.skeleton(model.config)
    if distributed.get_rank() == 0:
        copy.load_state_dict(tensors, assign=True)
    return copy


def save(folder: Path, step: int, state: State) -> None:
    """Write what each process holds of `state`; all must call this, and return when all of it is on disk."""
    part = folder / f"state-{step}"
    if distributed.get_rank() == 0:
        _remove(part)  # what a killed run left of it
        make_folder(part)
    distributed.barrier()
    save_state(dict(state), storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True))
    distributed.barrier()
    if distributed.get_rank() == 0:
        sync_folder(part)
        write_files({folder / POINTER: json.dumps({"step": step, "folder": part.name}).encode()})
        for other in folder.glob("state-*"):
            if other != part:
                _remove(other)


def _remove(folder: Path) -> None:
    """Remove a folder, or a link that stands in its place."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def saved(folder: Path) -> tuple[int, Path] | None:
    """Step and folder of the latest checkpoint that is whole; None where there is none.

    Raises:
        GatoError: the pointer is damaged.
    """
    path, way_out = folder / POINTER, "restore it, or train again into another --out"
    if not path.exists():
        return None
    try:
        about = json.loads(read_own(path))
        return int(about["step"]), below(folder, plain.name(about["folder"], path, way_out, PART))
    except (ValueError, TypeError, LookupError) as error:
        raise GatoError(f"{path} is damaged ({error}): {way_out}") from error


def names(part: Path) -> set[str]:
    """What a checkpoint holds."""
    return set(_reader(part).read_metadata().state_dict_metadata)


def load(part: Path, state: State) -> None:
    """Fill the tensors of `state`, each process its own part of them; the number of processes may have changed.

    Raises:
        GatoError: a file is missing, truncated, or of another model.
    """
    try:
        load_state(dict(state), storage_reader=_reader(part))
    except (CheckpointException, OSError, RuntimeError, ValueError) as error:
        raise GatoError(f"{part} is damaged, or of another model ({one_line(error)}): restore it, or train again "
                        "into another --out") from error  # fmt: skip


def _reader(part: Path) -> HuggingFaceStorageReader:
    return HuggingFaceStorageReader(str(part))
