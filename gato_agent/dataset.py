"""What is learned from, in memory or in one file that all processes of a run map."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from gato_agent.checkpoint import TrainedTask
from gato_agent.config import GatoConfig
from gato_agent.envs.errors import GatoError
from gato_agent.envs.files import write_files
from gato_agent.envs.task import Task, find
from gato_agent.prompt import NO_PROMPT
from gato_agent.rollouts.shard import open_arrays
from gato_agent.text import TextTokenizer
from gato_agent.tokenized import TokenizedTask, Tokens

FILE = "tokens.safetensors"


@dataclass(frozen=True)
class Data:
    """What is learned from: tasks by id, their tokens in the same order, and the text tokenizer if there is text.

    Attributes:
        held_out: tokens of the episodes that are only looked at, of tasks that have such.
        mark: digest of what the tokens were made of.
        file: that they are mapped from.
    """

    tasks: dict[str, TrainedTask]
    tokenized: list[TokenizedTask]
    text: TextTokenizer | None
    held_out: list[TokenizedTask] = field(default_factory=list)
    mark: str = ""
    file: Path | None = None

    def __post_init__(self) -> None:
        """Tell the tasks their families."""
        names = sorted(set(self.families))
        for one, family in zip(self.tokenized, self.families, strict=True):
            one.family = names.index(family)

    @property
    def families(self) -> list[str]:
        """The catalogue's suite of each task."""
        return [(find(task) or Task(task, "other")).suite for task in self.tasks]

    @property
    def tokens(self) -> int:
        """Number of tokens of all tasks."""
        return sum(task.tokens for task in self.tokenized)

    @cached_property
    def sha256(self) -> str:
        """Digest of all tokens, so that a run resumes with the data that it began with."""
        sha = hashlib.sha256()
        for task in [*self.tokenized, *self.held_out]:
            for array in task.arrays:
                sha.update(np.ascontiguousarray(array).data)
            if task.prompt != NO_PROMPT:
                sha.update(json.dumps(task.prompt.to_json()).encode())
        return sha.hexdigest()

    def mapped(self, path: Path, config: GatoConfig) -> "Data":
        """The same, mapped from a file, which is written if need be: memory that all processes share."""
        if self.file == path:
            return self
        arrays: dict[str, NDArray[Any]] = {}
        for kind, tokenized in (("learned", self.tokenized), ("held", self.held_out)):
            for task in tokenized:
                arrays |= {f"{kind}.{task.name}.{name}": a for name, a in task.arrays._asdict().items()}
        if self.text is not None:
            arrays["text"] = np.frombuffer(self.text.model, np.uint8)
        tasks = [task.to_json() for task in self.tasks.values()]
        about = json.dumps({"mark": self.mark, "sha256": self.sha256, "tasks": tasks})
        write_files({path: save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, {"gato": about})})
        return Data.load(path, self.mark, config) or self

    @classmethod
    def load(cls, path: Path, mark: str, config: GatoConfig) -> Self | None:
        """Map such a file; None where there is none of this mark, or a damaged one, which is then to be made again."""
        try:
            with path.open("rb") as file:
                arrays, about = open_arrays(mmap(file.fileno(), 0, access=ACCESS_READ))
            if about["mark"] != mark:
                return None
            text = TextTokenizer(arrays["text"].tobytes()) if "text" in arrays else None
            tasks = {task.id: task for task in map(TrainedTask.from_json, about["tasks"])}
            learned, held = (
                [
                    TokenizedTask(
                        name,
                        task.tokenizer(config, text),
                        Tokens(*(arrays[f"{kind}.{name}.{field}"] for field in Tokens._fields)),
                        task.prompt,
                    )
                    for name, task in tasks.items()
                    if f"{kind}.{name}.rows" in arrays
                ]
                for kind in ("learned", "held")
            )
            data = cls(tasks, learned, text, held, mark, path)
            return data if data.sha256 == about["sha256"] else None
        except (GatoError, OSError, LookupError, TypeError, ValueError):
            return None
