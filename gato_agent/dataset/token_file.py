"""What is learned from, in memory or in one file that all processes of a run map."""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.dataset.task_tokens import Arrays, TokenizedTask
from gato_agent.envs.errors import GatoError
from gato_agent.envs.files import write_files
from gato_agent.envs.tasks.task import Task, find
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.shard import open_arrays, pieces_of
from gato_agent.tokens.prompt import NO_PROMPT
from gato_agent.tokens.text_tokenizer import TextTokenizer

FILE = "tokens.safetensors"

_log = logging.getLogger(__name__)


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
                sha.update(f"{array.dtype} {array.shape}".encode())
                sha.update(np.ascontiguousarray(array).data)
            if task.prompt != NO_PROMPT:
                sha.update(json.dumps(task.prompt.to_json()).encode())
        return sha.hexdigest()

    def _seal(self) -> str:
        """Digest of all that is in a file."""
        tasks = json.dumps([task.to_json() for task in self.tasks.values()])
        text = self.text.model if self.text else b""
        return hashlib.sha256(f"{self.mark} {self.sha256} {tasks}".encode() + text).hexdigest()

    def mapped(self, path: Path, config: GatoConfig) -> "Data":
        """The same, mapped from a file, whose memory all processes share; as it is where there is no room for one.

        Args:
            path: is written, if this is not mapped from there.
            config: of the model that is to learn.
        """
        if self.file == path and path.exists():
            return self
        arrays: dict[str, NDArray[Any]] = {}
        for kind, tokenized in (("learned", self.tokenized), ("held", self.held_out)):
            for task in tokenized:
                arrays |= {f"{kind}.{task.name}.{name}": a for name, a in task.arrays._asdict().items()}
        if self.text is not None:
            arrays["text"] = np.frombuffer(self.text.model, np.uint8)
        tasks = [task.to_json() for task in self.tasks.values()]
        try:
            write_files({path: pieces_of(arrays, {"mark": self.mark, "seal": self._seal(), "tasks": tasks})})
        except OSError as error:
            _log.warning("%s could not be written (%s): each process keeps its tokens in memory", path, error)
            return self
        return Data.load(path, self.mark, config) or self

    @classmethod
    def load(cls, path: Path, mark: str, config: GatoConfig) -> Self | None:
        """Map such a file.

        Args:
            path: of the file.
            mark: what it must have been made of.
            config: of the model that is to learn.

        Returns:
            None where there is no such file, or a damaged one: it is to be made again.
        """
        try:
            with path.open("rb") as file:
                arrays, about = open_arrays(mmap(file.fileno(), 0, access=ACCESS_READ))
            if about["mark"] != mark:
                return None
            text = TextTokenizer(arrays["text"].tobytes()) if "text" in arrays else None
            if text and text.size > config.text:
                return None
            tasks = {task.id: task for task in map(TrainedTask.from_json, about["tasks"])}
            learned, held = (
                [
                    TokenizedTask(
                        name,
                        task.tokenizer(config, text),
                        Arrays(*(arrays[f"{kind}.{name}.{part}"] for part in Arrays._fields)),
                        task.prompt,
                    )
                    for name, task in tasks.items()
                    if f"{kind}.{name}.rows" in arrays
                ]
                for kind in ("learned", "held")
            )
            data = cls(tasks, learned, text, held, mark, path)
            return data if data._seal() == about["seal"] else None
        except (
            GatoError, AssertionError, AttributeError, LookupError, OSError, OverflowError, TypeError, ValueError
        ):  # fmt: skip
            return None
