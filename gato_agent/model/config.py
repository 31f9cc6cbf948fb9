"""Configurations of the model: published and small sizes. It imports no torch, which keeps `--help` and `info` fast."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gato_agent.envs.errors import UsageError
from gato_agent.envs.io.strict_json import parse
from gato_agent.tokens.space_tokenizer import Vocabulary
from gato_agent.tokens.timestep_layout import ACTION_GROUP, TimestepLayout

RENAMED = {"pack": "values_per_token"}  # fields by their names in version 0.1
LIMITS = {  # far above any model, and low enough that no size overflows
    "layers": 2**12, "heads": 2**12, "width": 2**18, "feed_forward": 2**20, "context": 2**17, "text": 2**20,
    "local_positions": 2**17, "values_per_token": 2**12,
}  # fmt: skip


@dataclass(frozen=True)
class GatoConfig:
    """Shape of a Gato (Reed et al. 2022, table 5; small sizes are this project's own)."""

    layers: int
    heads: int
    width: int
    feed_forward: int
    """Width of both halves of the GEGLU together: the gated product is half as wide."""
    context: int
    """Attention span in tokens: token i attends to the `context` latest tokens, itself included."""
    text: int
    """Number of text pieces, the first ids of the vocabulary."""
    patch_channels: tuple[int, ...]
    """Channels of the patch tower: the stem, a multiple of 32, then one residual unit each, multiples of 64."""
    local_positions: int = 512
    """Longest observation in tokens."""
    values_per_token: int = 1
    """Values of an observation that share one token, side by side and read by one matrix; 1 as in the paper."""
    grid_rows: bool = True
    """True if each row of a grid (a two-dimensional MultiDiscrete) begins its own token where values share tokens: then
    attention can select rows. False in checkpoints without the field."""
    action_decoder: bool = False
    """True if a small autoregressive decoder on the hidden state of a timestep decodes its action; else action tokens
    pass through the transformer, as in the paper."""
    past_actions: bool = False
    """True if action tokens that pass through the transformer stay visible to later timesteps, the paper's literal
    reading; else they are keys within their own timestep only, since an agent that reads its own past actions copies
    them (Wen et al. 2020, Fighting Copycat Agents)."""
    stochastic_depth: float = 0.1

    def __post_init__(self) -> None:
        """Refuse shapes that no model can have."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is bool and type(value) is not bool:
                raise UsageError(f"{field.name} {value!r} must be true or false")
            if field.type is int and (type(value) is not int or value < 1):
                raise UsageError(f"{field.name} {value!r:.80} must be a whole number, at least 1")
            if field.name in LIMITS and value > LIMITS[field.name]:
                raise UsageError(f"{field.name} {value!r:.80} must be at most {LIMITS[field.name]:,}")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UsageError(f"width {self.width} must split into {self.heads} heads of an even size: change either")
        channels = self.patch_channels
        if len(channels) < 2 or any(type(n) is not int or not 1 <= n <= LIMITS["width"] for n in channels):
            raise UsageError(f"patch_channels {channels!r:.80} must be two or more whole numbers: stem and units")
        if channels[0] % 32 or any(n % 64 for n in channels[1:]):
            raise UsageError(f"patch_channels {channels!r:.80} must be a multiple of 32, the stem, and multiples of 64")
        if not 0 <= self.stochastic_depth < 1:
            raise UsageError(f"stochastic_depth {self.stochastic_depth} must be a probability below 1")
        if self.feed_forward % 2:
            raise UsageError(f"feed_forward {self.feed_forward} must be even: it holds the two halves of a GEGLU")

    @property
    def head_size(self) -> int:
        """Width of one head's keys and values."""
        return self.width // self.heads

    def layout(self, n_obs: int, n_act: int, value_groups: int = 0) -> TimestepLayout:
        """Layout of a timestep of `n_obs` observation tokens, the last of them value groups, and `n_act` action tokens.

        With `n_obs` 0 only the places of observation tokens are missing.
        """
        return TimestepLayout(n_obs, n_act, self.action_decoder, self.past_actions, value_groups)

    @property
    def vocabulary(self) -> Vocabulary:
        """Id ranges: text, continuous, discrete, separator."""
        return Vocabulary(self.text)

    @classmethod
    def nano(cls) -> "GatoConfig":
        """About two million parameters: trains in minutes on two cores."""
        return cls.named("nano")

    @classmethod
    def tiny(cls) -> "GatoConfig":
        """About five million parameters: a generalist for a laptop."""
        return cls.named("tiny")

    @classmethod
    def small(cls) -> "GatoConfig":
        """The paper's 79M."""
        return cls.named("small")

    @classmethod
    def baseline(cls) -> "GatoConfig":
        """The paper's 364M."""
        return cls.named("baseline")

    @classmethod
    def large(cls) -> "GatoConfig":
        """The paper's 1.18B."""
        return cls.named("large")

    @staticmethod
    def named(size: str) -> "GatoConfig":
        """Configuration by name; raises UsageError that lists the names."""
        if size not in SIZES:
            raise UsageError(f"no size {size!r}: choose one of {', '.join(SIZES)}")
        return SIZES[size].config

    def reshaped(self, text: str) -> Self:
        """This shape with some fields replaced.

        Args:
            text: JSON object, such as `{"context": 512, "layers": 6}`.

        Raises:
            UsageError: no such fields, or values that no model can have.
        """
        try:
            fields = dict(parse(text))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{text!r:.80} is not a JSON object: write '{{\"context\": 512}}'") from error
        return self.from_json({**self.to_json(), **fields})

    def described(self) -> tuple[str, str]:
        """The nearest named size, and as JSON the fields in which this one differs; inverse of `reshaped`."""

        def other(name: str) -> dict[str, Any]:
            named, own = GatoConfig.named(name).to_json(), self.to_json()
            return {key: value for key, value in own.items() if named[key] != value}

        name = min(SIZES, key=lambda name: len(other(name)))
        return name, json.dumps(other(name))

    def to_json(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`; raises UsageError on unknown or missing fields."""
        data = {"grid_rows": False, **data}  # files without the field have grids without rows
        try:
            return cls(**{**_of_this_version(data), "patch_channels": tuple(data["patch_channels"])})
        except (TypeError, KeyError) as error:
            raise UsageError(f"not a model configuration of this version: {error}") from error


def _of_this_version(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a file of version 0.1 under their names of this version."""
    fields = {RENAMED.get(name, name): value for name, value in data.items()}
    # The first files have neither field: each action token was visible to all later ones.
    former = fields.pop("parallel_actions", None if "past_actions" in fields else 0)
    if former is None:
        return fields
    if former is True or former not in (0, ACTION_GROUP):
        raise UsageError(
            f"parallel_actions {former} of version 0.1 cannot be converted, because each action token had a separator "
            "of its own: train again on the same data, or play it with the gato-agent that wrote it"
        )
    return {**fields, "action_decoder": bool(former), "past_actions": not former}


@dataclass(frozen=True)
class ModelSize:
    """A named size: a row of SIZES.

    Attributes:
        config: shape of the model.
        learning_rate: peak learning rate of training from scratch.
        fine_tuning: training options with other defaults when an initial checkpoint is given.
        published: number of parameters in the Gato paper, table 5; None for sizes of this project.
    """

    config: GatoConfig
    learning_rate: float
    fine_tuning: Mapping[str, Any]
    published: float | None = None


# Fields in which the small sizes differ from the paper, and fine-tuning options. For small sizes the learning rate of
# fine-tuning is that of training from scratch: smaller ones learn more slowly (docs/your-own-environment.md).
SMALL_OVERRIDES: dict[str, Any] = {"stochastic_depth": 0.0, "values_per_token": 64, "action_decoder": True}
SMALL_FINETUNE = {"batch_size": 4, "steps": 200}
PAPER_FINETUNE = {"learning_rate": 1e-5, "batch_size": 64, "steps": 10_000, "dropout": 0.1}
NANO = GatoConfig(4, 4, 128, 512, 512, 512, (32, 64, 64, 128), **SMALL_OVERRIDES)
TINY = GatoConfig(4, 8, 256, 1024, 1024, 512, (32, 64, 128, 256), **SMALL_OVERRIDES)
PAPER_PATCHES = (96, 192, 384, 768)
SIZES = {
    "nano": ModelSize(NANO, 1e-3, SMALL_FINETUNE),
    "tiny": ModelSize(TINY, 6e-4, SMALL_FINETUNE),
    "small": ModelSize(GatoConfig(8, 24, 768, 3072, 1024, 32_000, PAPER_PATCHES), 1e-4, PAPER_FINETUNE, 79e6),
    "baseline": ModelSize(GatoConfig(12, 12, 1536, 6144, 1024, 32_000, PAPER_PATCHES), 2e-4, PAPER_FINETUNE, 364e6),
    "large": ModelSize(GatoConfig(24, 16, 2048, 8192, 1024, 32_000, PAPER_PATCHES), 1e-4, PAPER_FINETUNE, 1.18e9),
}
