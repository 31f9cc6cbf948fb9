"""Policy server: an agent behind a websocket, for several clients at once."""

import asyncio
import errno
import hmac
import ipaddress
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.spaces.flatten import space_to_json
from gato_agent.serving.batcher import Batcher
from gato_agent.serving.session import Session, Slots, frame_limit
from gato_agent.serving.slot_agent import SlotAgent
from gato_agent.serving.wire import PROTOCOL, SUBPROTOCOL, WireError, pack, unpack

HEALTH = "/healthz"
LAST_PORT = 65_535
LONGEST_REASON = 120  # bytes of the reason of a close frame
SHORTEST_TOKEN = 16  # characters


@dataclass(frozen=True)
class ServerOptions:
    """Address and limits of a server.

    Attributes:
        host: address to listen on.
        port: to listen on; 0 for a free one.
        token: that clients must have; None for none, which takes a loopback address.
        timeout: deadline of a request in seconds, and time after which a silent client is dropped.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    timeout: float = 10.0

    def check(self) -> None:
        """Raise UsageError for no port, a token that is too short, or an address that others reach without one."""
        if not 0 <= self.port <= LAST_PORT:
            raise UsageError(f"--port {self.port}: use 0 to {LAST_PORT}")
        if self.token is None and not is_loopback(self.host):
            raise UsageError(
                f"{self.host} can be reached from elsewhere, so clients need a token: set GATO_AGENT_TOKEN here and "
                "at the clients, or leave --host out"
            )
        if self.token is not None and not (len(self.token) >= SHORTEST_TOKEN and self.token.isascii()):
            raise UsageError(f"the token has {len(self.token)} characters: use {SHORTEST_TOKEN} or more of ASCII")


class PolicyServer:
    """Server of one agent.

    Args:
        agent: that acts, reset to as many environments as are served at once.
        options: address and limits.
        report: prints one line.

    Attributes:
        clients: number of clients so far.
        batcher: of the steps.
        slots: of the agent's environments.
    """

    def __init__(self, agent: SlotAgent, options: ServerOptions, report: Callable[[str], None]) -> None:
        options.check()
        self.clients = 0
        self._agent, self._options, self._report = agent, options, report
        self.slots, self.batcher = Slots(agent.num_envs), Batcher(agent.answer)
        self._metadata = pack(self._about(agent))

    @staticmethod
    def _about(agent: SlotAgent) -> dict[str, Any]:
        """First message to each client."""
        return {
            "server": "gato-agent",
            "protocol": PROTOCOL,
            "env": agent.task.id,
            "checkpoint": agent.checkpoint.name,
            "observation_space": space_to_json(agent.observation_space),
            "action_space": space_to_json(agent.action_space),
            "num_envs": agent.num_envs,
        }

    async def run(self) -> None:
        """Serve until it is cancelled.

        Raises:
            UsageError: the address cannot be listened on.
        """
        options = self._options
        steps = asyncio.create_task(self.batcher.run())
        try:
            async with await self._listen() as server:
                host = f"[{options.host}]" if ":" in options.host else options.host
                port = next(iter(server.sockets)).getsockname()[1]
                self._report(
                    f"{self._agent.task.id} with {self._agent.checkpoint.name} on {self._agent.device}: "
                    f"ws://{host}:{port} serves {self.slots.count} environments at once; Ctrl+C stops it"
                )
                await steps
        finally:
            steps.cancel()
            with suppress(asyncio.CancelledError):
                await steps

    async def _listen(self) -> Server:
        options = self._options
        quiet = logging.getLogger("gato_agent.serving.websockets")
        quiet.setLevel(logging.CRITICAL + 1)  # failed handshakes are the client's affair
        try:
            return await serve(
                self._handle, options.host, options.port, process_request=self._admit, compression=None,
                select_subprotocol=lambda _, offered: next((o for o in offered if o == SUBPROTOCOL), None),
                max_size=frame_limit(self._agent, self.slots.count), max_queue=1, logger=quiet, server_header=None,
                open_timeout=options.timeout, ping_interval=options.timeout, ping_timeout=options.timeout,
                close_timeout=1,
            )  # fmt: skip
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                problem = f"port {options.port} of {options.host} is in use: give another --port, or 0 for a free one"
            else:
                problem = f"cannot listen on {options.host} port {options.port} ({error.strerror or error})"
            raise UsageError(problem) from error

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refusal of a connection, or None to accept it."""
        if request.path == HEALTH:
            return connection.respond(HTTPStatus.OK, "OK\n")
        if "Origin" in request.headers:  # the page of some site, in a browser on this machine
            return connection.respond(HTTPStatus.FORBIDDEN, "browsers are not served\n")
        if self._options.token is not None:
            token = request.headers.get("Authorization", "").partition(" ")[2]
            if not hmac.compare_digest(token.encode(errors="replace"), self._options.token.encode()):
                return connection.respond(
                    HTTPStatus.UNAUTHORIZED, "wrong token: set GATO_AGENT_TOKEN to that of the server\n"
                )
        offered = request.headers.get("Sec-WebSocket-Protocol")
        if offered is not None and SUBPROTOCOL not in [each.strip() for each in offered.split(",")]:
            return connection.respond(
                HTTPStatus.BAD_REQUEST,
                f"the server has protocol {SUBPROTOCOL}, the client {offered:.80}: install one version of gato-agent\n",
            )
        if not self.slots.free:
            message = f"all {self.slots.count} environments are taken: try again later\n"
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, message)
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        """Serve one client until it leaves."""
        try:
            session = Session(self._agent, self.slots, self.batcher, self._options.timeout)
        except GatoError as error:
            return await connection.close(CloseCode.TRY_AGAIN_LATER, str(error)[:LONGEST_REASON])
        self.clients += 1
        reason = "left"
        try:
            await self._send(connection, self._metadata)
            async for frame in connection:
                await self._send(connection, await self._reply(session, frame))
        except (ConnectionClosed, TimeoutError):
            reason = "vanished"
        except WireError as error:
            reason = f"dropped: {error}"
            await connection.close(CloseCode.INVALID_DATA, str(error).encode()[:LONGEST_REASON].decode(errors="ignore"))
        except Exception as error:  # noqa: BLE001  # other clients go on
            reason = f"dropped: {one_line(error)}"
            await connection.close(CloseCode.INTERNAL_ERROR, "the server failed")
        finally:
            session.close()
            self._report(f"{_peer(connection)} {reason} after {session.actions} actions")

    async def _reply(self, session: Session, frame: str | bytes) -> str | bytes:
        """Frame that answers a frame; errors are text."""
        if isinstance(frame, str):
            raise WireError("a text frame: messages are binary frames of msgpack")
        message = unpack(frame)
        try:
            return pack(await session.reply(message))
        except GatoError as error:
            return " ".join(str(error).split())

    async def _send(self, connection: ServerConnection, frame: str | bytes) -> None:
        async with asyncio.timeout(self._options.timeout):
            await connection.send(frame)


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _peer(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if address else "a client"
