"""`gato-agent checkpoint upgrade`: conversion of checkpoints of earlier versions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gato_agent.checkpoints.upgrade import Upgrade, upgrade
from gato_agent.envs.io.console import plain_console


@dataclass(frozen=True)
class UpgradeConfig:
    """Convert a checkpoint of an earlier version; its agent chooses the same actions as before."""

    checkpoint: Annotated[str, tyro.conf.Positional]
    """Checkpoint: run folder, .safetensors file, or hub:ORG/NAME on the Hugging Face hub."""
    out: Path | None = None
    """Folder for the converted files; by default the file is replaced, and kept as model.former.safetensors."""


def upgrade_command(config: UpgradeConfig) -> None:
    """Convert the files of a checkpoint and print a line for each; raises as `upgrade` does."""
    for each in upgrade(config.checkpoint, config.out):
        plain_console(soft_wrap=True).print(_line(each), highlight=False, markup=False)


def _line(done: Upgrade) -> str:
    if done.written is None:
        return f"{done.path} has the form of this version: nothing to convert"
    former = f"; the former file is {done.former}" if done.former else ""
    return f"{done.path} converted to {done.written}: {'; '.join(done.changes)}{former}"
