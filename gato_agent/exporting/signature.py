"""Inputs and outputs of an exported control step: names, shapes, dtypes and units, as the JSON beside it has them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gymnasium.spaces import Box, Space, Text

from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.spaces.flatten import Leaf, leaves
from gato_agent.envs.spaces.view_transforms import Drop
from gato_agent.model.config import GatoConfig
from gato_agent.tokens.space_tokenizer import SpaceTokenizer

if TYPE_CHECKING:  # the description needs no PyTorch
    from gato_agent.exporting.graph_cache import GraphCache

FORMAT = 1  # of the JSON beside a graph
TEXT_MODEL = ".text.model"  # ending of the SentencePiece model of a graph that reads texts
Role = Literal["observation", "instruction", "start", "uniforms", "state", "action", "valid"]


@dataclass(frozen=True)
class Port:
    """One input or output of the graph.

    Attributes:
        name: in the graph.
        role: of the array.
        shape: with the number of environments first, or after the layers in a state.
        dtype: name of a NumPy dtype.
        unit: of the values, in words.
        leaf: path of the leaf of the space; None for others.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    dtype: str
    unit: str
    leaf: str | None = None


class Signature(NamedTuple):
    """Inputs and outputs in order.

    Attributes:
        inputs: of the graph.
        outputs: of the graph; the states come last.
        states: (input, output) of each array that a step passes to the next one; zeros before the first.
    """

    inputs: list[Port]
    outputs: list[Port]
    states: list[tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        states = [{"input": before, "output": after, "first": 0} for before, after in self.states]
        return {
            "inputs": [_plain(port) for port in self.inputs],
            "outputs": [_plain(port) for port in self.outputs],
            "states": states,
        }


def _plain(port: Port) -> dict[str, Any]:
    return {key: value for key, value in asdict(port).items() if value is not None}


def signature_of(
    task: TrainedTask, tokenizer: SpaceTokenizer, cache: "GraphCache", config: GatoConfig, num_envs: int,
    temperature: float, instruction: str | None,
) -> Signature:  # fmt: skip
    """Inputs and outputs of a step.

    Args:
        task: of the step.
        tokenizer: of the task.
        cache: of the step.
        config: of the model.
        num_envs: environments.
        temperature: of the sampling; 0 for greedy.
        instruction: path of the leaf whose text is the prompt of an episode; None for a constant prompt or none.
    """
    room = {leaf.path: tokens for leaf, tokens in tokenizer.parts.texts}
    read = [leaf for leaf in leaves(task.observation_space) if leaf.path not in dropped(task)]
    inputs = [_observed(leaf, num_envs, room.get(leaf.path)) for leaf in read]
    inputs.append(Port("start", "start", (num_envs,), "bool", "True where an episode begins"))
    if instruction is not None:
        unit = "piece id, -1 after the last; read where an episode begins"
        inputs.append(Port("instruction", "instruction", (num_envs, cache.prefix), "int64", unit, instruction))
    if temperature:
        unit = "random number in [0, 1)"
        inputs.append(Port("uniforms", "uniforms", (num_envs, tokenizer.n_act), "float64", unit))
    own = list(_states(cache, config, num_envs, tokenizer.layout.carried, instruction is not None))
    outputs = [_acted(leaf, num_envs) for leaf in leaves(task.action_space)]
    unit = "False where a number of the observation is not finite or not in its space"
    outputs.append(Port("valid", "valid", (num_envs,), "bool", unit))
    following = [Port(f"next_{port.name}", port.role, port.shape, port.dtype, port.unit) for port in own]
    pairs = [(before.name, after.name) for before, after in zip(own, following, strict=True)]
    return Signature(inputs + own, outputs + following, pairs)


def dropped(task: TrainedTask) -> set[str]:
    """Paths of the leaves of an observation that the model does not read, an instruction among them."""
    return {step.path for step in task.view.steps if isinstance(step, Drop)}


def _observed(leaf: Leaf, num_envs: int, room: int | None) -> Port:
    name = f"observation/{leaf.path}" if leaf.path else "observation"
    if room is not None:
        return Port(name, "observation", (num_envs, room), "int64", "piece id, -1 after the last", leaf.path)
    unit = f"as the environment has it{_bounds(leaf.space)}"
    return Port(name, "observation", (num_envs, *_shape(leaf.space)), str(leaf.space.dtype), unit, leaf.path)


def _acted(leaf: Leaf, num_envs: int) -> Port:
    name = f"action/{leaf.path}" if leaf.path else "action"
    if isinstance(leaf.space, Text):
        shape = num_envs, leaf.space.max_length
        return Port(name, "action", shape, "int64", "Unicode code point, -1 after the last", leaf.path)
    unit = f"as the environment takes it{_bounds(leaf.space)}"
    return Port(name, "action", (num_envs, *_shape(leaf.space)), str(leaf.space.dtype), unit, leaf.path)


def _bounds(space: Space[Any]) -> str:
    """Bounds that all elements of a Box share, in words."""
    if not isinstance(space, Box) or not space.low.size:
        return ""
    return f", {space.low.min()} to {space.high.max()}"


def _shape(space: Space[Any]) -> tuple[int, ...]:
    return tuple(space.shape or ())


def _states(
    cache: "GraphCache", config: GatoConfig, num_envs: int, carried: int, instructed: bool
) -> Iterator[Port]:  # fmt: skip
    """Arrays that a step passes to the next one."""
    ring = num_envs, config.heads, cache.slots, config.head_size
    for layer in range(config.layers):
        yield Port(f"state/k/{layer}", "state", ring, "float32", "keys: environment, head, slot, element")
        yield Port(f"state/v/{layer}", "state", ring, "float32", "values, likewise")
    yield Port("state/index", "state", (num_envs, cache.slots), "int64", "position of the key in a slot")
    yield Port("state/next_position", "state", (num_envs,), "int64", "position of the next token")
    if carried:
        yield Port("state/last_action", "state", (num_envs, 1), "int64", "last token of the last action")
    if instructed:
        prompt = config.layers, num_envs, config.heads, cache.prefix, config.head_size
        yield Port(
            "state/prompt_k",
            "state",
            prompt,
            "float32",
            "keys of the instruction: layer, environment, head, token, element",
        )
        yield Port("state/prompt_v", "state", prompt, "float32", "values, likewise")
        yield Port(
            "state/prompt_visible", "state", (num_envs, cache.prefix), "bool", "True for tokens of the instruction"
        )
