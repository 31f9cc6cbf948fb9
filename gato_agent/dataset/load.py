"""All episodes below some folders, as the tokens that a model learns from."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from gymnasium.spaces import Dict, Text

from gato_agent.checkpoints.checkpoint import TEXT_PIECES, TrainedTask
from gato_agent.dataset.task_tokens import TOKEN_FORMAT, TokenizedTask
from gato_agent.dataset.token_file import Data
from gato_agent.envs.errors import UsageError
from gato_agent.envs.io.strict_json import parse
from gato_agent.envs.spaces.flatten import leaves
from gato_agent.envs.tasks.task import Task, find, view_of
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.filter import training_indices
from gato_agent.tokens.prompt import Kind, Prompt, demonstration, instruction_of, names_of, without
from gato_agent.tokens.text_tokenizer import TextTokenizer

SHARED = {"observation_space": "observation space", "action_space": "action space", "env_kwargs": "--env-kwargs"}


def load_data(
    folders: Path | Sequence[Path],
    config: GatoConfig,
    text_pieces: int | None,
    text_model: Path | None = None,
    text: TextTokenizer | None = None,
    holdout: float = 0.0,
    prompt: Kind | Literal["auto"] = "none",
    file: Path | None = None,
) -> Data:
    """Read the episodes below some folders, but for those that a `keep.json` leaves out, and tokenize them.

    Args:
        folders: what `gato-agent collect --out` wrote, one or several; a task has the episodes of all of them.
        config: of the model that is to learn.
        text_pieces: tokens of an observed text; None for what the catalogue says, or more if texts need it.
        text_model: a user's SentencePiece model; by default one is trained on the texts that there are.
        text: a tokenizer that the model knows already, which goes before either.
        holdout: share of each task's episodes, the last ones of each folder, that is not learned from.
        prompt: what episodes begin with; auto is text where there are several tasks or instructions, else none.
        file: where `Data.mapped` may have written the same tokens, which are then mapped, and no episode is read.

    Raises:
        UsageError: there is nothing, a space, text model or prompt that does not fit the model, or a task with other
            spaces in another folder.
        GatoError: an episode is damaged, or holds what cannot be tokenized.
    """
    stores = _by_task([folders] if isinstance(folders, Path) else folders)
    tasks = _prompted([_trained(same[0], text_pieces, config.values_per_token > 1) for same in stores.values()], prompt)
    text = text or _given(text_model, config)
    mark = _mark(stores, tasks, config, text_pieces, text, holdout)
    if file and (kept := Data.load(file, mark, config)):
        return kept
    if text is None:
        texts = [said for task, same in zip(tasks, stores.values(), strict=True) for said in _said(task, same)]
        text = TextTokenizer.train(texts, config.text) if texts else None
    pieces = text.encode if text else None
    tokenized, held_out = [], []
    for number, same in enumerate(stores.values()):  # one task's episodes at a time are in memory
        parts = [[store.fitting(i) for i in training_indices(store)] for store in same]
        ends = [len(many) - int(holdout * len(many)) for many in parts]
        learned = [episode for many, end in zip(parts, ends, strict=True) for episode in many[:end]]
        last = [episode for many, end in zip(parts, ends, strict=True) for episode in many[end:]]
        both = [*learned, *last]
        tasks[number] = _with_room(tasks[number], text, both) if text_pieces is None else tasks[number]
        tasks[number] = task = _sized(tasks[number], config, text, both, text_pieces)
        common = task.id, task.tokenizer(config, text)
        tokenized.append(TokenizedTask.of(*common, learned, task.prompt, pieces))
        if last:
            held_out.append(TokenizedTask.of(*common, last, task.prompt, pieces))
    return Data({task.id: task for task in tasks}, tokenized, text, held_out, mark)


def _mark(
    stores: Mapping[str, Sequence[EpisodeStore]], tasks: Sequence[TrainedTask], config: GatoConfig,
    text_pieces: int | None, text: TextTokenizer | None, holdout: float,
) -> str:  # fmt: skip
    """Digest of all that tokens are made of; changed files are told by their size and time, code by TOKEN_FORMAT."""
    files = [stated for same in stores.values() for store in same for stated in _stated(store.folder)]
    pieces = hashlib.sha256(text.model if text else b"").hexdigest()
    layout = config.action_decoder, config.past_actions
    shape = config.values_per_token, *layout, config.grid_rows, config.text, config.context
    about = [files, [task.to_json() for task in tasks], shape, text_pieces, pieces, TOKEN_FORMAT, holdout]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _stated(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of each file; what a collector replaces meanwhile is gone, and told by that."""
    for path in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):
            if not path.name.startswith("."):
                yield str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns


