"""Options of `gato-agent evaluate`."""

from dataclasses import dataclass
from pathlib import Path

from gato_agent.envs.errors import UsageError, at_least
from gato_agent.envs.io.json_output import STDOUT
from gato_agent.envs.suggested_commands import suggest
from gato_agent.evaluation.metrics import FIRST_SEED
from gato_agent.evaluation.option_groups import ActorOptions, DecodingArguments
from gato_agent.evaluation.results import FILE


@dataclass(frozen=True)
class TaskOptions:
    """Tasks and episodes."""

    env: tuple[str, ...] = ()
    """Environment ids; by default, without --suite, all tasks of the checkpoint."""
    suite: tuple[str, ...] = ()
    """Suites of the catalogue, in addition to --env; all: every suite. Tasks that are not installed or unknown to the
    checkpoint are listed and not evaluated."""
    episodes: int = 50
    """Episodes per environment, at least 1."""
    seed: int = FIRST_SEED
    """Random seed of the first episode; each next one adds 1."""
    env_kwargs: str = "{}"
    """Environment arguments, as a JSON object."""


@dataclass(frozen=True)
class ProcessOptions:
    """Parallel environments and processes."""

    n_envs: int = 10
    """Parallel environments at most, at least 1; an expert plays one. Sampled actions depend on their number."""
    workers: int | None = None
    """Worker processes, each with one task at a time; by default one for each core, at most one for each task, and one
    on a GPU. 0: play in this process, without isolation from environments that hang, leak or abort."""
    ray: str | None = None
    """Ray cluster: its address, auto, or local to start one. Checkpoints must be readable on its machines."""
    timeout: float = 300.0
    """Timeout of an environment step in seconds, above 0; a task that exceeds it fails."""


@dataclass(frozen=True)
class OutputOptions:
    """Results."""

    out: Path | None = None
    """Results folder, written as JSON and CSV after every task; the same command resumes. `gato-agent report` makes a
    page of it."""
    json: Path | None = None
    """-: results as JSON on standard output, and messages on standard error. A file is a former spelling of --out."""
    report: Path | None = None
    """Report folder. A former spelling of the verb report."""


@dataclass(frozen=True)
class EvaluateConfig(OutputOptions, ProcessOptions, DecodingArguments, ActorOptions, TaskOptions):
    """Evaluate a checkpoint or an expert in one or many environments.

    With --out, the same command resumes an interrupted evaluation. Outside the catalogue, random actions are played
    too, and with --checkpoint an --expert, so that the checkpoint has a score between them.
    """

    def check(self) -> None:
        """Raise UsageError for an option out of range, or options that exclude each other."""
        at_least(1, episodes=self.episodes, n_envs=self.n_envs)
        at_least(0, seed=self.seed, workers=self.workers)
        self.check_actor()
        self.check_decoding()
        if self.ray and self.workers == 0:
            raise UsageError("--workers 0 plays in this process, and --ray in others: give one of them")
        if not self.timeout > 0:
            raise UsageError(f"--timeout {self.timeout}: it must be above 0")

    def plays_expert(self) -> bool:
        """True if the expert is evaluated; beside a checkpoint it is a reference."""
        return self.expert is not None and self.checkpoint is None

    def former_spellings(self) -> list[str]:
        """Hints on options that are removed in the next release."""
        hints = []
        if self.json not in (None, STDOUT):
            hints.append(f"--json {self.json} is written --out FOLDER, which has {FILE}")
        if self.report:
            hints.append(f"--report is a verb: {suggest('report', results=self.out or 'results', out=self.report)}")
        return hints
