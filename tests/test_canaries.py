"""Canaries in every text of every file: no name in a file is imported, called, connected to, opened or written.

Python's audit events show the actions of a process in any library.
"""

import copy
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.hub import read_scores
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.commands.report import ReportConfig, report
from gato_agent.commands.train import fine_tuning
from gato_agent.dataset.load import load_data
from gato_agent.envs.errors import GatoError
from gato_agent.envs.make import make_vector
from gato_agent.envs.spaces.flatten import space_to_json
from gato_agent.envs.tasks.packages import SUITES
from gato_agent.envs.tasks.suite_file import read_suite
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.task_score import Outcome, score
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.rollouts.collection.episode_worker import idle_heartbeat
from gato_agent.rollouts.experts.load import SHIPPED, load_expert
from gato_agent.rollouts.experts.sb3.policy import Policy
from gato_agent.rollouts.storage.data_command import Compact, Show, Verify
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.exchange_command import Export
from gato_agent.rollouts.storage.filter import read_filter
from gato_agent.tokens.prompt import Prompt
from gato_agent.training import run_folder
from gato_agent.training.loggers import run_id
from tests.helpers.hub_server import serving
from tests.helpers.paths import ROOT

NAME = "canary_module"
SPACES = gym.spaces.Box(-1, 1, (4,), np.float32), gym.spaces.Discrete(2)
PROGRAMS = re.compile(
    r"(.*/)?(ffmpeg[^/]*|c\+\+|g\+\+|gcc|ld|ldconfig|objdump|uname)"
)  # videos, the engine, its libraries
FILES = ("open", "os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link")
SEEN: list[str] | None = None  # what is watched; None to watch nothing
OUTSIDE = ""


def watch(event: str, args: tuple[Any, ...]) -> None:
    """Record audit events that no file may cause."""
    if SEEN is None:
        return
    if event == "import" and str(args[0]).startswith(NAME):
        SEEN.append(f"import {args[0]}")
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        SEEN.append(f"{event} {args[-1]}")
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
        SEEN.extend([] if PROGRAMS.fullmatch(str(args[0])) else [f"{event} {args[0]}"])
    elif event in FILES and isinstance(args[0], str | bytes | Path):
        path = Path(str(args[0], errors="replace") if isinstance(args[0], bytes) else args[0])
        if "outside" in path.parts:
            SEEN.append(f"{event} {path}")


@pytest.fixture(scope="module", autouse=True)
def _watching() -> None:
    sys.addaudithook(watch)  # for good: there is no way to take it back


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collect the recorded events of a block."""
    global SEEN
    SEEN = seen = []
    try:
        yield seen
    finally:
        SEEN = None


@dataclass
class Here:
    """Current folder of a test, next to a folder that no file may reach."""

    folder: Path
    outside: Path
    canaries: Sequence[str] = ()
    tried: int = 0
    bare: list[str] = field(default_factory=list)

    def try_all(self, data: Any, use: Callable[[Any], object]) -> None:
        """Put every canary into every text of `data`, and use it; nothing may happen but success or a named error."""
        for keys in texts(data):
            for canary in self.canaries:
                with watched() as seen, suppress(GatoError, OSError):
                    use(with_text(data, keys, canary))
                assert not seen, (keys, canary)
                self.tried += 1
        assert self.tried
        assert NAME not in sys.modules and not (self.outside / "sung").exists()
        assert sorted(path.name for path in self.outside.iterdir()) == [f"{NAME}.py", "x"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    folder, outside = tmp_path / "here", tmp_path / "outside"
    folder.mkdir()
    (outside / "x").mkdir(parents=True)
    (outside / f"{NAME}.py").write_text(f"import pathlib; pathlib.Path({str(outside / 'sung')!r}).touch()")
    monkeypatch.syspath_prepend(outside)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("gato_agent.evaluation.report.video_folder.play_in_processes", played_here)
    monkeypatch.setattr("gato_agent.commands.report.plots", lambda *_: {})
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    values = (
        f"{NAME}:Env-v0",
        f"{NAME}.Env",
        f"hub:{NAME}/x",
        "../outside/x",
        str(outside / "x"),
        "https://127.0.0.1:9/x",
    )
    return Here(folder, outside, values)


def played_here(jobs: Sequence[Any], seeds: Sequence[Sequence[int]], *_: Any, players: Any, **__: Any) -> Iterator[Any]:
    """Replacement of the worker processes, which `watch` does not reach."""
    for number, each in enumerate(seeds):
        yield list(players(jobs).play(number, each, idle_heartbeat()))


def texts(data: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of every text and null in JSON data, also within JSON texts."""
    if isinstance(data, str) and data.startswith("{"):
        with suppress(ValueError):
            yield from texts(json.loads(data), (*keys, json))
    if isinstance(data, str) or data is None:
        yield keys
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from texts(value, (*keys, key))


