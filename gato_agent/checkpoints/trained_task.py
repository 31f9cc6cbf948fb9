"""One task of a checkpoint: spaces, view, prompt and environment arguments."""

import math
from dataclasses import dataclass, field
from typing import Any, Self

import gymnasium as gym

from gato_agent.envs.errors import UsageError
from gato_agent.envs.io import plain
from gato_agent.envs.io.strict_json import typed
from gato_agent.envs.spaces.flatten import space_from_json, space_to_json
from gato_agent.envs.spaces.views import EVERYTHING, View
from gato_agent.model.config import GatoConfig
from gato_agent.tokens.prompt import NO_PROMPT, Prompt
from gato_agent.tokens.space_tokenizer import SpaceTokenizer
from gato_agent.tokens.text_tokenizer import TextTokenizer

TEXT_PIECES = 32  # tokens of an observed text


@dataclass(frozen=True)
class TrainedTask:
    """A task that a checkpoint was trained on: its spaces, and all that its tokenizer depends on.

    Attributes:
        id: of the environment.
        observation_space: of the environment, before the view.
        action_space: of the environment.
        text_pieces: tokens of an observed text.
        env_kwargs: arguments of the environment.
        view: parts of the observation that the model reads.
        prompt: tokens that episodes begin with.
        temperature: of the sampling, where `Agent` is given none.
    """

    id: str
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    text_pieces: int = TEXT_PIECES
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    view: View = EVERYTHING
    prompt: Prompt = NO_PROMPT
    temperature: float = 0.0

    def tokenizer(self, config: GatoConfig, text: TextTokenizer | None) -> SpaceTokenizer:
        """The task's tokenizer.

        Raises:
            UsageError: a space has no tokens, or an observation, an action or the prompt has more than the model's
                context or positions can hold.
        """
        tokenizer = SpaceTokenizer(
            self.observation_space,
            self.action_space,
            config.vocabulary,
            text.encode if text else None,
            self.text_pieces,
            self.view,
            config.values_per_token,
            config.action_decoder,
            config.grid_rows,
            config.past_actions,
        )
        if (longest := int(tokenizer.layout.local.max()) + 1) > config.local_positions:
            raise UsageError(
                f"{self.id}: an observation takes {longest} tokens and the model has positions for "
                f"{config.local_positions}; wrap the environment so that it observes less"
            )
        if tokenizer.layout.rewound >= config.context - self.prompt.tokens:
            room = config.context - self.prompt.tokens - 1
            raise UsageError(
                f"{self.id}: an action takes {tokenizer.n_act} tokens, and a context of {config.context} has room for "
                f"{room}: train with a larger one"
            )
        if 2 * self.prompt.tokens > config.context:
            raise UsageError(
                f"{self.id}: a prompt of {self.prompt.tokens} tokens leaves too little of a context of "
                f"{config.context}: train with --prompt none, or with fewer --text-pieces"
            )
        return tokenizer

    def to_json(self) -> dict[str, Any]:
        """Plain data; inverse of `from_json`."""
        return {
            "id": self.id,
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "text_pieces": self.text_pieces,
            "env_kwargs": self.env_kwargs,
            "view": self.view.to_json(),
            "prompt": self.prompt.to_json(),
            "temperature": self.temperature,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_json`. An id is only a name: reading it imports no module.

        `env_kwargs` are unchecked: `make_agent_and_envs` checks them before it makes an environment.

        Raises:
            ValueError, TypeError, LookupError, GatoError: data that `to_json` did not write.
        """
        plain.env_id(data["id"], "a task", "train again")
        temperature = data.get("temperature", 0.0)  # checkpoints of version 0.1 may lack it
        if type(temperature) not in (int, float) or not 0 <= temperature < math.inf:
            raise ValueError(f"{data['id']} at temperature {temperature!r:.80}")
        return cls(
            typed(data["id"], str, "id"),
            space_from_json(data["observation_space"]),
            space_from_json(data["action_space"]),
            typed(data["text_pieces"], int, "text_pieces"),
            typed(data["env_kwargs"], dict[str, Any], "env_kwargs"),
            View.from_json(data.get("view", [])),  # early checkpoints lack view and prompt
            Prompt.from_json(data.get("prompt", {})),
            float(temperature),
        )
