"""Command line of `train`: its options in groups."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import tyro

from gato_agent.commands.model_fields import ModelFields
from gato_agent.training.config import TrainConfig
from gato_agent.training.option_groups import (
    DataOptions,
    EvaluationOptions,
    NetworkOptions,
    OptimizationOptions,
    RunOptions,
)


@dataclass(frozen=True)
class TrainArguments:
    """Train an agent on collected episodes by behaviour cloning."""

    data: Annotated[tyro.conf.OmitArgPrefixes[DataOptions], tyro.conf.arg(name="data")]
    network: Annotated[tyro.conf.OmitArgPrefixes[NetworkOptions], tyro.conf.arg(name="network")]
    optimization: Annotated[tyro.conf.OmitArgPrefixes[OptimizationOptions], tyro.conf.arg(name="optimization")]
    evaluation: Annotated[tyro.conf.OmitArgPrefixes[EvaluationOptions], tyro.conf.arg(name="evaluation and logging")]
    run: Annotated[tyro.conf.OmitArgPrefixes[RunOptions], tyro.conf.arg(name="run")]
    model: ModelFields = field(default_factory=ModelFields)

    @classmethod
    def of(cls, config: TrainConfig) -> Self:
        """Groups with the values of a flat config."""

        def group(options: type[Any]) -> Any:
            return options(**{each.name: getattr(config, each.name) for each in dataclasses.fields(options)})

        groups = (DataOptions, NetworkOptions, OptimizationOptions, EvaluationOptions, RunOptions)
        return cls(*map(group, groups))

    def config(self) -> TrainConfig:
        """Flat config with the values of the groups."""
        groups = (self.data, self.network, self.optimization, self.evaluation, self.run)
        values = {each.name: getattr(group, each.name) for group in groups for each in dataclasses.fields(group)}
        return TrainConfig(**{**values, "shape": self.model.over(self.network.shape)})