def with_text(data: Any, keys: tuple[Any, ...], text: str) -> Any:
    """Copy of JSON data with another text at one path."""
    if not keys:
        return text
    if keys[0] is json:
        return json.dumps(with_text(json.loads(data), keys[1:], text))
    data = copy.copy(data)
    data[keys[0]] = with_text(data[keys[0]], keys[1:], text)
    return data


def results(**settings: Any) -> dict[str, Any]:
    how = {"expert": None, "episodes": 1, "seed": 0, "temperature": 0.0, "precision": "float32", "prompt": None,
           "env_kwargs": {"sutton_barto_reward": "word"}, "demo": None}  # fmt: skip
    found = Results("someone", None, None, {**how, **settings}, {"numpy": "2"})
    found.tasks["CartPole-v1"] = score("CartPole-v1", [Outcome(0, 9.0, 9, None)])
    found.failed, found.not_evaluated = {"A-v0": "it broke"}, {"B-v0": "missing"}
    return json.loads(json.dumps(found.to_json()))


@pytest.mark.parametrize("settings", [{"expert": "random"}, pytest.param({}, marks=pytest.mark.slow)])
def test_results_that_are_reported(here: Here, settings: dict[str, Any]) -> None:
    def use(data: Any) -> None:
        Path("results.json").write_text(json.dumps(data))
        with suppress(GatoError):
            read_scores(Path("results.json"))
        report(ReportConfig((Path("results.json"),), Path("page"), workers=1))

    here.try_all(results(**settings), use)


def test_results_that_are_completed(here: Here) -> None:
    config = EvaluateConfig(env=("CartPole-v1",), expert="random", episodes=1, out=Path("results"), report=Path("page"))
    evaluate(config)
    path = Path("results", "results.json")
    whole = path.read_text()

    def use(data: Any) -> None:
        path.write_text(json.dumps(data))
        evaluate(config)

    here.try_all(json.loads(whole), use)


def test_the_list_of_videos(here: Here) -> None:
    Path("results.json").write_text(json.dumps(results(expert="random", env_kwargs={})))
    config = ReportConfig((Path("results.json"),), Path("page"), workers=1)
    report(config)
    path = Path("page", "videos", "videos.json")

    def use(data: Any) -> None:
        path.write_text(json.dumps(data))
        try:
            report(replace(config, videos=False))
        finally:
            assert "outside" not in Path("page", "index.html").read_text()

    here.try_all(json.loads(path.read_text()), use)


def small(**more: Any) -> Checkpoint:
    config = GatoConfig(1, 1, 32, 64, 64, 260, (32, 64), local_positions=64, values_per_token=64, action_decoder=True)
    with closing(make_vector("CartPole-v1", 1)) as envs:
        spaces = envs.single_observation_space, envs.single_action_space
    task = TrainedTask("CartPole-v1", *spaces, env_kwargs={"sutton_barto_reward": ["word"]}, prompt=Prompt())
    return Checkpoint(Gato(config), {task.id: task}, None, {"config": {"size": "nano", "device": "cpu"}}, **more)


def test_checkpoints(here: Here) -> None:
    from gato_agent.checkpoints.checkpoint import read, to_bytes
    from gato_agent.commands.info import _checkpoint

    tensors, about = read(small().save(Path("run")))

    def use(data: Any) -> None:
        Path("run", "model.safetensors").write_bytes(to_bytes(tensors, data))
        _checkpoint(Console(quiet=True), "run")
        fine_tuning("run")
        for task in Checkpoint.load("run").tasks:
            with suppress(GatoError), make_agent_and_envs(Checkpoint.load("run"), task, 1) as (agent, envs):
                agent.act(envs.reset()[0])
        evaluate(EvaluateConfig(checkpoint="run", episodes=1, workers=0))

    here.try_all({key: value for key, value in about.items() if key != "format"}, use)


