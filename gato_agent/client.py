"""Client of a policy server: `gato-agent serve` at one end, a robot or a simulator at the other.

    with RemoteAgent("ws://127.0.0.1:8000") as agent:
        agent.reset(num_envs=1)
        action = agent.act(observations)        # a batch, as gymnasium.vector has them

It needs NumPy, msgpack and websockets, and neither PyTorch nor Gymnasium. As a program it plays an environment:

    python -m gato_agent.client ws://127.0.0.1:8000 --env CartPole-v1 --hz 50
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gato_agent.envs.errors import GatoError
from gato_agent.envs.predict_state import PredictState, claimed_num_envs
from gato_agent.serving.wire import PROTOCOL, SUBPROTOCOL, WireError, pack, unpack

ADDRESS = "ws://127.0.0.1:8000"
MAX_FRAME = 2**26  # bytes of an answer


class RemoteError(GatoError):
    """An error of a server, or of the connection to it."""


class RemoteAgent:
    """The agent of a policy server, as an actor and as a Stable-Baselines3 policy.

    The memory of its episodes is the server's, and ends with the connection. It is for one thread.

    Args:
        address: `ws://host:port`, or `wss://` behind a proxy with TLS.
        token: of the server; by default the environment variable GATO_AGENT_TOKEN.
        timeout: deadline of an action, and of connecting, in seconds; also the server's, where its own is longer.
        masks: function that returns the action mask of each environment, called where a method is given no masks.

    Attributes:
        metadata: first message of the server: env, checkpoint, observation_space, action_space as JSON, ...
        num_envs: environments of this client.
        timing: of the latest action: infer_ms of its step, wait_ms before it, batch of requests in it.

    Raises:
        RemoteError: no server there, or one that refuses the client.
    """

    def __init__(
        self, address: str = ADDRESS, *, token: str | None = None, timeout: float = 10.0,
        masks: Callable[[], Sequence[Any]] | None = None,
    ) -> None:  # fmt: skip
        self._address, self._timeout, self._masks = address, timeout, masks
        self._token = os.environ.get("GATO_AGENT_TOKEN") if token is None else token
        self._connection: ClientConnection | None = None
        self._open = ExitStack()  # that closes it
        self.metadata: dict[str, Any] = {}
        self.timing: dict[str, float] = {}
        self.num_envs = 1
        self._connect()

    def __repr__(self) -> str:
        return f"RemoteAgent({self.metadata.get('env')}, {self._address})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the server forgets the episodes."""
        self._connection = None
        self._open.close()

    def reset(self, num_envs: int = 1) -> None:
        """Forget all episodes and prepare for `num_envs` environments; connects again if the connection was lost."""
        if self._connection is None:
            self._connect()
        self._ask({"reset": int(num_envs)})

    def act(
        self, observation: Any, start: NDArray[np.bool_] | None = None, *, masks: Sequence[Any] | None = None
    ) -> Any:
        """Choose one action per environment.

        Args:
            observation: batch in the form of `VectorEnv.observation_space`.
            start: bool [num_envs], True where an episode begins; by default in all at the first call after `reset`.
            masks: action mask of each environment; by default those of the agent's `masks`.

        Returns:
            Batch in the form of `VectorEnv.action_space`.

        Raises:
            RemoteError: the server refuses the observation, and its memory is as it was; or the deadline has passed or
                the connection is lost, and `reset` begins anew.
        """
        return self._action({"observation": observation, "start": start}, masks)

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, PredictState]:  # fmt: skip
        """Action in Stable-Baselines3's policy protocol, with the rules of `Agent.predict`.

        Args:
            observation: one observation of the space, or a batch of them.
            state: None, or the state that the last call returned.
            episode_start: bool [n], True where an episode begins; by default in all at the first call after `reset`.
            deterministic: True for greedy actions at any temperature.

        Returns:
            Action (or batch of actions, as the observation was), and the state for the next call.

        Raises:
            RemoteError: as `act`; or the state is of another agent or of another number of observations.
        """
        claimed = claimed_num_envs(state, self, self._address, RemoteError)
        message = {
            "observation": observation, "start": episode_start, "deterministic": bool(deterministic), "predict": True,
            "num_envs": claimed,
        }  # fmt: skip
        action = self._action(message, None)
        return action, PredictState(self, self.num_envs)

    def _action(self, message: dict[str, Any], masks: Sequence[Any] | None) -> Any:
        masks = self._masks() if masks is None and self._masks else masks
        masks = None if masks is None else list(masks)
        answer = self._ask({**message, "masks": masks, "timeout": self._timeout})
        self.timing = answer["server_timing"]
        return answer["action"]

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The server's answer to a message."""
        if self._connection is None:
            raise RemoteError(f"{self._address}: the connection is closed: call reset()")
        try:
            frame = pack(message)
        except WireError as error:
            raise RemoteError(f"this observation cannot be sent: {error}") from error
        try:
            self._connection.send(frame)
        except ConnectionClosed as error:
            raise self._lost(error) from error
        answer: dict[str, Any] = self._receive()
        self.num_envs = answer["num_envs"]
        return answer

    def _receive(self) -> Any:
        assert self._connection is not None
        try:
            frame = self._connection.recv(self._timeout)
            if isinstance(frame, str):
                raise RemoteError(frame)
            return unpack(frame)
        except TimeoutError:
            self.close()  # a late answer must not be taken for the next one
            raise RemoteError(
                f"{self._address}: no answer within {self._timeout:g} s; the connection is closed: call reset()"
            ) from None
        except (ConnectionClosed, WireError) as error:
            raise self._lost(error) from error
        except KeyboardInterrupt:
            self.close()  # likewise
            raise

    def _lost(self, error: Exception) -> RemoteError:
        self.close()
        reason = error.rcvd.reason if isinstance(error, ConnectionClosed) and error.rcvd else ""
        cause = str(error) if isinstance(error, WireError) else reason or "it vanished"
        return RemoteError(f"{self._address}: the server closed the connection ({cause}): call reset() to begin anew")

    def _connect(self) -> None:
        headers = {"Authorization": f"Api-Key {self._token}"} if self._token else None
        try:
            connecting = connect(
                self._address, subprotocols=[Subprotocol(SUBPROTOCOL)], additional_headers=headers, compression=None,
                proxy=None, max_size=MAX_FRAME, open_timeout=self._timeout, close_timeout=1,
            )  # fmt: skip
            self._connection = self._open.enter_context(connecting)
        except InvalidStatus as error:
            body = bytes(error.response.body).decode(errors="replace").strip()
            message = body or f"HTTP status {error.response.status_code}"
            raise RemoteError(f"{self._address}: {message}") from error
        except (InvalidHandshake, InvalidURI, ValueError) as error:
            raise RemoteError(f"{self._address} is no policy server ({error}): it is like {ADDRESS}") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise RemoteError(f"{self._address}: no server answers ({reason}): start `gato-agent serve`") from error
        metadata: Any = self._receive()
        if not isinstance(metadata, dict) or metadata.get("protocol") != PROTOCOL:
            self.close()
            raise RemoteError(f"{self._address} is a server of another version: install one version of gato-agent")
        self.metadata = metadata


