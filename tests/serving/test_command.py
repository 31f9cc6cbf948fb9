"""The server as a command, in a process of its own: its lines, its end, and clients that are killed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gato_agent.client import RemoteAgent, RemoteError
from tests.helpers.paths import ROOT
from tests.helpers.serving import serving

ONE = np.zeros((1, 4), np.float32)
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "gymnasium", "stable_baselines3", "sb3_contrib", "scipy", "rich", "tyro", "safetensors"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from gato_agent.client import RemoteAgent
from gato_agent.inference.real_time import RealTimeActor
print(*sorted(name for name in sys.modules if name.startswith("gato_agent.")))
"""
CLIENT = """
import sys, numpy, time
from gato_agent.client import RemoteAgent
agent, rng = RemoteAgent(sys.argv[1]), numpy.random.default_rng(int(sys.argv[2]))
agent.reset(int(rng.integers(1, 1 + int(sys.argv[3]))))
print("ready", flush=True)
while True:
    agent.act(rng.normal(size=(agent.num_envs, 4)).astype("f4"))
"""


def output(*command: str, code: int = 0, **environment: str) -> str:
    surroundings = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def test_a_client_imports_nothing_heavy() -> None:
    ours = set(output(sys.executable, "-c", BLOCKED).split())
    assert ours <= {
        "gato_agent.client", "gato_agent.serving", "gato_agent.serving.wire", "gato_agent.inference",
        "gato_agent.inference.real_time", "gato_agent.envs", "gato_agent.envs.errors", "gato_agent.envs.io",
        "gato_agent.envs.io.former_modules", "gato_agent.envs.io.lazy", "gato_agent.envs.predict_state",
    }  # fmt: skip


def test_nothing_else_imports_the_server() -> None:
    program = "import sys, gato_agent.cli, gato_agent.api; print(*({'websockets', 'msgpack'} & set(sys.modules)))"
    assert output(sys.executable, "-c", program).split() == []