HEADER = {
    "env_id": "CartPole-v1", "env_kwargs": {"word": "word"}, "observation_space": space_to_json(SPACES[0]),
    "action_space": space_to_json(SPACES[1]), "expert": {"kind": "sb3", "source": "model.zip", "sha256": "a" * 64},
    "learner": {"kind": "dagger", "sha256": "b" * 64, "beta": 0.5}, "noise": False, "versions": {"gymnasium": "1.4.0"},
}  # fmt: skip


def episode(provenance: Any) -> Episode:
    observations = {"": np.zeros((3, 4), np.float32)}
    return Episode(observations, {"": np.zeros(2, np.int64)}, None, np.ones(2), True, False, None, 0, provenance)


def use_data(folder: Path) -> None:
    """Run every reader of episodes."""
    config, console = small().model.config, Console(quiet=True)
    for verb in (Show(folder), Verify(folder), Compact(folder), Export(folder)):
        with suppress(GatoError):
            verb.run(console)
    with suppress(GatoError):
        load_data(folder, config, None)
    with make_agent_and_envs(small(), "CartPole-v1", 1, env_kwargs={"x_threshold": 2}, demo=folder):
        pass


def test_folders_of_episodes(here: Here) -> None:
    pytest.importorskip("minari")
    with EpisodeStore.create(Path("data"), HEADER) as store:
        store.commit([episode({"env_id": "CartPole-v1"}).encode()])

    def use(data: Any) -> None:
        Path("data", "CartPole-v1", "task.json").write_text(json.dumps(data))
        use_data(Path("data"))

    here.try_all({"format": 1, **HEADER}, use)


def test_provenance_of_episodes(here: Here) -> None:
    provenance = {key: HEADER[key] for key in ("env_id", "env_kwargs", "expert", "versions", "learner")}

    def use(data: Any) -> None:
        for path in Path("data", "CartPole-v1").glob("*.safetensors"):
            path.unlink()
        with EpisodeStore.create(Path("data"), HEADER) as store:
            store.commit([episode(data).encode()])
        use_data(Path("data"))

    here.try_all(provenance, use)


def test_minari_data_sets(here: Here) -> None:
    pytest.importorskip("minari")
    from gato_agent.rollouts.storage.minari.importing import import_

    with EpisodeStore.create(Path("data"), HEADER) as store:
        store.commit([episode({}).encode()])
    Export(Path("data")).run(Console(quiet=True))
    (path,) = Path("minari").rglob("data/metadata.json")
    spec = json.loads(gym.spec("CartPole-v1").to_json()) | {"additional_wrappers": [{"name": "x", "entry_point": "y"}]}
    more = {"env_spec": json.dumps(spec), "eval_env_spec": json.dumps(spec), "requirements": ["numpy"],
            "combined_datasets": ["a/b-v0"]}  # fmt: skip

    def use(data: Any) -> None:
        path.write_text(json.dumps(data))
        import_(str(path.parent), Path(f"back{here.tried}")).close()

    here.try_all(json.loads(path.read_text()) | more, use)


def test_zips_of_stable_baselines3(here: Here) -> None:
    import zipfile

    from stable_baselines3 import PPO

    PPO("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs={"net_arch": [8]}).save("whole.zip")
    with zipfile.ZipFile("whole.zip") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    data = json.loads(parts["data"])
    kept = {key: data[key] for key in ("policy_class", "policy_kwargs", "observation_space", "lr_schedule", "use_sde")}

    def use(changed: Any) -> None:
        with zipfile.ZipFile("model.zip", "w") as file:
            for name, content in (parts | {"data": json.dumps(data | changed).encode()}).items():
                file.writestr(name, content)
        load_expert("model.zip", "CartPole-v1", gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2))

    here.try_all(kept, use)


