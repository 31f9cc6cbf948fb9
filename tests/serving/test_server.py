"""Clients of a policy server: each has its own episodes, and what one does disturbs no other."""

import asyncio
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from gato_agent import client as client_module
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.client import RemoteAgent, RemoteError
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.envs.spaces.flatten import Columns, batch
from gato_agent.inference.agent import Agent
from gato_agent.inference.real_time import RealTimeActor
from gato_agent.serving.batcher import Answer, Batcher
from gato_agent.serving.server import ServerOptions, is_loopback
from gato_agent.serving.session import frame_limit
from gato_agent.serving.slot_agent import SlotAgent, StepRequest
from gato_agent.serving.wire import pack, unpack
from tests.helpers.paths import ROOT
from tests.helpers.serving import HANDS, RICH, Served, checkpoint_of, sampled, served

CART = TrainedTask("CartPole-v1", gym.make("CartPole-v1").observation_space, Discrete(2))
SAID = Dict({"mission": Text(9), "x": Box(-1, 1, (2,))})
ONE, START = np.zeros((1, 4), np.float32), np.ones(1, np.bool_)


@pytest.fixture(scope="module")
def cart() -> Iterator[Served]:
    """A server of CartPole-v1 with four environments and random weights that sample."""
    with served(SlotAgent(checkpoint_of(CART), CART, temperature=0.7), timeout=5.0) as running:
        yield running


def local(task: TrainedTask, num_envs: int, temperature: float | None = None) -> Agent:
    agent = Agent(checkpoint_of(task), task, temperature=temperature)
    agent.reset(num_envs)
    return agent


@pytest.mark.parametrize("count", [1, 3])
def test_a_loop_plays_a_remote_agent_as_it_plays_the_agent_itself(cart: Served, count: int) -> None:
    agent = Agent(checkpoint_of(CART), CART, temperature=0.7)
    with RemoteAgent(cart.address) as remote:
        played = [[(s.seed, s.t, int(s.action)) for s in steps(a, make_vector("CartPole-v1", count), range(5))]
                  for a in (agent, remote)]  # fmt: skip
    assert played[0] == played[1]
    assert len({action for *_, action in played[0]}) == 2


@pytest.mark.parametrize("observation", [RICH, SAID, Box(-1, 1, (2,))], ids=["images", "text", "box"])
def test_any_space_goes_through(observation: Any) -> None:
    task = TrainedTask("Toy-v0", observation, HANDS)
    agent = local(task, 2)
    with served(SlotAgent(checkpoint_of(task), task)) as running, RemoteAgent(running.address) as remote:
        remote.reset(2)
        for t in range(6):
            seen, start = batch(observation, sampled(observation, 2, t)), np.full(2, t in (0, 4))
            wanted, found = agent.act(seen, start), remote.act(seen, start)
            np.testing.assert_equal(found, wanted)
            assert task.action_space.contains({key: value[0] for key, value in found.items()})


def test_it_is_a_policy_of_sb3(cart: Served) -> None:
    agent = Agent(checkpoint_of(CART), CART, temperature=0.7)
    with RemoteAgent(cart.address) as remote:
        scores = [
            evaluate_policy(policy, make_vec_env("CartPole-v1", 2, seed=0), 6, return_episode_rewards=True)  # type: ignore[arg-type]
            for policy in (agent, remote)
        ]
        assert scores[0] == scores[1]
        action, state = remote.predict(ONE[0], deterministic=True)
        assert action in (0, 1) and np.shape(action) == () and state.num_envs == 1
        actions, state = remote.predict(ONE, state)
        assert actions.shape == (1,)
        with pytest.raises(RemoteError, match="2 observations with the state of 1"):
            remote.predict(np.zeros((2, 4), np.float32), state)
        with pytest.raises(RemoteError, match="the state is of a object, and not of this agent"):
            remote.predict(ONE, object())


def test_clients_at_once_share_steps_and_nothing_else(cart: Served) -> None:
    agents = [local(CART, 1, 0.7) for _ in range(4)]

    def play(seed: int) -> tuple[list[int], list[int]]:
        agent, rng = agents[seed], np.random.default_rng(seed)
        with RemoteAgent(cart.address) as remote:
            pairs = []
            for t in range(60):
                seen, start = rng.normal(size=(1, 4)).astype(np.float32), np.full(1, t == 0 or rng.random() < 0.1)
                pairs.append((int(agent.act(seen, start)[0]), int(remote.act(seen, start)[0])))
            return [a for a, _ in pairs], [b for _, b in pairs]

    requests, taken = cart.server.batcher.requests, cart.server.batcher.steps
    with ThreadPoolExecutor(4) as pool:
        for wanted, found in pool.map(play, range(4)):
            assert wanted == found
    requests, taken = cart.server.batcher.requests - requests, cart.server.batcher.steps - taken
    assert requests == 240 >= taken


