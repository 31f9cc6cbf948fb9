"""Prompts of an agent's environments: one for all of them, or the instruction of each episode."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.envs.errors import SpaceError, UsageError
from gato_agent.envs.spaces.flatten import Columns, space_error
from gato_agent.inference.decoders.decoder import Prefill
from gato_agent.inference.step_inputs import ALL, Envs
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import NO_PROMPT, Kind, Prompt
from gato_agent.tokens.space_tokenizer import SpaceTokenizer


class Prompter:
    """Prompts of the environments of one task.

    Args:
        task: of the checkpoint.
        tokenizer: of the task.
        pieces: text -> ids; None without a text tokenizer.
        kind: `none`, or by default the kind that the task was trained with.
        demonstration: an episode of the task, whose last timesteps are the prompt of kind `demo`.

    Attributes:
        tokens: of the prompt of each environment, pads included.
        instruction: path of the leaf of the observation that is the prompt; None if all episodes have the same.

    Raises:
        UsageError: a kind that the task was not trained with, or a demonstration missing or without use.
    """

    def __init__(
        self, task: TrainedTask, tokenizer: SpaceTokenizer,
        pieces: Callable[[str], Sequence[int]] | None, kind: Kind | None = None, demonstration: Episode | None = None,
    ) -> None:  # fmt: skip
        self._task, self._pieces, self._prompt = task, pieces, select_prompt(task, kind, demonstration)
        self.tokens, self.instruction = self._prompt.tokens, self._prompt.instruction
        self._demonstration: TokenizedTask | None = None
        if demonstration is not None:
            self._demonstration = TokenizedTask.of(task.id, tokenizer, [demonstration], self._prompt)
        self._instructions = np.zeros(0, dtype=object)

    def reset(self, num_envs: int) -> Prefill | None:
        """Prepare for episodes; returns the prompt of all environments, or None if each episode has its own."""
        self._instructions = np.full(num_envs, "", dtype=object)
        if not self.tokens or self._prompt.instruction is not None:
            return None
        if self._demonstration is None:
            return self._text([self._prompt.text] * num_envs)
        prefix, patches, intervals = self._demonstration.last(self.tokens), None, None
        tokens, local = (torch.from_numpy(part).long().repeat(num_envs, 1) for part in (prefix.tokens, prefix.local))
        if len(prefix.patches):
            count = len(prefix.patches) // len(self._demonstration.tokenizer.patch_intervals)
            patches = torch.from_numpy(prefix.patches).repeat(num_envs, 1, 1, 1)
            intervals = torch.from_numpy(self._demonstration.tokenizer.patch_intervals).repeat(num_envs * count, 1, 1)
        value_groups = torch.from_numpy(prefix.value_groups).repeat(num_envs, 1) if len(prefix.value_groups) else None
        return Prefill(tokens, local, patches, intervals, value_groups)

    def begin(self, observation: Columns, start: NDArray[np.bool_], envs: Envs = ALL) -> Prefill | None:
        """Prompts of the episodes that begin with this observation, if each episode has its own.

        Args:
            observation: of the environments.
            start: bool [env], True where an episode begins.
            envs: environments of the observation.

        Raises:
            SpaceError: an instruction that changes within an episode, or has more tokens than the prompt.
        """
        path = self._prompt.instruction
        if path is None:
            return None
        instructions = observation[path]
        before = self._instructions[envs]
        for row in np.flatnonzero((instructions != before) & ~start).tolist():
            raise space_error("", self._prompt.changed(before[row], instructions[row]), row)
        self._instructions[envs] = instructions
        if not start.any():
            return None
        try:
            return self._text(instructions[start].tolist())
        except SpaceError as error:
            raise space_error("", str(error), int(np.flatnonzero(start)[error.row or 0])) from error

    def _text(self, texts: Sequence[str]) -> Prefill:
        assert self._pieces is not None
        tokens = torch.from_numpy(self._prompt.encode(texts, self._pieces)).long()
        return Prefill(tokens, torch.full_like(tokens, -1), None, None)


def select_prompt(task: TrainedTask, kind: Kind | None, demonstration: Episode | None) -> Prompt:
    """The task's prompt, or none; raises UsageError for another kind, or a demonstration missing or unused."""
    trained = task.prompt
    if kind not in (None, "none", trained.kind):
        raise UsageError(f"{task.id} was trained with --prompt {trained.kind}, not {kind}: play it with that, or none")
    if kind == "none" or trained.kind == "none":
        trained = NO_PROMPT
    if trained.kind == "demo" and demonstration is None:
        raise UsageError(f"{task.id} needs a demonstration: give --demo and a folder of collected episodes, "
                         "or --prompt none")  # fmt: skip
    if trained.kind != "demo" and demonstration is not None:
        raise UsageError(f"{task.id} is played with --prompt {trained.kind}, so leave --demo out")
    return trained
