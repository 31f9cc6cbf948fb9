"""Training data: the tokenized episodes of all stores below some folders."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

from gato_agent.checkpoints.trained_task import TEXT_PIECES, TrainedTask
from gato_agent.dataset.task_tokens import TOKEN_FORMAT, TokenizedTask
from gato_agent.dataset.texts import longest_texts, texts_of, user_text_model, viewed_texts
from gato_agent.dataset.token_file import Data
from gato_agent.dataset.unread_episodes import UnreadEpisodes
from gato_agent.envs.errors import UsageError
from gato_agent.envs.io.strict_json import parse
from gato_agent.envs.suggested_commands import suggest
from gato_agent.envs.tasks.task import Task, find, view_of
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.episode_store import EpisodeStore, open_stores
from gato_agent.rollouts.storage.filter import training_indices
from gato_agent.tokens.prompt import Kind, Prompt, demonstration, instruction_of, names_of, without
from gato_agent.tokens.text_tokenizer import TextTokenizer

SHARED = {"observation_space": "observation space", "action_space": "action space", "env_kwargs": "--env-kwargs"}


def load_data(
    folders: Path | Sequence[Path], config: GatoConfig, text_pieces: int | None, text_model: Path | None = None,
    text: TextTokenizer | None = None, holdout: float = 0.0, prompt: Kind | Literal["auto"] = "none",
    file: Path | None = None,
) -> Data:  # fmt: skip
    """Read and tokenize the episodes below some folders, without those that a `keep.json` excludes.

    Args:
        folders: outputs of `gato-agent collect --out`; episodes of one id are merged.
        config: of the model to be trained.
        text_pieces: tokens of an observed text; None for the catalogue's number, or more if texts are longer.
        text_model: SentencePiece model file; by default one is trained on the texts in the episodes.
        text: tokenizer of the model to be fine-tuned, instead of either.
        holdout: share of each task's episodes, the last ones of each folder, for validation.
        prompt: kind of prompt; auto: text for several tasks or for instructions, else none.
        file: token file of `Data.mapped`; if it holds the same data it is mapped and no episode is read.

    Raises:
        UsageError: no episodes; a space, text model or prompt that does not fit the model; or a task with different
            spaces in two folders.
        GatoError: an episode is damaged or cannot be tokenized.
    """
    stores = _by_task([folders] if isinstance(folders, Path) else folders)
    tasks = _prompted([_trained(same[0], text_pieces, config.values_per_token > 1) for same in stores.values()], prompt)
    text = text or user_text_model(text_model, config)
    source_digest = _source_digest(stores, tasks, config, text_pieces, text, holdout)
    if file and (cached := Data.load(file, source_digest, config)):
        return cached
    if text is None:
        texts = [string for task, same in zip(tasks, stores.values(), strict=True) for string in texts_of(task, same)]
        text = TextTokenizer.train(texts, config.text) if texts else None
    pieces = text.encode if text else None
    tokenized, held_out = [], []
    for number, same in enumerate(stores.values()):
        parts = [[(store, i) for i in training_indices(store)] for store in same]
        if not any(parts):
            raise UsageError(_no_episodes(same))
        ends = [len(many) - int(holdout * len(many)) for many in parts]
        learned = UnreadEpisodes([each for many, end in zip(parts, ends, strict=True) for each in many[:end]])
        last = UnreadEpisodes([each for many, end in zip(parts, ends, strict=True) for each in many[end:]])
        longest = longest_texts(tasks[number], text, chain(learned, last)) if text_pieces is None else {}
        tasks[number] = _with_room(tasks[number], longest) if text_pieces is None else tasks[number]
        tasks[number] = task = _sized(tasks[number], config, text, longest, text_pieces)
        common = task.id, task.tokenizer(config, text)
        tokenized.append(TokenizedTask.of(*common, learned, task.prompt, pieces))
        if last:
            held_out.append(TokenizedTask.of(*common, last, task.prompt, pieces))
    return Data({task.id: task for task in tasks}, tokenized, text, held_out, source_digest)


def _no_episodes(stores: Sequence[EpisodeStore]) -> str:
    """Message for a task whose folders hold no episodes, such as after a collection in which all seeds failed."""
    name, folders = stores[0].env_id, ", ".join(str(store.folder) for store in stores)
    return (
        f"{name}: no episodes to train on in {folders}: collect some with `{suggest('collect', env=name)}`, or delete "
        "the folder to train on the other tasks"
    )


def _source_digest(
    stores: Mapping[str, Sequence[EpisodeStore]], tasks: Sequence[TrainedTask], config: GatoConfig,
    text_pieces: int | None, text: TextTokenizer | None, holdout: float,
) -> str:  # fmt: skip
    """Digest of everything that determines the tokens: files by size and time, settings, and TOKEN_FORMAT."""
    files = [stated for same in stores.values() for store in same for stated in _stated(store.folder)]
    pieces = hashlib.sha256(text.model if text else b"").hexdigest()
    layout = config.action_decoder, config.past_actions
    shape = config.values_per_token, *layout, config.grid_rows, config.text, config.context
    source = [files, [task.to_json() for task in tasks], shape, text_pieces, pieces, TOKEN_FORMAT, holdout]
    return hashlib.sha256(json.dumps(source).encode()).hexdigest()


def _stated(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Path, size in bytes and modification time of each file; one that a collector replaces meanwhile is left out."""
    for path in sorted(folder.iterdir()):
        with suppress(FileNotFoundError):
            if not path.name.startswith("."):
                yield str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns


