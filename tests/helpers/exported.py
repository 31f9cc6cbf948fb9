"""Exported control steps beside the agent that they were made from."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Space
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.spaces.flatten import columns
from gato_agent.exporting.control_step import ControlStep
from gato_agent.exporting.export import description
from gato_agent.exporting.graph_actor import Arrays, GraphActor
from gato_agent.inference.agent import Agent
from gato_agent.inference.prompting import Prompter


def control_step(checkpoint: Checkpoint, task: TrainedTask, num_envs: int = 1, temperature: float = 0.0) -> ControlStep:
    tokenizer, text = task.tokenizer(checkpoint.model.config, checkpoint.text), checkpoint.text
    prompter = Prompter(task, tokenizer, text.encode if text else None)
    return ControlStep(checkpoint, task, prompter, num_envs, temperature).eval()


def eager_actor(
    checkpoint: Checkpoint, task: TrainedTask, num_envs: int = 1, temperature: float = 0.0
) -> GraphActor:  # fmt: skip
    """Actor whose graph is the module itself, not traced."""
    step = control_step(checkpoint, task, num_envs, temperature)

    def run(arrays: Arrays) -> Arrays:
        with torch.no_grad():
            results = step(*(torch.from_numpy(arrays[port.name]) for port in step.signature.inputs))
        for port, result in zip(step.signature.outputs, results, strict=True):
            assert (tuple(result.shape), str(result.numpy().dtype)) == (port.shape, port.dtype), port
        return {port.name: r.numpy() for port, r in zip(step.signature.outputs, results, strict=True)}

    return GraphActor(description(checkpoint, task, step.signature, num_envs, temperature), run, checkpoint.text)


class Compared:
    """Actor that acts as an agent, and counts the numbers in which an exported step differs.

    Attributes:
        steps: taken.
        numbers: of all actions.
        differing: numbers among them.
        margin: of the first number that differs in an action, the distance of the cumulated probability from a half,
            at which the median changes; the largest one.
    """

    def __init__(self, agent: Agent, exported: GraphActor) -> None:
        self._agent, self._exported, self._space = agent, exported, agent.action_space
        self.steps = self.numbers = self.differing = 0
        self.margin = 0.0

    def reset(self, num_envs: int) -> None:
        self._agent.reset(num_envs)
        self._exported.reset(num_envs)

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        action = self._agent.act(observation, start)
        self._compare(action, self._exported.act(observation, start))
        return action

    def _compare(self, expected: Any, actual: Any) -> None:
        wanted, got = (columns(self._space, batch) for batch in (expected, actual))
        assert {path: part.dtype for path, part in wanted.items()} == {path: part.dtype for path, part in got.items()}
        self.steps += 1
        self.numbers += sum(part.size for part in wanted.values())
        differing = sum(int((wanted[path] != got[path]).sum()) for path in wanted)
        self.differing += differing
        if differing:
            self._note_margin(*(self._agent.tokenizer.encode_actions(part) for part in (wanted, got)))

    def _note_margin(self, wanted: NDArray[Any], got: NDArray[Any]) -> None:
        """Note how near the first different token of each action was to the other choice."""
        low = self._agent.tokenizer.legal[:, 0]
        for env in np.flatnonzero((wanted != got).any(1)).tolist():
            at = int(np.argmax(wanted[env] != got[env]))
            assert abs(int(wanted[env, at]) - int(got[env, at])) == 1, "not a neighbouring bin"
            first = int(min(wanted[env, at], got[env, at]) - low[at])
            below = self._agent._stepper.decoder.logits[at][env].double().softmax(0)[: first + 1].sum()
            self.margin = max(self.margin, abs(float(below) - 0.5))


def sampled_batches(space: Space[Any], num_envs: int, steps: int) -> list[Any]:
    """Random observations of a space, as a vector environment returns them."""
    batched = batch_space(space, num_envs)
    batched.seed(0)
    return [batched.sample() for _ in range(steps)]
