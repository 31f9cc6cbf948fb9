"""Options of `gato-agent improve`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gato_agent.envs.errors import UsageError, at_least
from gato_agent.training.option_groups import Size

FREE = ("rounds", "patience", "out", "workers", "timeout", "num_threads", "data", "init")  # may change in a resumed run


@dataclass(frozen=True)
class StartOptions:
    """Task, demonstrations and first agent."""

    env: str
    """Environment id; module:Env-v0 imports the module first."""
    data: tuple[Path, ...] = ()
    """Demonstrations: folders that `gato-agent collect --out` wrote. They may be few and poor."""
    init: str | None = None
    """First agent: run folder, .safetensors file, or shipped. By default one is trained on --data; so is one that does
    not know the environment."""
    size: Size = "nano"
    """Model size of an agent that is trained on --data alone."""
    first_steps: int = 200
    """Optimizer steps of the first agent's training on --data."""
    env_kwargs: str | None = None
    """Environment arguments, as a JSON object; by default those of --data."""


@dataclass(frozen=True)
class RoundOptions:
    """Episodes and selection of a round."""

    rounds: int = 5
    """Rounds at most. With more, the same command goes on."""
    patience: int = 3
    """Rounds after which an end is possible: it comes if these rounds together brought no gain, that is if the 95%
    interval of the best agent's gain over them includes 0."""
    episodes: int = 100
    """Environment seeds of a round, each played --tries times."""
    tries: int = 4
    """Episodes of a seed: the first is greedy, the others are sampled. Of whole episodes the best of them is
    selected."""
    temperature: float = 1.0
    """Sampling temperature of a round's first sampled try, above 0. It is doubled for the next as long as most episodes
    of a try are as long and as good as the greedy ones."""
    stretch: int | None = None
    """Steps of a stretch. Stretches that bring more than expected are selected in place of whole episodes; 0: whole
    episodes. By default 0 where episodes report success or observations are images, else 12."""
    bar: float | None = None
    """Bar: quantile of the returns of a round's best tries, or of the advantages of its stretches, from 0 to below 1.
    What is below it in demonstrations and earlier rounds is left out too. By default 0.25, of stretches 0.8."""
    eval_episodes: int = 100
    """Episodes that compare the agents of all rounds, from seed 900,000; and again as many for the last comparison of
    the best agent with the first, from seed 1,000,000. At least 2."""


@dataclass(frozen=True)
class TrainingOptions:
    """Training of a round."""

    steps: int = 200
    """Optimizer steps of a round, from the agent that played, with a new optimizer."""
    learning_rate: float | None = None
    """Learning rate; by default that of fine-tuning the model's size."""
    batch_size: int | None = None
    """Batch size in sequences of twice the context length; by default that of fine-tuning the model's size."""


@dataclass(frozen=True)
class RunOptions:
    """Folder, seed and processes."""

    out: Path = Path("runs/improved")
    """Folder of all rounds; OUT/best is the best agent. The same command resumes."""
    seed: int = 0
    """Random seed of episodes and trainings."""
    device: str = "auto"
    """Device: auto, cpu or cuda."""
    workers: int | None = None
    """Worker processes of playing, 1 by default. 0 plays in this process."""
    timeout: float = 300.0
    """Timeout of an environment step in seconds, above 0."""
    num_threads: int = 1
    """CPU threads of playing and training. Training is bit-exact only for the same number."""


@dataclass(frozen=True)
class ImproveConfig(RunOptions, TrainingOptions, RoundOptions, StartOptions):
    """Improve an agent by the best of its own episodes: play, select, train on the selection, in rounds.

    Run the command again to resume an interrupted one.
    """

    def check(self) -> None:
        """Raise UsageError for an option out of range, or without a beginning."""
        at_least(1, rounds=self.rounds, patience=self.patience, episodes=self.episodes, steps=self.steps)
        at_least(1, first_steps=self.first_steps, num_threads=self.num_threads, batch_size=self.batch_size)
        at_least(2, tries=self.tries, eval_episodes=self.eval_episodes)
        at_least(0, seed=self.seed, workers=self.workers, stretch=self.stretch)
        for name in ("temperature", "timeout", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} {value}: it must be above 0")
        if self.bar is not None and not 0 <= self.bar < 1:
            raise UsageError(f"--bar {self.bar}: it must be at least 0, and below 1")
        if not self.data and self.init is None:
            raise UsageError("improve begins with demonstrations or an agent: give --data FOLDER, --init RUN, or both")

    def settings(self) -> dict[str, Any]:
        """Options that determine the agents, as JSON; a run is resumed only with equal ones."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in FREE}