def _by_task(folders: Sequence[Path]) -> dict[str, list[EpisodeStore]]:
    """The stores of each task, by its id; raises UsageError where two cannot be learned from as one task."""
    stores: dict[str, list[EpisodeStore]] = {}
    found = {store.folder.resolve(): store for folder in folders for store in open_stores(folder)}  # each one once
    for store in sorted(found.values(), key=lambda store: store.env_id):
        same = stores.setdefault(store.env_id, [])
        same.append(store)
        for key, name in SHARED.items():
            if store.header[key] != same[0].header[key]:
                raise UsageError(
                    f"{store.env_id} has another {name} in {store.folder} than in {same[0].folder}: train on one of "
                    "them, or collect again"
                )
    return stores


def _trained(store: EpisodeStore, text_pieces: int | None, grouped: bool) -> TrainedTask:
    """A store's task, seen as the catalogue says if it is known there."""
    known = find(store.env_id) or Task(store.env_id, "")
    pieces = text_pieces or known.text_pieces or TEXT_PIECES
    space = store.observation_space
    view = view_of(store.env_id, space, grouped)
    return TrainedTask(store.env_id, space, store.action_space, pieces, store.env_kwargs, view)


def _said(task: TrainedTask, stores: Sequence[EpisodeStore]) -> Iterator[str]:
    """All texts that the task's episodes hold, and what they are prompted with."""
    if any(isinstance(leaf.space, Text) for leaf in leaves(task.observation_space)):
        for store in stores:
            for i in training_indices(store):
                columns = store.fitting(i).observations.values()
                yield from (text for column in columns if column.dtype == object for text in column)
    if task.prompt.text:
        yield task.prompt.text


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
    if prompt.kind == "demo" and config.action_decoder:
        raise UsageError("--prompt demo shows actions, which no model with an action decoder reads: try text")
    if prompt.kind == "demo":
        return replace(task, prompt=demonstration(task.tokenizer(config, text).layout.length, config.context))
    assert text is not None
    if prompt.instruction is None:
        room = len(text.encode(prompt.text))
    elif room is None:
        said = {words for episode in episodes for words in episode.observations[prompt.instruction]}
        longest = max((len(text.encode(words)) for words in said), default=0)
        room = max(task.text_pieces, longest + longest // 2)
    return replace(task, prompt=replace(prompt, tokens=room))


def _with_room(task: TrainedTask, text: TextTokenizer | None, episodes: list[Episode]) -> TrainedTask:
    """The task with room for texts half as long again as the longest that it sees here, where it has too little."""
    seen = task.view.space(task.observation_space)
    found = seen.spaces.items() if task.view.steps and isinstance(seen, Dict) else leaves(seen)  # paths as in episodes
    paths = [path for path, space in found if isinstance(space, Text)]
    said = {words for episode in episodes for path in paths for words in episode.observations[path]}
    longest = max((len(text.encode(words)) for words in said), default=0) if text else 0
    return task if longest <= task.text_pieces else replace(task, text_pieces=longest + longest // 2)


def _given(model: Path | None, config: GatoConfig) -> TextTokenizer | None:
    """The user's text model, if there is one."""
    if model is None:
        return None
    text = TextTokenizer.from_file(model)
    if text.size > config.text:
        raise UsageError(
            f"--text-model {model} has {text.size} pieces and the model has room for {config.text}: "
            "train a smaller one, or choose another --size"
        )
    return text


def mixture(text: str, tasks: list[str]) -> list[float]:
    """Weights of tasks from `--mixture`, where a family stands for each of its tasks that is not named itself.

    Raises:
        UsageError: anything but positive numbers of tasks of the data or their families.
    """
    families = {name: found.suite for name in tasks if (found := find(name))}
    try:
        given = parse(text)
        known = {*tasks, *families.values()}
        wrong = [name for name, weight in given.items() if name not in known or not 0 < float(weight) < math.inf]
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"--mixture {text!r} is no JSON object of numbers: write '{{\"CartPole-v1\": 2}}'") from error
    if wrong:
        raise UsageError(
            f"--mixture: {', '.join(wrong)} must be tasks of the data ({', '.join(tasks)}) or their families, with a "
            "weight > 0"
        )
    return [float(given.get(name, given.get(families.get(name, ""), 1.0))) for name in tasks]
