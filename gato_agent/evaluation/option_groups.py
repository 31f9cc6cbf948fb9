"""Options of `play`, `evaluate` and `serve` in groups, as their help shows them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gato_agent.envs.errors import UsageError
from gato_agent.inference.decoders.decoder import Precision
from gato_agent.inference.decoders.sampling import check_temperature
from gato_agent.native.build import check_threads


@dataclass(frozen=True)
class ActorOptions:
    """Checkpoint or expert that plays."""

    checkpoint: str | None = None
    """Checkpoint: run folder or .safetensors file; by default the weights shipped with the package."""
    expert: str | None = None
    """Expert: `random`, `catalogue`, an SB3 zip, ... (as for collect). It plays instead of a checkpoint; in evaluate,
    beside --checkpoint, it is the reference outside the catalogue."""
    expert_statistics: str | None = None
    """VecNormalize statistics of an SB3 --expert (as for collect): a file, or none."""
    expert_wrappers: str | None = None
    """Observation wrappers of an SB3 --expert, as JSON (as for collect)."""

    def check_actor(self) -> None:
        """Raise UsageError for options that exclude each other."""
        if self.expert == "train":
            raise UsageError("--expert train is for collect, which keeps the expert: name the zip that it made")
        if self.expert is None and (self.expert_statistics or self.expert_wrappers):
            raise UsageError("--expert-statistics and --expert-wrappers belong to an --expert: name one")


@dataclass(frozen=True)
class DecodingArguments:
    """Device, precision, sampling and prompt of a checkpoint."""

    temperature: float | None = None
    """Sampling temperature, at least 0; 0: greedy, the most likely token, for numbers the median. By default the
    checkpoint's for the task, mostly 0."""
    device: str = "auto"
    """Device: auto, cpu or cuda."""
    precision: Precision = "float32"
    """Precision of the weights: bfloat16, and on a CPU int8, are faster for large models."""
    prompt: Literal["none", "text", "demo"] | None = None
    """Prompt of episodes; by default that of training."""
    demo: Path | None = None
    """Demonstrations: folder of collected episodes, for an agent that was trained with --prompt demo."""
    num_threads: int | None = None
    """CPU threads of a process, at least 1; by default one, or more for large models and many environments."""

    def check_decoding(self) -> None:
        """Raise UsageError for an option out of range."""
        check_threads(self.num_threads)
        check_temperature(self.temperature)
