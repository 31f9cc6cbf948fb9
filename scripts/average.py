"""The mean of two checkpoints' weights, one of which was trained on from the other (Wortsman et al. 2022, WiSE-FT).

python scripts/average.py generalist/run generalist/longer --share 0.5 --out generalist/mean

What was learned last and what was forgotten meanwhile lie on a line: half way much of both is there.
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
    """What is averaged."""

    before: tyro.conf.Positional[str]
    """Run folder or checkpoint, or `shipped`."""
    after: tyro.conf.Positional[Path]
    """Run folder or checkpoint that was trained from it; its tasks and text model are kept."""
    out: Path
    """Folder for the result."""
    share: float = 0.5
    """Of `after`."""


def main(config: Config) -> None:
    """Write the mean; raises UsageError for checkpoints of different shapes."""
    before, _ = read(locate(config.before))
    after, about = read(locate(config.after))
    shapes = ({name: tensor.shape for name, tensor in each.items()} for each in (before, after))
    if next(shapes) != next(shapes):
        raise UsageError(f"{config.before} and {config.after} are not of one shape")
    for name, tensor in after.items():
        if tensor.is_floating_point():
            after[name] = before[name].float().lerp(tensor.float(), config.share).to(tensor.dtype)
    write_files(
        {config.out / FILE: to_bytes(after, {name: value for name, value in about.items() if name != "format"})}
    )


if __name__ == "__main__":
    guard(lambda: main(tyro.cli(Config, description=__doc__)), "average")
