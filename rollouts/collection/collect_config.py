"""Options of a collection."""

from dataclasses import dataclass
from pathlib import Path

from gato_agent.envs.errors import UsageError, at_least
from gato_agent.envs.suggested_commands import suggest


@dataclass(frozen=True)
class TaskOptions:
    """Tasks and episodes."""

    env: tuple[str, ...] = ()
    """Environment ids, one or several; module:Env-v0 imports the module first, and is stored as Env-v0."""
    suite: tuple[str, ...] = ()
    """Suites of the catalogue, in addition to --env or instead of it; all for every suite."""
    episodes: int = 100
    """Episodes of each environment, at least 1."""
    seed: int = 0
    """Random seed of the first episode, at least 0; each next one adds 1. Also that of the expert's training."""
    env_kwargs: str = "{}"
    """Environment arguments, as a JSON object."""


@dataclass(frozen=True)
class ExpertOptions:
    """Expert and noise."""

    expert: str = "catalogue"
    """Expert: catalogue (shipped or scripted), scripted, train, random, module:callable, hub:ORG/NAME, an SB3 zip's
    path, or human (you, at a window)."""
    expert_statistics: str | None = None
    """VecNormalize statistics with which an SB3 zip or model was trained: a .pkl or .npz file, or none; by default the
    file beside the zip."""
    expert_wrappers: str | None = None
    """Wrappers with which an SB3 zip or model was trained, as JSON, such as {"frame_stack": {"n": 4}}; by default from
    the settings beside the zip, or those that fit."""
    train_steps: int | None = None
    """Environment steps of --expert train; by default those of the environment's tuned settings."""
    keys: str | None = None
    """Keys of --expert human, as JSON, such as {"": 0, "left": 1, "left+space": 2}; "" is the action without a key. By
    default the environment's own, or those of its kind of actions."""
    fps: float | None = None
    """Steps per second of --expert human; by default those at which the environment is shown."""
    noise: bool = False
    """Action noise (DART): some actions are random, and the targets are the expert's. It makes far better agents."""
    num_threads: int = 1
    """CPU threads of each expert's network, at least 1; small networks are fastest with one."""


@dataclass(frozen=True)
class AgentOptions:
    """Agent that acts, in place of the expert or with its labels."""

    checkpoint: str | None = None
    """Checkpoint of an agent in place of an expert: its own episodes, with sampled actions. A run folder, a
    .safetensors file, or shipped."""
    temperature: float | None = None
    """Sampling temperature of --checkpoint, at least 0, by default 1; 0: greedy."""
    sampling_seed: int = 0
    """Random seed of --checkpoint's actions; with another one and another --out the same seeds are tried again."""
    dagger: str | None = None
    """DAgger: this agent acts, and the expert's actions are the targets. A run folder, a .safetensors file, or shipped.
    Use another --out than for the expert's episodes, and train on both folders."""
    dagger_beta: float = 0.25
    """DAgger's beta: share of the steps in which the expert acts, from 0 to 1, in stretches of 1 to 19 steps."""


@dataclass(frozen=True)
class ProcessOptions:
    """Worker processes."""

    workers: int | None = None
    """Worker processes, at least 0, by default 1; episodes do not depend on their number. 0 plays in this process,
    where a step that hangs or aborts ends the collection and loses the episodes not yet saved."""
    ray: str | None = None
    """Ray cluster: its address, auto, or local to start one; by default one worker for each CPU. Named files and
    modules must be readable there."""
    timeout: float = 300.0
    """Timeout of an environment step in seconds, above 0; a seed that exceeds it fails."""


@dataclass(frozen=True)
class OutputOptions:
    """Folder of the episodes."""

    out: Path = Path("data")
    """Output folder, with a folder for each environment."""
    compact: bool = True
    """Join the episodes of an environment into few large files when all are collected; more may be collected later."""
    keep_above: float | None = None
    """A former spelling of `gato-agent data filter --above`."""
    success_only: bool = False
    """A former spelling of `gato-agent data filter --success-only`."""


@dataclass(frozen=True)
class CollectConfig(OutputOptions, ProcessOptions, AgentOptions, ExpertOptions, TaskOptions):
    """Collect episodes of an expert. Run the command again to resume an interrupted collection."""

    def check(self) -> None:
        """Raise UsageError for an option out of range, or options that exclude each other."""
        at_least(1, episodes=self.episodes, num_threads=self.num_threads, train_steps=self.train_steps)
        at_least(0, seed=self.seed, workers=self.workers, temperature=self.temperature)
        at_least(0, sampling_seed=self.sampling_seed)
        if self.ray and self.workers == 0:
            raise UsageError("--workers 0 plays in this process, and --ray on a cluster: use one of them")
        if not self.timeout > 0:
            raise UsageError(f"--timeout {self.timeout}: it must be above 0")
        if not 0 <= self.dagger_beta <= 1:
            raise UsageError(f"--dagger-beta {self.dagger_beta}: it must be from 0 to 1")
        if self.dagger and self.noise:
            raise UsageError("--dagger and --noise both replace the expert's actions: use one of them")
        self._check_checkpoint()

    def _check_checkpoint(self) -> None:
        """Raise UsageError for options that exclude --checkpoint, or need it."""
        if self.checkpoint is None:
            for name, default in (("temperature", None), ("sampling_seed", 0)):
                if getattr(self, name) != default:
                    raise UsageError(f"--{name.replace('_', '-')} is for --checkpoint: leave it out")
            return
        if self.expert != "catalogue":
            raise UsageError("--checkpoint acts in place of an --expert: give one of them")
        for name in ("dagger", "noise", "expert_statistics", "expert_wrappers", "train_steps", "keys", "fps"):
            if getattr(self, name) not in (None, False):
                way_out = "; --temperature makes its actions random" if name == "noise" else ""
                raise UsageError(f"--{name.replace('_', '-')} is not for --checkpoint: leave it out{way_out}")

    def former_spellings(self) -> list[str]:
        """Hints on options that are removed in the next release."""
        above = [] if self.keep_above is None else [f"--above {self.keep_above:g}"]
        options = [*above, *(["--success-only"] if self.success_only else [])]
        return [" ".join(["write", suggest("filter", folder=self.out), *options])] if options else []
