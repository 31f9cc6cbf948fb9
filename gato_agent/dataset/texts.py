"""Texts of a task's episodes: what the text tokenizer learns from, and their lengths in pieces."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from gymnasium.spaces import Dict, Text

from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.dataset.unread_episodes import UnreadEpisodes
from gato_agent.envs.errors import GatoError, SpaceError, UsageError
from gato_agent.envs.spaces.flatten import leaves
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.filter import training_indices
from gato_agent.tokens.text_tokenizer import TextTokenizer


def texts_of(task: TrainedTask, stores: Sequence[EpisodeStore]) -> Iterator[str]:
    """All texts in a task's observations, and its text prompt."""
    if any(isinstance(leaf.space, Text) for leaf in leaves(task.observation_space)):
        for episode in UnreadEpisodes([(store, i) for store in stores for i in training_indices(store)]):
            columns = episode.observations.values()
            yield from (text for column in columns if column.dtype == object for text in column)
    if task.prompt.text:
        yield task.prompt.text


def longest_texts(task: TrainedTask, text: TextTokenizer | None, episodes: Iterable[Episode]) -> dict[str, int]:
    """Pieces of the longest text of the instruction and of each text that the view shows, by path.

    Raises:
        GatoError: a text that cannot be encoded.
    """
    longest = dict.fromkeys([*viewed_texts(task), *([task.prompt.instruction] if task.prompt.instruction else [])], 0)
    if text is None or not longest:
        return longest
    encode = lru_cache(maxsize=4096)(text.encode)
    for episode in episodes:
        for path in longest:
            for words in dict.fromkeys(episode.observations[path]):
                try:
                    longest[path] = max(longest[path], len(encode(words)))
                except SpaceError as error:
                    way_out = "correct the environment's text and collect again"
                    raise GatoError(f"{task.id}: seed {episode.seed}: {path!a}: {error}; {way_out}") from error
    return longest


def viewed_texts(task: TrainedTask) -> list[str]:
    """Paths of the texts that the view shows, as in episodes."""
    seen = task.view.space(task.observation_space)
    columns = seen.spaces.items() if task.view.steps and isinstance(seen, Dict) else leaves(seen)
    return [path for path, space in columns if isinstance(space, Text)]


def user_text_model(model: Path | None, config: GatoConfig) -> TextTokenizer | None:
    """Tokenizer of --text-model, None without one."""
    if model is None:
        return None
    text = TextTokenizer.from_file(model)
    if text.size > config.text:
        raise UsageError(
            f"--text-model {model} has {text.size} pieces and the model has room for {config.text}: "
            "train a smaller one, or choose another --size"
        )
    return text