def _by_task(folders: Sequence[Path]) -> dict[str, list[EpisodeStore]]:
    """Stores by task id; raises UsageError for stores of one id with different spaces or arguments."""
    stores: dict[str, list[EpisodeStore]] = {}
    by_folder = {
        store.folder.resolve(): store for folder in folders for store in open_stores(folder)
    }  # each store once
    for store in sorted(by_folder.values(), key=lambda store: store.env_id):
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
    """Task of a store, with the catalogue's view of observations if it has one."""
    known = find(store.env_id) or Task(store.env_id, "")
    pieces = text_pieces or known.text_pieces or TEXT_PIECES
    space = store.observation_space
    view = view_of(store.env_id, space, grouped)
    return TrainedTask(store.env_id, space, store.action_space, pieces, store.env_kwargs, view)


def _prompted(tasks: list[TrainedTask], kind: Kind | Literal["auto"]) -> list[TrainedTask]:
    """Tasks with prompts of a kind; an instruction in the prompt is removed from the observation."""
    instructions = [instruction_of(task.id, task.observation_space, task.view) for task in tasks]
    if kind == "auto":
        kind = "text" if len(tasks) > 1 or any(instructions) else "none"
    prompted = []
    for task, name, path in zip(tasks, names_of([task.id for task in tasks]), instructions, strict=True):
        if kind != "text":
            prompted.append(replace(task, prompt=Prompt(kind)))
        elif path is None:
            prompted.append(replace(task, prompt=Prompt("text", text=name)))
        else:
            prompted.append(replace(task, prompt=Prompt("text", instruction=path), view=without(task.view, path)))
    return prompted


def _sized(
    task: TrainedTask, config: GatoConfig, text: TextTokenizer | None, longest: Mapping[str, int], room: int | None
) -> TrainedTask:
    """Task with the length of its prompt in tokens: `room`, or by default 1.5 times the longest instruction."""
    prompt = task.prompt
    if prompt.kind == "none":
        return task
    if prompt.kind == "demo" and config.action_decoder:
        raise UsageError(
            "--prompt demo shows actions, which no model with an action decoder reads: try text, or "
            "--model.action-decoder False"
        )
    if prompt.kind == "demo":
        return replace(task, prompt=demonstration(task.tokenizer(config, text).layout.length, config.context))
    assert text is not None
    if prompt.instruction is None:
        room = len(text.encode(prompt.text))
    elif room is None:
        pieces = longest[prompt.instruction]
        room = max(task.text_pieces, pieces + pieces // 2)
    return replace(task, prompt=replace(prompt, tokens=room))


def _with_room(task: TrainedTask, longest: Mapping[str, int]) -> TrainedTask:
    """Task whose texts have at least the tokens of the longest observed; a larger number is 1.5 times that."""
    pieces = max((longest[path] for path in viewed_texts(task)), default=0)
    return task if pieces <= task.text_pieces else replace(task, text_pieces=pieces + pieces // 2)


def mixture(text: str, tasks: list[str]) -> list[float]:
    """Weights of tasks from `--mixture`; a family's weight applies to each of its tasks without one of its own.

    Raises:
        UsageError: not a JSON object of positive numbers by task or family.
    """
    families = {name: known_task.suite for name in tasks if (known_task := find(name))}
    try:
        weights = parse(text)
        known = {*tasks, *families.values()}
        wrong = [name for name, weight in weights.items() if name not in known or not 0 < float(weight) < math.inf]
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"--mixture {text!r:.80} has no number for each name: write --mixture CartPole-v1=2"
        ) from error
    if wrong:
        raise UsageError(
            f"--mixture: {', '.join(wrong)} must be tasks of the data ({', '.join(tasks)}) or their families, with a "
            "weight > 0"
        )
    return [float(weights.get(name, weights.get(families.get(name, ""), 1.0))) for name in tasks]