BAD = [
    (np.array([[np.nan, 0, 0, 0]]), "element \\[0\\] is nan, not a finite number"),
    (np.zeros((1, 3)), "shape \\(3,\\) of float64 instead of \\(4,\\) of float32"),
    (np.zeros((2, 4)), "2 observations for 1 environments: call reset\\(2\\)"),
    (np.zeros((0, 4)), "0 of them in one batch"),
    ({"image": np.zeros(3)}, "instead of \\(4,\\) of float32"),
    ("up", "instead of \\(4,\\) of float32"),
    (None, "instead of \\(4,\\) of float32"),
    (object(), "this observation cannot be sent"),
]


@pytest.mark.parametrize(("observation", "message"), BAD)
def test_a_wrong_observation_is_one_line_and_the_episode_goes_on(cart: Served, observation: Any, message: str) -> None:
    agent = local(CART, 1, 0.7)
    with RemoteAgent(cart.address) as remote:
        remote.reset(1)
        for t in range(4):
            seen = np.full((1, 4), 0.1 * t, np.float32)
            assert remote.act(seen, START & (t == 0)) == agent.act(seen, START & (t == 0))
            with pytest.raises(RemoteError, match=message) as error:
                remote.act(observation, START)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(("fields", "message"), [
    ({"start": [True, False]}, "1 truth values"), ({"start": "now"}, "1 truth values"), ({"masks": [1, 2]}, "masks"),
    ({"start": np.array([2])}, "1 truth values"), ({"masks": [[1, 1, 1]]}, "mask"),
    ({"deterministic": 1}, "true or false"),
    ({"timeout": 0}, "seconds above 0"), ({"timeout": float("nan")}, "seconds above 0"), ({"obs": 1}, "a message is"),
    ({"num_envs": 7}, "with the state of 7"), ({"reset": 1}, "a message is"),
])  # fmt: skip
def test_a_wrong_field_is_one_line(cart: Served, fields: dict[str, Any], message: str) -> None:
    with RemoteAgent(cart.address) as remote:
        assert remote._connection is not None
        remote._connection.send(pack({"observation": ONE, **fields}))
        answer = remote._connection.recv(5)
        assert isinstance(answer, str) and message in answer and "\n" not in answer
        assert remote.act(ONE).shape == (1,)


@pytest.mark.parametrize("count", [0, -1, 5, 2**40, "1", True, 1.0, None])
def test_a_reset_to_a_wrong_number_is_one_line(cart: Served, count: Any) -> None:
    with RemoteAgent(cart.address) as remote:
        with pytest.raises(RemoteError, match=r"the server has 1 to 4|are free"):
            remote._ask({"reset": count})
        assert remote.act(ONE).shape == (1,)


def test_garbage_ends_its_own_connection_alone(cart: Served) -> None:
    agent = local(CART, 1, 0.7)
    with RemoteAgent(cart.address) as remote:
        limit = frame_limit(cart.server._agent, 4)
        for t, garbage in enumerate([b"\xc1", b"garbage", "text", b"", bytes(limit + 1), b"\x91" * 1000]):
            with connect(cart.address, compression=None, proxy=None) as other:
                assert isinstance(unpack(bytes(other.recv(5))), dict)
                other.send(garbage)
                with pytest.raises(ConnectionClosed):
                    other.recv(5)
            seen = np.full((1, 4), 0.1 * t, np.float32)
            assert remote.act(seen, START & (t == 0)) == agent.act(seen, START & (t == 0))
    settled(cart)


def settled(running: Served) -> None:
    """Wait until all environments are free again."""
    for _ in range(200):
        if len(running.server.slots.free) == running.server.slots.count:
            return
        time.sleep(0.05)
    raise AssertionError(running.server.slots.free)


def test_a_client_that_leaves_frees_its_environments_and_its_episode_is_not_passed_on(cart: Served) -> None:
    settled(cart)
    first = RemoteAgent(cart.address)
    first.reset(3)
    for _ in range(5):
        first.act(np.ones((3, 4), np.float32))
    assert len(cart.server.slots.free) == 1
    assert first._connection is not None
    first._connection.socket.close()  # without a word
    settled(cart)
    with RemoteAgent(cart.address) as second:
        fresh = local(CART, 1, 0.7)
        for t in range(5):  # even if it never says that an episode begins
            assert second.act(0.1 * ONE + t, START & False) == fresh.act(0.1 * ONE + t, START & (t == 0))


