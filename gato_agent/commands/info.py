"""The verb `info`: parameters of a model, tasks of a checkpoint, tokens of an environment."""

import re
import string
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from gymnasium import Space
from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.errors import SpaceError, UsageError
from gato_agent.envs.io.console import fitted, plain_console, plural
from gato_agent.model.config import SIZES, GatoConfig

HEADINGS = ("task", "observations", "actions", "tokens per timestep", "context in steps", "temperature")
USUAL = f", charset={string.digits}{string.ascii_uppercase}{string.ascii_lowercase}"  # of Gymnasium's Text


@dataclass(frozen=True)
class SizeInfo:
    """Show the shape and parameters of a model size."""

    size: Annotated[str, tyro.conf.Positional]
    """Model size: nano, tiny, small, baseline or large."""


@dataclass(frozen=True)
class CheckpointInfo:
    """Show the tasks of a checkpoint."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "shipped"
    """Checkpoint: run folder or .safetensors file; `shipped` for the weights in the package."""


@dataclass(frozen=True)
class EnvInfo:
    """Show the spaces of an environment and their tokens in each model size."""

    env: Annotated[str, tyro.conf.Positional]
    """Environment id."""
    env_kwargs: str = "{}"
    """Environment arguments, as a JSON object."""


def info_size(config: SizeInfo) -> None:
    """Print the table of a size; raises UsageError for an unknown one."""
    plain_console().print(size_table(config.size))


def info_checkpoint(config: CheckpointInfo) -> None:
    """Print the table of a checkpoint; raises as `Checkpoint.load` does."""
    _checkpoint(plain_console(), config.checkpoint)


def info_env(config: EnvInfo) -> None:
    """Print the table of an environment.

    Raises:
        UsageError: an unknown environment, or one whose spaces have no tokens.
    """
    try:
        plain_console().print(env_table(config.env, config.env_kwargs))
    except SpaceError as error:
        raise UsageError(f"{config.env}: {error}") from error


def size_table(size: str) -> Table:
    """Table of a model size: shape, parameters by module, and the published number of parameters."""
    from gato_agent.model.gato import Gato

    config = GatoConfig.named(size)
    model = Gato.skeleton(config)
    shown = Table("", "value", title=f"gato {size}", show_header=False)
    for name in ("layers", "heads", "width", "feed_forward", "context"):
        shown.add_row(name.replace("_", " "), str(getattr(config, name)))
    names = {
        "table": "token table (input and output)",
        "local": "local positions",
        "patch": "image patches",
        "value_group": f"up to {config.values_per_token} values in a token",
        "norm": "final norm",
        "action_decoder": "action decoder",
    }
    rest = [(name, module) for name, module in model.named_children() if module is not model.embedding]
    for name, module in [*model.embedding.named_children(), *rest]:
        shown.add_row(f"parameters: {names.get(name, name)}", f"{sum(p.numel() for p in module.parameters()):,}")
    total = sum(p.numel() for p in model.parameters())
    shown.add_row("parameters", f"{total:,}")
    if published := SIZES[size].published:
        shown.add_row("published", f"{published:,.0f}")
        shown.add_row("difference", f"{total / published - 1:+.1%}")
        shown.caption = (
            "The paper leaves open how the feed-forward size counts and what embeds patches. Here both halves of the "
            "GEGLU share it (a full-width gate would give 107M, 512M and 1.69B), one table serves input and output, "
            "and the patch tower is the TensorFlow version's: that gives the small size, and falls 6% and 8% short of "
            "the other two."
        )
    return shown


def _checkpoint(console: Console, reference: str) -> None:
    from gato_agent.checkpoints.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(reference)
    config = checkpoint.model.config
    parameters = sum(p.numel() for p in checkpoint.model.parameters())
    console.print(f"{checkpoint.name}: {config.layers} layers x {config.width}, context {config.context}, "
                  f"{parameters:,} parameters", highlight=False)  # fmt: skip
    rows = []
    for task in checkpoint.tasks.values():
        n = task.tokenizer(config, checkpoint.text).layout.span
        rows.append((
            task.id, _in_words(task.observation_space), _in_words(task.action_space), str(n),
            f"{config.context / n:,.0f}", f"{task.temperature:g}",
        ))  # fmt: skip
    columns = [Column(name) for name in HEADINGS]
    console.print(fitted(console, columns, rows, ("observations", "actions"), title=plural(len(rows), "task")))


def _in_words(space: Space[Any]) -> str:
    """Space as Gymnasium writes it, without the padding of its arrays and the usual characters of texts."""
    return re.sub(r"(?<=\[) | (?=\])", "", " ".join(str(space).split())).replace(USUAL, "")


def env_table(env: str, env_kwargs: str) -> Table:
    """Table of an environment: spaces, tokens per timestep, and steps in the context of each model size."""
    from gato_agent.envs.make import make, parse_kwargs
    from gato_agent.envs.tasks.task import Task, find, view_of
    from gato_agent.tokens.space_tokenizer import SpaceTokenizer

    known = find(env) or Task(env, "")
    with closing(make(env, env_kwargs=parse_kwargs(env_kwargs))) as made:
        spaces = made.observation_space, made.action_space
    shown = Table("", "value", title=env, show_header=False)
    shown.add_row("observations", _in_words(spaces[0]))
    shown.add_row("actions", _in_words(spaces[1]))
    for size in SIZES:
        config = GatoConfig.named(size)
        view = view_of(env, spaces[0], config.values_per_token > 1)
        tokenizer = SpaceTokenizer(
            *spaces,
            config.vocabulary,
            lambda _: [],
            known.text_pieces or 32,
            view,
            config.values_per_token,
            config.action_decoder,
            config.grid_rows,
            config.past_actions,
        )
        n, kinds = tokenizer.layout.length, ", ".join(next(iter(step)) for step in view.to_json())
        shown.add_row(
            size,
            f"{n} token{'s' * (n > 1)} per timestep, {tokenizer.n_obs} of them observation"
            f"{f' ({kinds})' if kinds else ''}; "
            f"{config.context / tokenizer.layout.span:,.0f} steps in a context of {config.context:,}",
        )
    return shown
