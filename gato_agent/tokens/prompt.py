"""Prompts: prefixes of an episode, to which every later token of it attends.

    text    the instruction of the episode, which observations then leave out; else the name of the task
    demo    whole timesteps of another episode of the same task

All prompts of a task have the same number of tokens: shorter ones are padded, and no token attends to a pad.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from gymnasium.spaces import Space, Text
from numpy.typing import NDArray

from gato_agent.envs.errors import SpaceError, UsageError
from gato_agent.envs.spaces.flatten import leaves, space_error
from gato_agent.envs.spaces.view_transforms import Drop
from gato_agent.envs.spaces.views import View
from gato_agent.envs.tasks.task import find
from gato_agent.tokens.space_tokenizer import PAD

Kind = Literal["none", "text", "demo"]
INSTRUCTION = "instruction"  # key of the text that tells the task, outside of the catalogue
DEMO_SHARE = 0.25  # of segments that begin with a demonstration (Gato paper, section 2.2)


@dataclass(frozen=True)
class Prompt:
    """Prompt of a task's episodes.

    Attributes:
        kind: none, text or demo.
        tokens: length of the prompt, pads included.
        text: of all episodes, if they have no instruction.
        instruction: path of the leaf of the observation that holds it, constant in an episode.
    """

    kind: Kind = "none"
    tokens: int = 0
    text: str = ""
    instruction: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data; inverse of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote; raises ValueError or TypeError for anything else."""
        kinds = {"kind": str, "tokens": int, "text": str, "instruction": str | None}
        wrong = [key for key, value in data.items() if key not in kinds or not isinstance(value, kinds[key])]
        prompt = cls(**data)
        if wrong or prompt.tokens < 0 or prompt.kind not in get_args(Kind):
            raise ValueError(f"a prompt {data!r:.80}")
        return prompt

    def changed(self, before: str, after: str) -> str:
        """Error message for an instruction that changes within an episode."""
        message = f"{self.instruction!a} changed within the episode, from {before!a:.80} to {after!a:.80}"
        return f"{message}: it is not an instruction, train with --prompt none"

    def encode(self, texts: Iterable[str], pieces: Callable[[str], Sequence[int]]) -> NDArray[np.int32]:
        """Tokens [n, tokens] of n texts, padded.

        Raises:
            SpaceError: a text that is longer, or cannot be encoded.
        """
        encoded = [pieces(text) for text in texts]
        tokens = np.full((len(encoded), self.tokens), PAD, dtype=np.int32)
        for row, ids in enumerate(encoded):
            if len(ids) > self.tokens:
                advice = f"train with --text-pieces {len(ids)} or more"
                message = f"a prompt of {len(ids)} text pieces where {self.tokens} have room: {advice}"
                raise space_error(self.instruction or "", message, row)
            tokens[row, : len(ids)] = ids
        return tokens


NO_PROMPT = Prompt()


def instruction_of(env_id: str, observation_space: Space[Any], view: View) -> str | None:
    """Path of the instruction, if this space has that leaf and others beside it; else None.

    It is the catalogue's; of environments outside of it, a text with the key `instruction`.
    """
    task = find(env_id)
    path = INSTRUCTION if task is None else task.instruction
    if path not in [leaf.path for leaf in leaves(observation_space) if isinstance(leaf.space, Text)]:
        return None
    assert path is not None
    try:
        without(view, path).space(observation_space)
    except SpaceError:
        return None
    return path


def without(view: View, path: str) -> View:
    """The view that leaves out one more leaf."""
    return View((*view.steps, Drop(path)))


def names_of(env_ids: Sequence[str]) -> list[str]:
    """Words for each environment: `Meta-World/pick-place-v3` -> `Meta-World pick-place`; whole ids where two agree."""
    names = [re.sub(r"-v\d+$", "", env_id).replace("/", " ") for env_id in env_ids]
    return [env_id if names.count(name) > 1 else name for env_id, name in zip(env_ids, names, strict=True)]


def demonstration(steps: int, context: int) -> Prompt:
    """A prompt of whole timesteps of `steps` tokens that fill up to a quarter of the context, and at least one.

    Raises:
        UsageError: one timestep takes more than half of the context.
    """
    if 2 * steps > context:
        raise UsageError(f"a timestep of {steps} tokens has no place in a context of {context} as a prompt: try text")
    return Prompt("demo", max(1, context // 4 // steps) * steps)