@pytest.mark.parametrize("package", ["websockets", "msgpack"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; from gato_agent.cli import main; main(sys.argv[1:])"
    message = output(sys.executable, "-c", program, "serve", "--env", "CartPole-v1", code=2)
    assert "pip install 'gato-agent[serve]'" in message and message.count("\n") == 1


def test_it_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    with serving(tmp_path, "--n-envs", "2", "--device", "cpu") as (address, process):
        remote = RemoteAgent(address)
        assert remote.act(ONE).shape == (1,)
        port = address.rpartition(":")[2]
        command = [sys.executable, "-m", "gato_agent", "serve", "--env", "CartPole-v1", "--port", port]
        message = output(*command, code=2)
        assert f"port {port} of 127.0.0.1 is in use: give another --port, or 0 for a free one" in message
        process.send_signal(signal.SIGINT)
        lines, _ = process.communicate(timeout=30)
        assert process.returncode == 130
    assert lines.splitlines()[-1] == "served 1 clients: 1 actions in 1 steps"
    errors = (tmp_path / "errors").read_text()
    assert errors == (
        "gato-agent: interrupted; the episodes of its clients are forgotten, and the same command serves again\n"
    )


@pytest.mark.parametrize(("options", "message"), [
    (("--host", "0.0.0.0"), "clients need a token: set GATO_AGENT_TOKEN"),
    (("--host", "0.0.0.0", "--token", "short"), "the token has 5 characters"),
    (("--host", "192.0.2.1", "--token", "sixteen letters."), "cannot listen on 192.0.2.1 port 8000"),
    pytest.param(("--host", "no.such.host.invalid", "--token", "sixteen letters."),
                 "cannot listen on no.such.host.invalid", marks=pytest.mark.slow),
    (("--port", "65536"), "--port 65536: use 0 to 65535"),
    (("--n-envs", "0"), "--n-envs 0: at least 1"),
    (("--timeout", "0"), "--timeout 0.0: at least 0.001"),
])  # fmt: skip
def test_wrong_options_are_one_line(options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from gato_agent.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["serve", "--env", "CartPole-v1", "--device", "cpu", *options])
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in errors and errors.count("\n") == 1


def test_a_task_that_the_checkpoint_does_not_know_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    from gato_agent.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["serve", "--env", "Robot-v0", "--device", "cpu"])
    assert stop.value.code == 2
    assert "do not know Robot-v0" in capsys.readouterr().err


def memory(process: int) -> tuple[int, int]:
    """Resident memory in kB, and open files, of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found[1]), len(list(Path(f"/proc/{process}/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_clients_killed_at_random_leave_nothing_behind(tmp_path: Path) -> None:
    """10,000 requests; every other client is killed, or stopped for a time, or sends half a frame and vanishes."""
    count, rng = 10_000, np.random.default_rng(0)
    with serving(tmp_path, "--n-envs", "16", "--timeout", "3", "--device", "cpu") as (address, process):
        steady, answered = RemoteAgent(address), 0
        host, port = "127.0.0.1", int(address.rpartition(":")[2])
        clients: list[subprocess.Popen[str]] = []
        before: tuple[int, int] | None = None
        try:
            while answered < count:
                for _ in range(200):
                    steady.act(rng.normal(size=(1, 4)).astype(np.float32))
                answered += 200
                half = socket.create_connection((host, port))
                half.send(b"GET / HTTP/1.1\r\nUpgrade: webs")
                half.close()
                while len(clients) > 2:
                    victim = clients.pop(int(rng.integers(len(clients))))
                    victim.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
                    victim.communicate()
                seed = str(rng.integers(1000))
                clients.append(subprocess.Popen([sys.executable, "-c", CLIENT, address, seed, "3"], cwd=ROOT,
                                                stdout=subprocess.PIPE, text=True))  # fmt: skip
                assert clients[-1].stdout is not None and clients[-1].stdout.readline() == "ready\n"
                if answered == count // 5:
                    before = memory(process.pid)
        finally:
            for each in clients:
                each.kill()
                each.communicate()
        steady.reset(1)
        for _ in range(100):
            steady.act(ONE)
        assert before is not None
        after = memory(process.pid)
        assert after[1] <= before[1]  # fewer clients are there
        assert after[0] < before[0] + 20_000
        steady.close()
        for _ in range(100):  # every environment is free again
            try:
                with RemoteAgent(address) as last:
                    last.reset(16)
                    assert last.act(np.zeros((16, 4), np.float32)).shape == (16,)
                    break
            except RemoteError:
                time.sleep(0.1)
        else:
            raise AssertionError("some environments are not free")
        assert process.poll() is None
    assert (tmp_path / "errors").read_text() == ""


@pytest.mark.slow
def test_a_client_that_stands_still_is_dropped(tmp_path: Path) -> None:
    with serving(tmp_path, "--n-envs", "1", "--timeout", "1", "--device", "cpu") as (address, _):
        client = subprocess.Popen([sys.executable, "-c", CLIENT, address, "0", "1"], cwd=ROOT, stdout=subprocess.PIPE)
        assert client.stdout is not None and client.stdout.readline() == b"ready\n"
        with pytest.raises(RemoteError, match="all 1 environments are taken"):
            RemoteAgent(address)
        client.send_signal(signal.SIGSTOP)
        for _ in range(100):
            try:
                RemoteAgent(address).close()
                break
            except RemoteError:
                time.sleep(0.1)
        else:
            raise AssertionError("it still has its environment")
        client.kill()
        client.communicate()


@pytest.mark.slow
def test_sixty_four_clients_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, "--n-envs", "64", "--device", "cpu") as (address, _):
        remotes = [RemoteAgent(address) for _ in range(64)]

        def play(remote: RemoteAgent) -> float:
            return max(remote.timing["batch"] for _ in range(20) if remote.act(ONE) is not None)

        with ThreadPoolExecutor(64) as pool:
            assert max(pool.map(play, remotes)) > 8
        for remote in remotes:
            remote.close()
