"""Record of the finished rounds, in OUT/improve.json, and the rule that ends them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.files import read_own, write_files
from gato_agent.envs.io.console import plural
from gato_agent.envs.io.strict_json import checked_digest, record, with_digest
from gato_agent.evaluation.metrics import ci95

FILE = "improve.json"
FORMAT = 1


class Gain(NamedTuple):
    """Mean difference of two agents on the same seeds, and its 95% interval."""

    mean: float
    low: float
    high: float


def gain(new: Sequence[float], old: Sequence[float]) -> Gain:
    """Gain of an agent over another one; both have played the same seeds, in the same order."""
    differences = np.subtract(new, old)
    return Gain(float(differences.mean()), *ci95(differences.tolist()))


@dataclass(frozen=True)
class Round:
    """Result of one round; round 0 is the first agent's.

    Attributes:
        number: of the round.
        scores: of each held-out episode, by seed: its return, or 1 for success where the catalogue compares success.
        returns: mean return of these episodes.
        best: True if no earlier agent is better.
        episodes: played for the selection.
        steps: environment steps of these.
        selected: episodes, or stretches of episodes, trained on.
        demonstrations: of these, how many are of demonstrations.
        bar: least return of a selected episode, or least advantage of a stretch; None in round 0.
        seconds: wall time of each stage, in the command that finished it.
    """

    number: int
    scores: tuple[float, ...]
    returns: float
    best: bool
    episodes: int = 0
    steps: int = 0
    selected: int = 0
    demonstrations: int = 0
    bar: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Mean score."""
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class Progress:
    """Finished rounds of an improvement, and its result.

    Attributes:
        settings: options that determine the agents, and digests of --data and --init.
        demonstrations: mean score of the demonstrations; None without any.
        by_success: True if scores are successes.
        rounds: finished rounds, from 0.
        end: reason why no further round is played; None if more may follow.
        test: scores of the first and the best agent on seeds that chose nothing, by name.
        test_seconds: wall time of that comparison.
    """

    settings: dict[str, Any]
    demonstrations: float | None = None
    by_success: bool = False
    rounds: tuple[Round, ...] = ()
    end: str | None = None
    test: dict[str, tuple[float, ...]] = field(default_factory=dict)
    test_seconds: float = 0.0

    @property
    def best(self) -> Round:
        """Best round so far."""
        return next(each for each in reversed(self.rounds) if each.best)

    @property
    def start(self) -> Round:
        """Round whose agent the next one begins with: the latest, unless it is surely worse than the best.

        A few held-out episodes do not order agents that are about as good, and rounds that all began with one of them
        would repeat each other.
        """
        latest = self.rounds[-1]
        return self.best if gain(latest.scores, self.best.scores).high < 0 else latest

    @property
    def test_gain(self) -> Gain | None:
        """Gain of the best agent over the first one on seeds that chose nothing; None before it is known."""
        return gain(self.test["best"], self.test["first"]) if self.test else None

    def with_round(self, new: Round) -> "Progress":
        """Progress with one more round; it is the best if its gain over the best so far is above 0."""
        best = not self.rounds or gain(new.scores, self.best.scores).mean > 0
        return dataclasses.replace(self, rounds=(*self.rounds, dataclasses.replace(new, best=best)), test={})

    def recent_gain(self, patience: int) -> Gain | None:
        """Gain of the best agent over the best one `patience` rounds before; None in the first rounds."""
        if len(self.rounds) <= patience:
            return None
        before = dataclasses.replace(self, rounds=self.rounds[:-patience])
        return gain(self.best.scores, before.best.scores)

    def to_json(self) -> dict[str, Any]:
        """JSON value; inverse of `record`."""
        return dataclasses.asdict(self)

    def save(self, folder: Path) -> None:
        """Write the file atomically."""
        write_files({folder / FILE: with_digest({"format": FORMAT, **self.to_json()}, indent=1)})

    @classmethod
    def load(cls, folder: Path, settings: dict[str, Any]) -> Self:
        """Progress in a folder; that of a folder without one is empty.

        Raises:
            UsageError: it was begun with other options.
            GatoError: the file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return cls(settings)
        try:
            data = checked_digest(read_own(path))
            if (version := data.pop("format", None)) != FORMAT:
                raise ValueError(f"format {version!r:.80}, and this version reads {FORMAT}")
            rounds = tuple(record(Round, each) for each in data.pop("rounds"))
            loaded = dataclasses.replace(record(cls, data), rounds=rounds)
        except (LookupError, TypeError, ValueError) as error:
            raise GatoError(f"{path} is damaged ({error}): restore it, or choose another --out") from error
        if other := [key for key, value in settings.items() if loaded.settings.get(key) != value]:
            option, then, now = other[0], loaded.settings.get(other[0]), settings[other[0]]
            raise UsageError(
                f"{folder} was begun with another --{option.replace('_', '-')} ({then}, now {now}): repeat that, or "
                "choose another --out"
            )
        return loaded


def ending(progress: Progress, patience: int) -> str | None:
    """Reason to end after the latest round; None if the last rounds have helped."""
    recent = progress.recent_gain(patience)
    if recent is None or recent.low > 0:
        return None
    return (
        f"the last {plural(patience, 'round')} no longer helped: the best agent's gain over them is "
        f"{recent.mean:+.2f}, 95% interval {recent.low:+.2f} to {recent.high:+.2f}; a larger --patience goes on"
    )
