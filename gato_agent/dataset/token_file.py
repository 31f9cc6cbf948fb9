"""Training data in memory, or in a token file that all processes of a run map."""

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

from gato_agent.checkpoints.checkpoint import TrainedTask
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
    """Training data.

    Attributes:
        tasks: by id.
        tokenized: tokens of the tasks, in the same order.
        text: tokenizer, None without text.
        held_out: tokens of the validation episodes, of the tasks that have some.
        source_digest: digest of everything that determines the tokens.
        file: token file from which the arrays are mapped, None in memory.
    """

    tasks: dict[str, TrainedTask]
    tokenized: list[TokenizedTask]
    text: TextTokenizer | None
    held_out: list[TokenizedTask] = field(default_factory=list)
    source_digest: str = ""
    file: Path | None = None

    def __post_init__(self) -> None:
        """Set the family index of each task."""
        names = sorted(set(self.families))
        for one, family in zip(self.tokenized, self.families, strict=True):
            one.family = names.index(family)

    @property
    def families(self) -> list[str]:
        """Family of each task: its suite in the catalogue."""
        return [(find(task) or Task(task, "other")).suite for task in self.tasks]

    @property
    def tokens(self) -> int:
        """Number of tokens of all tasks."""
        return sum(task.tokens for task in self.tokenized)

    @cached_property
    def sha256(self) -> str:
        """Digest of all tokens, by which a run resumes with the same data only."""
        sha = hashlib.sha256()
        for task in [*self.tokenized, *self.held_out]:
            for array in task.arrays:
                sha.update(f"{array.dtype} {array.shape}".encode())
                sha.update(np.ascontiguousarray(array).data)
            if task.prompt != NO_PROMPT:
                sha.update(json.dumps(task.prompt.to_json()).encode())
        return sha.hexdigest()

    def _digest(self) -> str:
        """Digest of a token file's content."""
        tasks = json.dumps([task.to_json() for task in self.tasks.values()])
        text = self.text.model if self.text else b""
        return hashlib.sha256(f"{self.source_digest} {self.sha256} {tasks}".encode() + text).hexdigest()

    def mapped(self, path: Path, config: GatoConfig) -> "Data":
        """Copy that is mapped from a file, whose memory all processes share; itself if the file cannot be written.

        Args:
            path: token file, written unless this data is mapped from it.
            config: of the model to be trained.
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
            header = {"source_digest": self.source_digest, "digest": self._digest(), "tasks": tasks}
            write_files({path: pieces_of(arrays, header)})
        except OSError as error:
            _log.warning("%s could not be written (%s): each process keeps its tokens in memory", path, error)
            return self
        return Data.load(path, self.source_digest, config) or self

    @classmethod
    def load(cls, path: Path, source_digest: str, config: GatoConfig) -> Self | None:
        """Map a token file.

        Args:
            path: of the file.
            source_digest: that the file must have.
            config: of the model to be trained.

        Returns:
            None if the file is missing, damaged, or of other data: it has to be written again.
        """
        try:
            with path.open("rb") as file:
                arrays, metadata = open_arrays(mmap(file.fileno(), 0, access=ACCESS_READ))
            if metadata["source_digest"] != source_digest:
                return None
            text = TextTokenizer(arrays["text"].tobytes()) if "text" in arrays else None
            if text and text.size > config.text:
                return None
            tasks = {task.id: task for task in map(TrainedTask.from_json, metadata["tasks"])}
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
            data = cls(tasks, learned, text, held, source_digest, path)
            return data if data._digest() == metadata["digest"] else None
        except (
            GatoError, AssertionError, AttributeError, LookupError, OSError, OverflowError, TypeError, ValueError
        ):  # fmt: skip
            return None
