"""Weight-space interpolation of a checkpoint and its fine-tuned successor (WiSE-FT, Wortsman et al. 2022).

python scripts/average.py generalist/run generalist/longer --share 0.5 --out generalist/mean

It trades what fine-tuning learned against what it forgot.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from gato_agent.checkpoints.checkpoint import FILE, locate, read, to_bytes
from gato_agent.cli import guard
from gato_agent.envs.errors import UsageError
from gato_agent.envs.files import write_files


@dataclass(frozen=True)
class Config:
    """Interpolate the weights of two checkpoints."""

    before: tyro.conf.Positional[str]
    """Checkpoint or run folder before fine-tuning, or `shipped`."""
    after: tyro.conf.Positional[Path]
    """Checkpoint or run folder after fine-tuning, whose tasks and text model the result has."""
    out: Path
    """Output folder."""
    share: float = 0.5
    """Weight of `after`, 0 to 1."""


def main(config: Config) -> None:
    """Write the interpolated checkpoint; raises UsageError for models of different shapes."""
    before, _ = read(locate(config.before))
    after, about = read(locate(config.after))
    shapes = ({name: tensor.shape for name, tensor in each.items()} for each in (before, after))
    if next(shapes) != next(shapes):
        raise UsageError(f"{config.before} and {config.after} differ in shape: give models of one size")
    for name, tensor in after.items():
        if tensor.is_floating_point():
            after[name] = before[name].float().lerp(tensor.float(), config.share).to(tensor.dtype)
    write_files(
        {config.out / FILE: to_bytes(after, {name: value for name, value in about.items() if name != "format"})}
    )


if __name__ == "__main__":
    guard(lambda: main(tyro.cli(Config, description=__doc__)), "average")
