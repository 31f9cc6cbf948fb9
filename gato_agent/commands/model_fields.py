"""Options `--model.FIELD` for the fields of the model, and their former spelling."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from gato_agent.envs.errors import UsageError
from gato_agent.envs.io.strict_json import parse
from gato_agent.model.config import RENAMED

FORMER = ("--shape=", "--mixture=")


@dataclass(frozen=True)
class ModelFields:
    """Fields of the model in place of those of --size; with an initial checkpoint only the context may differ."""

    context: int | None = None
    """Attention span in tokens."""
    layers: int | None = None
    """Transformer blocks."""
    heads: int | None = None
    """Attention heads of a block."""
    width: int | None = None
    """Width of the hidden states."""
    feed_forward: int | None = None
    """Width of both halves of the GEGLU together."""
    values_per_token: int | None = None
    """Values of an observation that share a token; 1 as in the paper."""
    action_decoder: bool | None = None
    """Small autoregressive decoder of actions; False: action tokens pass through the transformer, as in the paper."""
    past_actions: bool | None = None
    """Visibility of past actions to later timesteps, without an action decoder."""
    grid_rows: bool | None = None
    """A token for each row of a grid."""
    stochastic_depth: float | None = None
    """Rate of skipped layers in training, in [0, 1)."""
    text: int | None = None
    """Text pieces in the vocabulary."""
    local_positions: int | None = None
    """Longest observation in tokens."""
    patch_channels: tuple[int, ...] | None = None
    """Channels of the patch tower: stem and residual units."""

    def over(self, shape: str) -> str:
        """JSON of a shape with the fields that are set in place of its own."""
        own = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return json.dumps({**parse(shape), **own}) if own else shape


def expand_json(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command line with former JSON values in their present spelling, and a hint for each.

    `--shape JSON` becomes `--model.FIELD VALUE`; `--mixture JSON` becomes `NAME=WEIGHT`.

    Raises:
        UsageError: `--shape` without a JSON object.
    """
    words, hints = [], []
    rest = [part for word in arguments for part in (word.split("=", 1) if word.startswith(FORMER) else [word])]
    while rest:
        word, value = rest.pop(0), rest[0].lstrip() if rest else ""
        if word == "--shape":
            words += _model_options(rest.pop(0) if rest else "")
            hints.append("--shape is written --model.FIELD VALUE; JSON is removed in the next release")
            continue
        if word == "--mixture" and value.startswith("{"):
            hints.append("--mixture is written NAME=WEIGHT; JSON is removed in the next release")
        words.append(word)
    return words, hints


def _model_options(text: str) -> list[str]:
    try:
        fields = dict(parse(text))
    except (ValueError, TypeError) as error:
        raise UsageError(f"--shape {text!r:.80} is not a JSON object: write --model.context 512") from error
    words: list[str] = []
    for former, value in fields.items():
        name = RENAMED.get(str(former), str(former))
        values = value if isinstance(value, list) else [value]
        words += [f"--model.{name.replace('_', '-')}", *map(str, values)]
    return words