def test_files_of_experts(here: Here) -> None:
    policy = Policy.from_file(SHIPPED / "CartPole-v1.safetensors")
    header = {"policy": policy.policy, "kwargs": {**policy.kwargs, "features_extractor_class": None},
              "notes": policy.notes, "wrappers": {"time_feature": {"horizon": "x"}}}  # fmt: skip

    def use(data: Any) -> None:
        changed = replace(policy, **{key: value for key, value in data.items() if isinstance(value, type(header[key]))})
        Path("x.safetensors").write_bytes(changed.to_bytes())
        load_expert("x.safetensors", "CartPole-v1", gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2))

    here.try_all(header, use)


def test_suites(here: Here) -> None:
    text = (SUITES / "classic.toml").read_text()

    def use(data: Any) -> None:
        Path("other.toml").write_text(text.replace(f'"{data[0]}"', json.dumps(data[1]), 1))
        for task in read_suite(Path("other.toml")):
            make_vector(task, 1).close()

    strings = sorted({value for _, value in strings_of(tomllib.loads(text))})
    for string in strings:
        for canary in here.canaries:
            with watched() as seen, suppress(GatoError):
                use((string, canary))
            assert not seen, (string, canary)


def strings_of(data: Any) -> Iterator[tuple[str, str]]:
    """Paths of all keys and texts of a table."""
    for key, value in data.items() if isinstance(data, dict) else ():
        yield "key", key
        yield from strings_of(value)
    if isinstance(data, str):
        yield "text", data
    for value in data if isinstance(data, list) else ():
        yield from strings_of(value)


def test_run_folders(here: Here) -> None:
    from gato_agent.training.fsdp import saved

    def use(data: Any) -> None:
        Path("config.json").write_text(json.dumps(data["config"]))
        with suppress(GatoError):
            run_folder.prepare(Path(), {"size": "nano", "device": "cpu"}, resume=True)
        Path("run-id").write_text(data["id"])
        with suppress(GatoError):
            assert re.fullmatch(r"[\w.-]+", run_id(Path()))
        Path("state.json").write_text(json.dumps({"step": 1, "folder": data["folder"]}))
        with suppress(GatoError):
            assert saved(Path()) == (1, Path("state-1"))
        Path("log.jsonl").write_text(json.dumps(data))
        run_folder.Log(Path("log.jsonl"), 1).close()
        Path("keep.json").write_text(json.dumps({"keep_above": data["keep"], "success_only": data["keep"]}))
        read_filter(Path())

    config = {"size": "nano", "device": "cpu"}
    here.try_all({"config": config, "id": "run-12", "folder": "state-1", "keep": "x"}, use)
    for folder in ("..", ".", "", "state-1/..", "/", "state-", "a"):
        Path("state.json").write_text(json.dumps({"step": 1, "folder": folder}))
        with pytest.raises(GatoError, match=r"state\.json has the name .*which no file may name"):
            saved(Path())


def test_what_is_watched_would_be_seen(here: Here) -> None:
    """The recorder itself is tested."""
    import importlib
    import socket
    import subprocess

    with watched() as seen:
        importlib.import_module(NAME)
        (here.outside / "sung").unlink()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), 1)
        subprocess.run([sys.executable, "-c", ""], check=True)
    del sys.modules[NAME]
    assert {line.split()[0] for line in seen} >= {"open", "os.remove", "socket.connect", "subprocess.Popen"}


def test_a_fresh_process_reports_on_somebody_elses_results(tmp_path: Path) -> None:
    """All canaries at once, with real worker and encoder processes and a local hub."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{NAME}.py").write_text(f"import pathlib; pathlib.Path({str(outside / 'sung')!r}).touch()")
    data = results(expert=f"{NAME}:f")
    checkpoint = results() | {"checkpoint": "hub:someone/else"}
    module = results(expert="random", env_kwargs={})
    module["tasks"][0]["task"] = f"{NAME}:Env-v0"
    with serving(tmp_path / "hub") as hub:
        for number, each in enumerate((data, checkpoint, module)):
            file = tmp_path / f"{number}.json"
            file.write_text(json.dumps(each))
            words = ("-m", "gato_agent", "report", file, "--out", tmp_path / f"page{number}")
            done = hub.run(tmp_path / "cache", *words, PYTHONPATH=f"{outside}:{ROOT}")
            assert "which no file may name" in done.stdout + done.stderr
            assert (tmp_path / f"page{number}" / "index.html").exists() == (number < 2)
        assert hub.requests == []
    assert [path.name for path in outside.iterdir()] == [f"{NAME}.py"]
