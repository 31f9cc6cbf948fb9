"""The verb `export`: a control step of one task as a graph for other runtimes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.task_matching import find_task
from gato_agent.envs.io.console import print_line
from gato_agent.exporting.export import export as export_task
from gato_agent.inference.make_agent import demonstration


@dataclass(frozen=True)
class ExportConfig:
    """Write one control step of a task as a graph for other runtimes."""

    env: str
    """Environment id, one of the checkpoint's tasks."""
    out: Path
    """Graph file to write, .onnx or .pt2; its JSON has the same name."""
    checkpoint: str | None = None
    """Checkpoint: run folder or .safetensors file; by default the weights shipped with the package."""
    format: Literal["onnx", "torch"] = "onnx"
    """Graph format. onnx: for ONNX Runtime; torch: for torch.export.load."""
    n_envs: int = 1
    """Environments in a step, at least 1: rows of each array."""
    temperature: float | None = None
    """Sampling temperature, at least 0; 0: greedy. By default the checkpoint's for the task, mostly 0."""
    prompt: Literal["none", "text", "demo"] | None = None
    """Prompt of episodes; by default that of training."""
    demo: Path | None = None
    """Demonstrations: folder of collected episodes, for an agent that was trained with --prompt demo."""


def export(config: ExportConfig) -> list[Path]:
    """Write the files of a graph; returns their paths.

    Raises:
        UsageError: an unknown checkpoint or task, a file that exists, or a missing extra.
        OSError: a file cannot be written.
    """
    checkpoint = Checkpoint.load(config.checkpoint)
    task = find_task(checkpoint, config.env.rpartition(":")[2])  # a module before it is not needed
    demo = demonstration(config.demo, task.id, config.prompt)
    files = export_task(
        checkpoint, task, config.out, config.format, num_envs=config.n_envs, temperature=config.temperature,
        prompt=config.prompt, demonstration=demo,
    )  # fmt: skip
    for path in files:
        print_line(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return files
