"""Command line of `train`: its options, and the fields of the model."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from gato_agent.commands.model_fields import ModelFields
from gato_agent.training.config import TrainConfig


@dataclass(frozen=True)
class TrainArguments(TrainConfig):
    """Train an agent on collected episodes by behaviour cloning."""

    model: ModelFields = field(default_factory=ModelFields)

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """Arguments with the options of a config."""
        return cls(**_options(config))

    def config(self) -> TrainConfig:
        """Config with the fields of the model in its shape."""
        return TrainConfig(**_options(self) | {"shape": self.model.over(self.shape)})


def _options(config: TrainConfig) -> dict[str, Any]:
    return {each.name: getattr(config, each.name) for each in dataclasses.fields(TrainConfig)}
