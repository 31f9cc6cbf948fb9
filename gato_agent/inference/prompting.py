"""Prompts of an agent's environments: as in training, the same for all or an instruction an episode."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.envs.errors import SpaceError, UsageError
from gato_agent.envs.spaces.flatten import Columns, space_error
from gato_agent.inference.decoder import Prefill
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import NO_PROMPT, Kind, Prompt
from gato_agent.tokens.space_tokenizer import SpaceTokenizer


class Prompter:
    """Prompts for one task.

    Args:
        task: as the model was trained on it.
        tokenizer: the task's.
        pieces: text -> ids, where there is a text tokenizer.
        kind: none, or what the task was trained with, which is the default.
        demonstration: an episode of the task, whose last timesteps are shown where demonstrations are.

    Attributes:
        tokens: how many are kept as prefix in each environment.

    Raises:
        UsageError: another kind than that of training, or a demonstration too few or too many.
    """

    def __init__(
        self, task: TrainedTask, tokenizer: SpaceTokenizer,
        pieces: Callable[[str], Sequence[int]] | None, kind: Kind | None = None, demonstration: Episode | None = None,
    ) -> None:  # fmt: skip
        self._task, self._pieces, self._prompt = task, pieces, chosen(task, kind, demonstration)
        self.tokens = self._prompt.tokens
        self._shown: TokenizedTask | None = None
        if demonstration is not None:
            self._shown = TokenizedTask.of(task.id, tokenizer, [demonstration], self._prompt)
        self._said = np.zeros(0, dtype=object)

    def reset(self, num_envs: int) -> Prefill | None:
        """Prepare for episodes; returns the prompt of all environments, or None if each episode has its own."""
        self._said = np.full(num_envs, "", dtype=object)
        if not self.tokens or self._prompt.instruction is not None:
            return None
        if self._shown is None:
            return self._text([self._prompt.text] * num_envs)
        prefix, patches, places = self._shown.last(self.tokens), None, None
        tokens, local = (torch.from_numpy(part).long().repeat(num_envs, 1) for part in (prefix.tokens, prefix.local))
        if len(prefix.patches):
            count = len(prefix.patches) // len(self._shown.tokenizer.patch_intervals)
            patches = torch.from_numpy(prefix.patches).repeat(num_envs, 1, 1, 1)
            places = torch.from_numpy(self._shown.tokenizer.patch_intervals).repeat(num_envs * count, 1, 1)
        value_groups = torch.from_numpy(prefix.value_groups).repeat(num_envs, 1) if len(prefix.value_groups) else None
        return Prefill(tokens, local, patches, places, value_groups)

    def begin(self, observation: Columns, start: NDArray[np.bool_]) -> Prefill | None:
        """Prompts of the environments whose episodes begin with this observation, bool [num_envs], if each has its own.

        Raises:
            SpaceError: an episode says something else than at its beginning, or more than there is room for.
        """
        path = self._prompt.instruction
        if path is None:
            return None
        said = observation[path]
        for env_index in np.flatnonzero((said != self._said) & ~start).tolist():
            raise space_error("", self._prompt.changed(self._said[env_index], said[env_index]), env_index)
        self._said = said.copy()
        if not start.any():
            return None
        try:
            return self._text(said[start].tolist())
        except SpaceError as error:
            raise space_error("", str(error), int(np.flatnonzero(start)[error.row or 0])) from error

    def _text(self, texts: Sequence[str]) -> Prefill:
        assert self._pieces is not None
        tokens = torch.from_numpy(self._prompt.encode(texts, self._pieces)).long()
        return Prefill(tokens, torch.full_like(tokens, -1), None, None)


def chosen(task: TrainedTask, kind: Kind | None, demonstration: Episode | None) -> Prompt:
    """The task's prompt, or none; raises UsageError for what it was not trained with or cannot be made."""
    trained = task.prompt
    if kind not in (None, "none", trained.kind):
        raise UsageError(f"{task.id} was trained with --prompt {trained.kind}, not {kind}: play it with that, or none")
    if kind == "none" or trained.kind == "none":
        trained = NO_PROMPT
    if trained.kind == "demo" and demonstration is None:
        raise UsageError(f"{task.id} is to be shown a demonstration: give --demo and a folder of collected episodes, "
                         "or --prompt none")  # fmt: skip
    if trained.kind != "demo" and demonstration is not None:
        raise UsageError(f"{task.id} is played with --prompt {trained.kind}, so leave --demo out")
    return trained
