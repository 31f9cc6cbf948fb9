"""Dynamic batching: the next step serves all requests that wait when a step ends."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter

from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.flatten import Columns
from gato_agent.serving.slot_agent import StepRequest

STOPPED = "the server is stopping"
SHORT = 0.005  # seconds of a step up to which a change of thread would cost more than waiting for it


@dataclass(frozen=True)
class Answer:
    """Actions of a request, with the times of inference and of waiting.

    Attributes:
        actions: columns, a row for each environment.
        infer_ms: time of the step, in milliseconds.
        wait_ms: time from the request to its step, in milliseconds.
        batch: requests of the step.
    """

    actions: Columns
    infer_ms: float
    wait_ms: float
    batch: int


@dataclass(eq=False)
class _Waiting:
    request: StepRequest
    future: asyncio.Future[Answer]
    since: float = field(default_factory=perf_counter)


class Batcher:
    """Batches of requests: short steps run in the event loop, others in one thread beside it, one at a time.

    Args:
        answer: actions of each request of a batch, or its error.

    Attributes:
        requests: number of requests that were answered.
        steps: number of steps.
    """

    def __init__(self, answer: Callable[[Sequence[StepRequest]], Sequence[Columns | GatoError]]) -> None:
        self.requests = self.steps = 0
        self._stopped = False
        self._answer, self._waiting, self._arrived = answer, list[_Waiting](), asyncio.Event()
        self._thread, self._seconds = ThreadPoolExecutor(1, "agent"), SHORT  # of the latest step

    async def submit(self, request: StepRequest, timeout: float) -> Answer:
        """The answer to a request.

        Args:
            request: to answer.
            timeout: seconds until its step must begin; one that has begun is answered whenever it ends.

        Raises:
            GatoError: the deadline has passed, and no step is taken; or the step failed for this request.
        """
        if self._stopped:
            raise GatoError(STOPPED)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        expiry = loop.call_later(timeout, self._expire, waiting, timeout)
        try:
            return await waiting.future
        finally:
            expiry.cancel()

    async def run(self) -> None:
        """Take steps, until it is cancelled; requests without an answer are then refused."""
        loop, batch = asyncio.get_running_loop(), list[_Waiting]()
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                batch = [each for each in self._waiting if not each.future.done()]
                self._waiting.clear()
                if batch:
                    began = perf_counter()
                    if self._seconds < SHORT:
                        outcomes = self._step(batch)
                    else:
                        outcomes = await loop.run_in_executor(self._thread, self._step, batch)
                    self._deliver(batch, outcomes, began)
        finally:
            self._stopped = True
            for each in (*batch, *self._waiting):
                if not each.future.done():
                    each.future.set_exception(GatoError(STOPPED))
            self._thread.shutdown(cancel_futures=True)

    def _step(self, batch: list[_Waiting]) -> Sequence[Columns | GatoError]:
        began = perf_counter()
        outcomes = self._answer([each.request for each in batch])
        self._seconds = perf_counter() - began
        return outcomes

    def _deliver(self, batch: list[_Waiting], outcomes: Sequence[Columns | GatoError], began: float) -> None:
        self.steps += 1
        self.requests += len(batch)
        for each, outcome in zip(batch, outcomes, strict=True):
            if each.future.done():  # cancelled: its client is gone
                continue
            if isinstance(outcome, GatoError):
                each.future.set_exception(outcome)
            else:
                wait = 1e3 * (began - each.since)
                each.future.set_result(Answer(outcome, 1e3 * self._seconds, wait, len(batch)))

    def _expire(self, waiting: _Waiting, timeout: float) -> None:
        """Refuse a request whose step has not begun."""
        if waiting in self._waiting and not waiting.future.done():
            self._waiting.remove(waiting)
            waiting.future.set_exception(
                GatoError(f"deadline: no step within {timeout:g} s, and none was taken: send the observation again")
            )
