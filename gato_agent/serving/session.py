"""One client of a policy server: its environments, and its messages as requests."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Text
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.flatten import Columns, batch, columns, leaves, row, stack
from gato_agent.envs.spaces.step_results import brief
from gato_agent.envs.spaces.values import column_validator
from gato_agent.inference.action_mask import MASKABLE
from gato_agent.inference.step_inputs import is_single, num_envs_of
from gato_agent.serving.batcher import Answer, Batcher
from gato_agent.serving.slot_agent import SlotAgent, StepRequest

KEYS = ("observation", "start", "masks", "deterministic", "predict", "num_envs", "timeout")
OVERHEAD = 2**16  # bytes of a frame beside its arrays


class Slots:
    """The agent's environments, each of one client or free.

    Args:
        count: of environments.
    """

    def __init__(self, count: int) -> None:
        self.count, self.free = count, list(range(count))

    def take(self, count: int) -> NDArray[np.int64]:
        """Indices of free environments, rising; raises GatoError if there are fewer."""
        if count > len(self.free):
            raise GatoError(f"{count} environments, and {len(self.free)} of {self.count} are free: try again later")
        self.free.sort()
        taken, self.free = self.free[:count], self.free[count:]
        return np.array(taken, dtype=np.int64)

    def give_back(self, envs: NDArray[np.int64]) -> None:
        """Free environments."""
        self.free += envs.tolist()


class Session:
    """State of one client.

    Args:
        agent: that acts.
        slots: of the agent's environments.
        batcher: that takes the steps.
        timeout: longest deadline of a request, in seconds.

    Attributes:
        actions: number of requests that were answered.

    Raises:
        GatoError: no environment is free.
    """

    def __init__(self, agent: SlotAgent, slots: Slots, batcher: Batcher, timeout: float) -> None:
        self.actions = 0
        self._agent, self._slots, self._batcher, self._timeout = agent, slots, batcher, timeout
        self._validated = column_validator(agent.observation_space)
        self._envs, self._fresh, self._restart = slots.take(1), np.ones(1, dtype=np.bool_), True
        self._sized = False  # the first batch has as many observations as the client has environments

    def close(self) -> None:
        """Free the environments."""
        self._slots.give_back(self._envs)
        self._envs = self._envs[:0]

    async def reply(self, message: Any) -> dict[str, Any]:
        """Answer to a message.

        Raises:
            GatoError: the message is none, or its values are not in their spaces; the memory is as it was.
        """
        if isinstance(message, dict) and message.keys() == {"reset"}:
            self._reset(message["reset"])
            return {"num_envs": len(self._envs)}
        if not isinstance(message, dict) or "observation" not in message or not message.keys() <= set(KEYS):
            raise GatoError(f"a message is {{reset: n}}, or has observation and any of {', '.join(KEYS[1:])}")
        predict, space = _flag(message, "predict"), self._agent.observation_space
        single, deadline = predict and is_single(space, message["observation"]), self._deadline(message.get("timeout"))
        request = self._request(message, self._columns(message["observation"], single), predict)
        try:
            answer = await self._batcher.submit(request, deadline)
        except GatoError:
            self._fresh |= request.start  # the memory of these episodes may have been emptied
            raise
        self._fresh[:], self._restart = False, False
        self.actions += 1
        return self._reply(answer, single)

    def _reply(self, answer: Answer, single: bool) -> dict[str, Any]:
        space = self._agent.action_space
        action = row(space, answer.actions, 0) if single else batch(space, answer.actions)
        timing = {"infer_ms": answer.infer_ms, "wait_ms": answer.wait_ms, "batch": answer.batch}
        return {"action": action, "num_envs": len(self._envs), "server_timing": timing}

    def _reset(self, count: Any) -> None:
        """Forget all episodes and take `count` environments."""
        if type(count) is not int or not 1 <= count <= self._slots.count:
            raise GatoError(f"reset to {brief(count)} environments: the server has 1 to {self._slots.count}")
        if count > len(self._envs):
            self._envs = np.sort(np.concatenate((self._envs, self._slots.take(count - len(self._envs)))))
        self._slots.give_back(self._envs[count:])
        self._envs, self._fresh, self._restart = self._envs[:count], np.ones(count, dtype=np.bool_), True
        self._sized = True

    def _columns(self, observation: Any, single: bool) -> Columns:
        """Valid columns of an observation."""
        space = self._agent.observation_space
        split = stack(space, [observation]) if single else columns(space, observation)
        if len(sizes := {len(column) for column in split.values()}) != 1 or sizes == {0}:
            raise GatoError(f"observations: {' and '.join(map(str, sorted(sizes)))} of them in one batch")
        return self._validated(split)

    def _request(self, message: dict[str, Any], observation: Columns, predict: bool) -> StepRequest:
        count = num_envs_of(observation)
        before = message.get("num_envs")
        if before is not None and (type(before) is not int or before != count):
            raise GatoError(f"{count} observations with the state of {brief(before)}: pass state=None to begin anew")
        if count != len(self._envs) and self._sized and not predict:
            raise GatoError(f"{count} observations for {len(self._envs)} environments: call reset({count})")
        start, masks = _starts(message.get("start"), count), _masks(message.get("masks"), count)
        greedy = _flag(message, "deterministic")
        if count != len(self._envs):
            self._reset(count)  # after all checks, since it forgets the episodes
        return StepRequest(self._envs, observation, self._fresh | start, masks, greedy, self._restart)

    def _deadline(self, timeout: Any) -> float:
        if timeout is None:
            return self._timeout
        if not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise GatoError(f"timeout {brief(timeout)}: seconds above 0")
        return min(float(timeout), self._timeout)


def frame_limit(agent: SlotAgent, num_envs: int) -> int:
    """Largest frame of a client in bytes: observations and action masks of all environments."""
    size: int = OVERHEAD
    for leaf in leaves(agent.observation_space):
        if isinstance(leaf.space, Text):
            size += num_envs * 4 * leaf.space.max_length
        else:
            wide = 1 if leaf.space.dtype == np.uint8 else 8
            size += num_envs * wide * math.prod(leaf.space.shape or ())
    tokenizer = agent.tokenizer
    choices = int((tokenizer.legal[:, 1] - tokenizer.legal[:, 0]).sum())
    choices += sum(min(sum(digits.counts), MASKABLE) for digits in tokenizer.acted_digits.values())
    return size + num_envs * 8 * choices


def _flag(message: dict[str, Any], name: str) -> bool:
    value = message.get(name, False)
    if not isinstance(value, bool):
        raise GatoError(f"{name} is {brief(value)}: true or false")
    return value


def _starts(start: Any, count: int) -> NDArray[np.bool_]:
    """Beginnings of episodes, bool [count]; none for None."""
    if start is None:
        return np.zeros(count, dtype=np.bool_)
    try:
        starts = np.reshape(np.asarray(start), -1)
    except ValueError:
        starts = np.zeros(0)
    if starts.shape != (count,) or not (starts.dtype.kind == "b" or np.isin(starts, (0, 1)).all()):
        raise GatoError(f"start is {brief(start)}: {count} truth values, one for each environment")
    return starts.astype(np.bool_)


def _masks(masks: Any, count: int) -> Sequence[Any] | None:
    """Action masks of `count` environments, which the agent checks; None for none."""
    if masks is None:
        return None
    if not isinstance(masks, (tuple, np.ndarray)) or len(masks) != count:
        raise GatoError(f"action masks are {brief(masks)}: {count}, one for each environment, or none")
    return list(masks)
