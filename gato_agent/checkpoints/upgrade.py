"""Conversion of checkpoint files of earlier versions to the form that this version writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gato_agent.checkpoints.checkpoint import FILE, FORMAT, SHIPPED, TEXT_MODEL, Checkpoint, locate, read
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import read_named, write_files
from gato_agent.rollouts.experts.hub import PREFIX

FORMER = "model.former.safetensors"  # name under which the former file is kept
BEST = "best"  # folder of a run's best model


@dataclass(frozen=True)
class Upgrade:
    """Result of a conversion.

    Attributes:
        path: file that was read.
        written: file that was written; None if `path` has the form of this version.
        former: copy of the former file; None if it was not replaced.
        changes: differences between the two forms, in words.
    """

    path: Path
    written: Path | None = None
    former: Path | None = None
    changes: tuple[str, ...] = ()


def upgrade(reference: str, out: Path | None = None) -> list[Upgrade]:
    """Convert a checkpoint, and the best model of a run folder.

    A converted file has the same weights in the same dtype, and its agent chooses the same actions as when the former
    file is loaded.

    Args:
        reference: as `Checkpoint.load`.
        out: folder for the converted files; by default the former file is replaced, and kept under another name.

    Raises:
        UsageError: no such checkpoint, one that is not on this disk without `out`, or a file in the way.
        GatoError: a file that cannot be converted; the message has the reason. It is not changed.
    """
    if out is None and (reference in SHIPPED or reference.startswith(PREFIX)):
        raise UsageError(f"{reference} is not replaced: give a folder for the converted file with --out")
    done = [_upgrade(locate(reference), out)]
    best = Path(reference) / BEST / FILE
    if best.is_file():
        done.append(_upgrade(best, None if out is None else out / BEST))
    return done


def _upgrade(path: Path, out: Path | None) -> Upgrade:
    """Convert one file."""
    before = read_named(path)
    tensors, about = read(path)
    checkpoint = Checkpoint.load(path)
    dtypes = {tensor.dtype for name, tensor in tensors.items() if name != TEXT_MODEL}
    after = checkpoint.to_bytes(dtypes.pop() if len(dtypes) == 1 else torch.float32)
    names = set(checkpoint.model.state_dict()) | ({TEXT_MODEL} if checkpoint.text else set())
    changes = _changes(about, _described(checkpoint), set(tensors), names)
    if not changes:
        return Upgrade(path)
    target = path if out is None else out / FILE
    former = path.with_name(FORMER) if target.absolute() == path.absolute() else None
    taken = former or target
    if taken.exists() and read_named(taken) != (before if former else after):
        raise UsageError(f"{taken} exists already: move it, or choose another folder with --out")
    write_files({former: before} if former else {})
    write_files({target: after})
    if read(target)[1] != _described(checkpoint):
        raise GatoError(f"{target} does not read back as written: restore it from {former or path}")
    return Upgrade(path, target, former, changes)


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    """Description in a file of this version."""
    tasks = [task.to_json() for task in checkpoint.tasks.values()]
    config = checkpoint.model.config.to_json()
    return {"format": FORMAT, "config": config, "tasks": tasks, "training": checkpoint.training}


def _changes(about: dict[str, Any], described: dict[str, Any], before: set[str], after: set[str]) -> tuple[str, ...]:
    """Differences of a file from its form of this version, in words."""
    changes = []
    old, new = about["config"], described["config"]
    if old != new:
        removed, added = old.keys() - new.keys(), new.keys() - old.keys()
        fields = [*(f"-{name}" for name in sorted(removed)), *(f"+{name}" for name in sorted(added))]
        changes.append(f"configuration {' '.join(fields)}")
    if about["tasks"] != described["tasks"]:
        changes.append(f"{len(described['tasks'])} tasks with all fields")
    if before != after:
        changes.append(f"tensors -{len(before - after)} +{len(after - before)}")
    return tuple(changes)
