"""All episodes below a folder, as the tokens that a model learns from."""

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from gato_agent.checkpoint import TEXT_PIECES, TrainedTask
from gato_agent.config import GatoConfig
from gato_agent.envs.errors import UsageError
from gato_agent.envs.task import Task, find, view_of
from gato_agent.prompt import NO_PROMPT, Kind, Prompt, demonstration, instruction_of, names_of, without
from gato_agent.rollouts.episode import Episode
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
    def tokens(self) -> int:
        """Number of tokens of all tasks."""
        return sum(task.tokens for task in self.tokenized)

    def sha256(self) -> str:
        """Digest of all tokens, so that a run resumes with the data that it began with."""
        sha = hashlib.sha256()
        for task in [*self.tokenized, *self.held_out]:
            for array in (task.rows, task.labels, task.patches, task.ends, task.texts):
                sha.update(np.ascontiguousarray(array).data)
            if task.prompt != NO_PROMPT:
                sha.update(json.dumps(task.prompt.to_json()).encode())
        return sha.hexdigest()


def load_data(
    folder: Path,
    config: GatoConfig,
    text_pieces: int | None,
    text_model: Path | None = None,
    text: TextTokenizer | None = None,
    holdout: float = 0.0,
    prompt: Kind | Literal["auto"] = "none",
) -> Data:
    """Read the episodes below a folder, but for those that a `keep.json` leaves out, and tokenize them.

    Args:
        folder: what `gato-agent collect --out` wrote.
        config: of the model that is to learn.
        text_pieces: tokens of an observed text; None for what the catalogue says.
        text_model: a user's SentencePiece model; by default one is trained on the texts that there are.
        text: a tokenizer that the model knows already, which goes before either.
        holdout: share of each task's episodes, the last ones, that is not learned from.
        prompt: what episodes begin with; auto is text where there are several tasks or instructions, else none.

    Raises:
        UsageError: there is nothing, or a space, text model or prompt that does not fit the model.
        GatoError: an episode is damaged, or holds what cannot be tokenized.
    """
    stores = open_stores(folder)
    episodes = [[store.read(i) for i in usable(store)] for store in stores]
    tasks = _prompted([_trained(store, text_pieces) for store in stores], prompt)
    columns = [column for many in episodes for episode in many for column in episode.observations.values()]
    texts = [text for column in columns if column.dtype == object for text in column]
    texts += [task.prompt.text for task in tasks if task.prompt.text]
    text = text or _text(text_model, config, texts)
    tokenized, held_out = [], []
    for number, many in enumerate(episodes):
        tasks[number] = task = _sized(tasks[number], config, text, many, text_pieces)
        last, pieces = len(many) - int(holdout * len(many)), text.encode if text else None
        common = task.id, task.tokenizer(config, text), config.vocabulary.separator
        tokenized.append(TokenizedTask(*common, many[:last], task.prompt, pieces))
        if last < len(many):
            held_out.append(TokenizedTask(*common, many[last:], task.prompt, pieces))
    return Data({task.id: task for task in tasks}, tokenized, text, held_out)


def _trained(store: EpisodeStore, text_pieces: int | None) -> TrainedTask:
    """A store's task, seen as the catalogue says if it is known there."""
    known = find(store.env_id) or Task(store.env_id, "")
    pieces = text_pieces or known.text_pieces or TEXT_PIECES
    space = store.observation_space
    view = view_of(store.env_id, space)
    return TrainedTask(store.env_id, space, store.action_space, pieces, store.env_kwargs, view)


def _prompted(tasks: list[TrainedTask], kind: Kind | Literal["auto"]) -> list[TrainedTask]:
    """The tasks with prompts of a kind; an instruction that is said there is left out of what is seen."""
    said = [instruction_of(task.id, task.observation_space, task.view) for task in tasks]
    if kind == "auto":
        kind = "text" if len(tasks) > 1 or any(said) else "none"
    found = []
    for task, name, path in zip(tasks, names_of([task.id for task in tasks]), said, strict=True):
        if kind != "text":
            found.append(replace(task, prompt=Prompt(kind)))
        elif path is None:
            found.append(replace(task, prompt=Prompt("text", text=name)))
        else:
            found.append(replace(task, prompt=Prompt("text", instruction=path), view=without(task.view, path)))
    return found


def _sized(
    task: TrainedTask, config: GatoConfig, text: TextTokenizer | None, episodes: list[Episode], room: int | None
) -> TrainedTask:
    """The task with the length of its prompts: for instructions longer than any here there is room, if not given."""
    prompt = task.prompt
    if prompt.kind == "none":
        return task
    if prompt.kind == "demo":
        return replace(task, prompt=demonstration(task.tokenizer(config, text).tokens_per_step, config.context))
    assert text is not None
    if prompt.instruction is None:
        room = len(text.encode(prompt.text))
    elif room is None:
        said = {words for episode in episodes for words in episode.observations[prompt.instruction]}
        longest = max((len(text.encode(words)) for words in said), default=0)
        room = max(task.text_pieces, longest + longest // 2)
    return replace(task, prompt=replace(prompt, tokens=room))


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
