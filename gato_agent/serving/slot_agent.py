"""The agent of a policy server: environments of several clients, stepped some at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, SpaceError, one_line
from gato_agent.envs.spaces.flatten import Columns, stack
from gato_agent.inference.agent import Agent


@dataclass(frozen=True, eq=False)
class StepRequest:
    """One control step of the environments of one client.

    Attributes:
        envs: int64 [n], their indices in the agent, rising.
        observation: valid columns [n, ...].
        start: bool [n], True where an episode begins.
        masks: action mask of each environment; None for none.
        greedy: True for greedy actions at any temperature.
        restart: True to begin the random streams of the environments again first.
    """

    envs: NDArray[np.int64]
    observation: Columns
    start: NDArray[np.bool_]
    masks: Sequence[Any] | None = None
    greedy: bool = False
    restart: bool = False


class SlotAgent(Agent):
    """An agent that answers the requests of several clients by one step."""

    def answer(self, requests: Sequence[StepRequest]) -> list[Columns | GatoError]:
        """Actions of each request, or its error, which leaves no trace in the others.

        Environments of different requests are different. An error without a known row is that of each alone.
        """
        for request in requests:
            if request.restart:
                for index, env in enumerate(request.envs.tolist()):
                    self._stepper.sampler.restart(env, self.seed + index)
        outcomes: dict[int, Columns | GatoError] = {}
        groups = [[i for i, r in enumerate(requests) if self._greedy(r) == greedy] for greedy in (True, False)]
        for group in filter(None, groups):
            self._answer_group(requests, group, outcomes)
        return [outcomes[index] for index in range(len(requests))]

    def warm_up(self) -> None:
        """Take a first step, which is slow on some devices; a task without a valid sample is left cold."""
        self.observation_space.seed(0)
        columns = stack(self.observation_space, [self.observation_space.sample()])
        short = {path: np.full(1, "", object) if part.dtype == object else part for path, part in columns.items()}
        self.answer([StepRequest(np.zeros(1, np.int64), short, np.ones(1, np.bool_), restart=True)])

    def _greedy(self, request: StepRequest) -> bool:
        return request.greedy or not self.temperature

    def _answer_group(
        self, requests: Sequence[StepRequest], group: list[int], outcomes: dict[int, Columns | GatoError]
    ) -> None:
        """Answer requests that are alike in their sampling; those that fail are left out of the next attempt."""
        while group:
            try:
                actions = self._together([requests[index] for index in group])
            except Exception as error:  # noqa: BLE001  # whatever it is, other clients go on
                wrong, described = self._blame(requests, group, error)
                if wrong is None:
                    for index in group:
                        self._answer_group(requests, [index], outcomes)
                    return
                outcomes[wrong] = described
                group = [index for index in group if index != wrong]
            else:
                outcomes.update(zip(group, actions, strict=True))
                return

    def _together(self, requests: Sequence[StepRequest]) -> list[Columns]:
        """One step of all requests."""
        envs = np.concatenate([request.envs for request in requests])
        order = np.argsort(envs)
        observation = {
            path: np.concatenate([request.observation[path] for request in requests])[order]
            for path in requests[0].observation
        }
        start = np.concatenate([request.start for request in requests])[order]
        masks = None
        if any(request.masks is not None for request in requests):
            each = [mask for r in requests for mask in (r.masks if r.masks is not None else [None] * len(r.envs))]
            masks = [each[row] for row in order]
        actions = self._stepper.step(observation, start, greedy=requests[0].greedy, masks=masks, envs=envs[order])
        rows = np.argsort(order)
        ends = np.cumsum([len(request.envs) for request in requests])
        own = [rows[end - len(request.envs) : end] for request, end in zip(requests, ends, strict=True)]
        return [{path: column[each] for path, column in actions.items()} for each in own]

    def _blame(
        self, requests: Sequence[StepRequest], group: list[int], error: Exception
    ) -> tuple[int | None, GatoError]:
        """The request that an error is about, None if it may be any, and the error in its client's terms."""
        cause = error.__cause__
        if isinstance(cause, SpaceError) and cause.row is not None:
            env = np.sort(np.concatenate([requests[index].envs for index in group]))[cause.row]
            wrong = next(index for index in group if env in requests[index].envs)
            own = int(np.searchsorted(requests[wrong].envs, env))
            return wrong, GatoError(f"{self.task.id}: environment {own}: {cause}")
        described = error if isinstance(error, GatoError) else GatoError(f"the server cannot act: {one_line(error)}")
        return (group[0] if len(group) == 1 else None), described