def test_when_all_are_taken_a_client_is_refused_and_no_other_loses_any(cart: Served) -> None:
    settled(cart)
    with RemoteAgent(cart.address) as first, RemoteAgent(cart.address) as second:
        first.reset(3)
        with pytest.raises(RemoteError, match="all 4 environments are taken: try again later"):
            RemoteAgent(cart.address)
        with pytest.raises(RemoteError, match="1 environments, and 0 of 4 are free"):
            second.reset(2)
        assert second.act(ONE).shape == (1,)
        first.reset(1)
        second.reset(3)
        assert second.act(np.zeros((3, 4), np.float32)).shape == (3,)


def test_without_a_reset_the_first_batch_says_how_many_there_are(cart: Served) -> None:
    settled(cart)
    with RemoteAgent(cart.address) as remote:
        assert remote.act(np.zeros((2, 4), np.float32)).shape == (2,)
        assert remote.num_envs == 2


def test_another_version_is_named_by_both_sides(cart: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SUBPROTOCOL", "gato-agent.v9")
    with pytest.raises(RemoteError, match=r"protocol gato-agent.v1, the client gato-agent.v9: install one version"):
        RemoteAgent(cart.address)
    monkeypatch.undo()
    monkeypatch.setattr(client_module, "PROTOCOL", 9)
    with pytest.raises(RemoteError, match="a server of another version"):
        RemoteAgent(cart.address)


@pytest.mark.parametrize(("address", "message"), [
    ("ws://127.0.0.1:1", "no server answers"), ("http://127.0.0.1:1", "is no policy server"),
    ("robot", "is no policy server"),
])  # fmt: skip
def test_a_wrong_address_is_named(address: str, message: str) -> None:
    with pytest.raises(RemoteError, match=message):
        RemoteAgent(address, timeout=2)


def test_a_browsers_page_is_refused_and_health_is_reported(cart: Served) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(cart.address, origin="https://example.org", proxy=None)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(cart.address.replace("ws", "http") + "/healthz", timeout=5) as answer:
        assert answer.read() == b"OK\n"
    with pytest.raises(urllib.error.HTTPError):
        opener.open(cart.address.replace("ws", "http"), timeout=5)


def test_a_token_is_needed_beyond_loopback_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "sixteen letters."
    with pytest.raises(UsageError, match="clients need a token: set GATO_AGENT_TOKEN"):
        ServerOptions("0.0.0.0").check()
    with pytest.raises(UsageError, match="the token has 5 characters: use 16 or more"):
        ServerOptions(token="short").check()
    assert all(map(is_loopback, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "192.168.0.4", "robot", "localhost.example.org")))
    agent = SlotAgent(checkpoint_of(CART), CART)
    with served(agent, host="0.0.0.0", token=token) as running:
        for wrong in ("", "sixteen letters,", token + "x", "\xe9"):
            with pytest.raises(RemoteError, match="wrong token: set GATO_AGENT_TOKEN"):
                RemoteAgent(running.address, token=wrong)
        monkeypatch.setenv("GATO_AGENT_TOKEN", token)
        with RemoteAgent(running.address) as remote:
            assert remote.act(ONE).shape == (1,)


class Slow:
    """An agent's `answer` that waits for a permit."""

    def __init__(self) -> None:
        self.permit, self.batches = threading.Event(), list[int]()

    def __call__(self, requests: Sequence[StepRequest]) -> list[Columns | GatoError]:
        assert self.permit.wait(10)
        self.batches.append(len(requests))
        return [{"": request.envs} for request in requests]


def test_requests_that_wait_become_one_step_and_late_ones_are_refused() -> None:
    """A step that has begun is answered, however late; one that has not is not taken."""
    slow = Slow()

    async def run() -> tuple[list[Any], int]:
        batcher = Batcher(slow)
        running = asyncio.create_task(batcher.run())

        def submit(i: int, timeout: float) -> "asyncio.Task[Answer]":
            return asyncio.create_task(batcher.submit(StepRequest(np.array([i]), {}, START), timeout))

        first = submit(0, 0.05)
        await asyncio.sleep(0.02)
        others = [submit(1, 60), submit(2, 0.05), submit(3, 60), submit(4, 60)]
        await asyncio.sleep(0.2)
        others[3].cancel()  # its client is gone
        slow.permit.set()
        done = await asyncio.gather(first, *others, return_exceptions=True)
        running.cancel()
        return done, batcher.steps

    done, count = asyncio.run(run())
    assert [type(each).__name__ for each in done] == ["Answer", "Answer", "GatoError", "Answer", "CancelledError"]
    assert "deadline: no step within 0.05 s, and none was taken" in str(done[2])
    assert (count, slow.batches) == (2, [1, 2])
    assert done[0].batch == 1 and done[1].batch == 2 and done[1].wait_ms > 100