def main(argv: Sequence[str] | None = None) -> None:
    """Play episodes of an environment; exits with 0, 1 (error), 2 (usage) or 130 (interrupted)."""
    parser = argparse.ArgumentParser("python -m gato_agent.client", description="Play with a policy server.")
    parser.add_argument("address", nargs="?", default=ADDRESS, help=f"server, by default {ADDRESS}")
    parser.add_argument("--env", help="environment id; by default that of the server's task")
    parser.add_argument("--episodes", type=int, default=1, help="episodes to play")
    parser.add_argument("--seed", type=int, default=1_000_000, help="random seed of the first; each next one adds 1")
    parser.add_argument("--hz", type=float, default=0.0, help="control frequency in Hz; 0: as fast as possible")
    parser.add_argument("--timeout", type=float, default=10.0, help="deadline of an action in s")
    try:
        _play(parser.parse_args(argv))
    except KeyboardInterrupt:
        sys.exit(130)
    except GatoError as error:
        sys.stderr.write(f"gato_agent.client: error: {error}\n")
        sys.exit(error.exit_code)


def _play(options: argparse.Namespace) -> None:
    """Play episodes, and print returns and missed deadlines."""
    from gato_agent.envs.loop import steps
    from gato_agent.envs.make import make_vector
    from gato_agent.inference.real_time import RealTimeActor

    with ExitStack() as stack:
        agent = stack.enter_context(RemoteAgent(options.address, timeout=options.timeout))
        envs = stack.enter_context(closing(make_vector(options.env or agent.metadata["env"], 1)))
        total = 0.0
        agent._masks = envs.action_masks
        actor = RealTimeActor(agent, options.hz)
        for step in steps(actor, envs, range(options.seed, options.seed + options.episodes)):
            total += step.reward
            if step.done:
                sys.stdout.write(f"seed {step.seed}: return {total:.1f} in {step.t + 1} steps\n")
                total = 0.0
        late = f"{actor.missed} of {actor.actions} deadlines missed at {options.hz:g} Hz, " if options.hz else ""
        sys.stdout.write(f"{late}slowest step {1e3 * actor.worst:.1f} ms\n")


if __name__ == "__main__":
    main()
