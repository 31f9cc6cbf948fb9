"""All episodes below a folder, as the tokens that a model learns from."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gato_agent.checkpoint import TEXT_PIECES, TrainedTask
from gato_agent.config import GatoConfig
from gato_agent.envs.errors import UsageError
from gato_agent.envs.task import Task, find, view_of
from gato_agent.rollouts.keep import usable
from gato_agent.rollouts.store import EpisodeStore, open_stores
from gato_agent.text import TextTokenizer
from gato_agent.windows import TokenizedTask


@dataclass(frozen=True)
class Data:
    """What is learned from: tasks by id, their tokens in the same order, and the text tokenizer if there is text.

    Attributes:
        held_out: tokens of the episodes that are only looked at, of tasks that have such.
    """

    tasks: dict[str, TrainedTask]
    tokenized: list[TokenizedTask]
    text: TextTokenizer | None
    held_out: list[TokenizedTask] = field(default_factory=list)

    @property
    def families(self) -> list[str]:
        """The catalogue's suite of each task."""
        return [(find(task) or Task(task, "other")).suite for task in self.tasks]

    @property
    def tokens(self) -> int:
        """Number of tokens of all tasks."""
        return sum(task.tokens for task in self.tokenized)

    def sha256(self) -> str:
        """Digest of all tokens, so that a run resumes with the data that it began with."""
        sha = hashlib.sha256()
        for task in [*self.tokenized, *self.held_out]:
            for array in (task.rows, task.labels, task.patches, task.ends):
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


def load_data(
    folder: Path,
    config: GatoConfig,
    text_pieces: int | None,
    text_model: Path | None = None,
    text: TextTokenizer | None = None,
    holdout: float = 0.0,
) -> Data:
    """Read the episodes below a folder, but for those that a `keep.json` leaves out, and tokenize them.

    Args:
        folder: what `gato-agent collect --out` wrote.
        config: of the model that is to learn.
        text_pieces: tokens of an observed text; None for what the catalogue says.
        text_model: a user's SentencePiece model; by default one is trained on the texts that there are.
        text: a tokenizer that the model knows already, which goes before either.
        holdout: share of each task's episodes, the last ones, that is not learned from.

    Raises:
        UsageError: there is nothing, or a space or text model that does not fit the model.
        GatoError: an episode is damaged, or holds what cannot be tokenized.
    """
    stores = open_stores(folder)
    episodes = [[store.read(i) for i in usable(store)] for store in stores]
    columns = [column for many in episodes for episode in many for column in episode.observations.values()]
    text = text or _text(text_model, config, [text for column in columns if column.dtype == object for text in column])
    tasks = [_trained(store, text_pieces) for store in stores]
    tokenized, held_out = [], []
    for task, many in zip(tasks, episodes, strict=True):
        tokenizer, last = task.tokenizer(config, text), len(many) - int(holdout * len(many))
        tokenized.append(TokenizedTask(task.id, tokenizer, config.vocabulary.separator, many[:last]))
        if last < len(many):
            held_out.append(TokenizedTask(task.id, tokenizer, config.vocabulary.separator, many[last:]))
    data = Data({task.id: task for task in tasks}, tokenized, text, held_out)
    names = sorted(set(data.families))
    for one, family in zip(tokenized, data.families, strict=True):
        one.family = names.index(family)
    return data


def _trained(store: EpisodeStore, text_pieces: int | None) -> TrainedTask:
    """A store's task, seen as the catalogue says if it is known there."""
    known = find(store.env_id) or Task(store.env_id, "")
    pieces = text_pieces or known.text_pieces or TEXT_PIECES
    space = store.observation_space
    view = view_of(store.env_id, space)
    return TrainedTask(store.env_id, space, store.action_space, pieces, store.env_kwargs, view)


def _text(model: Path | None, config: GatoConfig, texts: list[str]) -> TextTokenizer | None:
    """The user's text model, or one trained on the data, or none where nothing is to be read."""
    if model is None:
        return TextTokenizer.train(texts, config.text) if texts else None
    text = TextTokenizer.from_file(model)
    if text.size > config.text:
        raise UsageError(
            f"--text-model {model} has {text.size} pieces and the model has room for {config.text}: "
            "train a smaller one, or choose another --size"
        )
    return text


def mixture(text: str, tasks: list[str]) -> list[float]:
    """Weights of tasks from `--mixture`; raises UsageError for anything but positive numbers of known tasks."""
    try:
        given = json.loads(text)
        wrong = [name for name, weight in given.items() if name not in tasks or not 0 < float(weight) < math.inf]
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"--mixture {text!r} is no JSON object of numbers: write '{{\"CartPole-v1\": 2}}'") from error
    if wrong:
        raise UsageError(
            f"--mixture: {', '.join(wrong)} must be tasks of the data ({', '.join(tasks)}) with a weight > 0"
        )
    return [float(given.get(name, 1.0)) for name in tasks]