def test_a_server_that_ends_refuses_what_it_has_not_answered() -> None:
    """Those of the step that runs, those that wait, and those that come later."""
    slow = Slow()

    async def run() -> list[Any]:
        batcher = Batcher(slow)
        running = asyncio.create_task(batcher.run())
        requests = [StepRequest(np.array([i]), {}, START) for i in range(3)]
        waiting = [asyncio.create_task(batcher.submit(requests[0], 60))]
        await asyncio.sleep(0.05)
        waiting.append(asyncio.create_task(batcher.submit(requests[1], 60)))
        await asyncio.sleep(0.05)
        running.cancel()
        slow.permit.set()
        await asyncio.wait([running])
        waiting.append(asyncio.create_task(batcher.submit(requests[2], 60)))
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert [str(each) for each in asyncio.run(run())] == ["the server is stopping"] * 3


def test_a_client_gives_up_at_its_deadline_and_begins_anew() -> None:
    task = CART
    agent = SlotAgent(checkpoint_of(task), task)
    with served(agent) as running:
        answer, permit = running.server.batcher._answer, threading.Event()
        with RemoteAgent(running.address, timeout=2) as remote:
            remote.act(ONE)
            running.server.batcher._seconds = 1.0  # so that the next step is taken beside the event loop
            running.server.batcher._answer = lambda requests: permit.wait(10) and answer(requests)
            with pytest.raises(RemoteError, match=r"no answer within 2 s; the connection is closed: call reset"):
                remote.act(ONE)
            with pytest.raises(RemoteError, match=r"the connection is closed: call reset"):
                remote.act(ONE)
            permit.set()
            settled(running)
            remote.reset(2)
            assert remote.act(np.zeros((2, 4), np.float32)).shape == (2,)


def test_an_interrupted_wait_takes_no_late_answer_for_the_next(cart: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(timeout: float | None = None) -> bytes:
        raise KeyboardInterrupt

    with RemoteAgent(cart.address) as remote:
        remote.act(ONE)
        monkeypatch.setattr(remote._connection, "recv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remote.act(ONE)
        with pytest.raises(RemoteError, match=r"the connection is closed: call reset"):
            remote.act(ONE)
        remote.reset()
        assert remote.act(ONE).shape == (1,)


@pytest.mark.parametrize("fields", [{"start": "now"}, {"masks": 1}, {"deterministic": 1}, {"timeout": 0}], ids=str)
def test_a_wrong_field_of_another_batch_forgets_no_episode(cart: Served, fields: dict[str, Any]) -> None:
    settled(cart)
    agent = local(CART, 1, 0.7)
    with RemoteAgent(cart.address) as remote:
        remote.reset(1)
        for t in range(4):
            seen = np.full((1, 4), 0.1 * t, np.float32)
            assert remote.act(seen, START & (t == 0)) == agent.act(seen, START & (t == 0))
            with pytest.raises(RemoteError):
                remote._ask({"observation": np.zeros((2, 4), np.float32), "predict": True, **fields})
        assert remote.num_envs == 1


def test_a_client_counts_the_deadlines_that_it_misses(cart: Served) -> None:
    with RemoteAgent(cart.address) as remote:
        actor = RealTimeActor(remote, 1e6)
        actor.reset(1)
        for t in range(5):
            actor.act(ONE, START & (t == 0))
        assert (actor.actions, actor.missed) == (5, 4)
        assert actor.worst > 0


def test_a_server_that_ends_tells_its_clients() -> None:
    with served(SlotAgent(checkpoint_of(CART), CART)) as running:
        remote = RemoteAgent(running.address)
        remote.act(ONE)
    with pytest.raises(RemoteError, match=r"the server closed the connection \(.*\): call reset\(\) to begin anew"):
        remote.act(ONE)
    with pytest.raises(RemoteError, match="no server answers"):
        remote.reset()


def test_the_client_plays_an_environment_by_itself(cart: Served, capsys: pytest.CaptureFixture[str]) -> None:
    client_module.main([cart.address, "--episodes", "2", "--seed", "7", "--hz", "1e6"])
    first, second, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"seed 7: return (\d+)\.0 in \1 steps", first) and second.startswith("seed 8: ")
    assert re.fullmatch(r"\d+ of \d+ deadlines missed at 1e\+06 Hz, slowest step \d+\.\d ms", last)
    with pytest.raises(SystemExit) as stop:
        client_module.main(["ws://127.0.0.1:1", "--timeout", "2"])
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith("gato_agent.client: error: ws://127.0.0.1:1: no server answers")


def test_the_documented_request_is_answered(cart: Served) -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    frame = bytes.fromhex(text.partition("<!-- request -->")[2].partition("<!-- end -->")[0])
    with RemoteAgent(cart.address) as remote:
        assert remote._connection is not None
        remote._connection.send(frame)
        answer = unpack(bytes(remote._connection.recv(5)))
        assert answer["action"].shape == (1,) and answer["num_envs"] == 1
        assert answer["server_timing"].keys() == {"infer_ms", "wait_ms", "batch"}
