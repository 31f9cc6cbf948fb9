"""Every kind of file, damaged and forged in many ways, reads as a one-line error or as it was written.

Damage is of bytes, and must be noticed in files that have a digest. Forgery is of values in the JSON that a file holds,
with a digest that fits: it may be read, but then it can be used too. Memory and time are bounded meanwhile.
"""

import copy
import io
import json
import os
import pickle
import resource
import signal
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gato_agent.checkpoints.checkpoint import Checkpoint, read, to_bytes
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.dataset.load import load_data
from gato_agent.dataset.token_file import Data
from gato_agent.envs.errors import GatoError
from gato_agent.envs.io.strict_json import checked_digest, with_digest
from gato_agent.envs.spaces.batch_of_one import batch_of_one, only_one
from gato_agent.envs.spaces.flatten import space_to_json, stack
from gato_agent.evaluation import aggregate as summary
from gato_agent.evaluation.report.html_page import page
from gato_agent.evaluation.report.markdown import markdown
from gato_agent.evaluation.report.video_folder import existing_videos
from gato_agent.evaluation.results import Results, to_csv
from gato_agent.evaluation.task_score import Outcome, score
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.rollouts.experts.forms import Spaces
from gato_agent.rollouts.experts.sb3 import train as training
from gato_agent.rollouts.experts.sb3 import vecnormalize as normalize
from gato_agent.rollouts.experts.sb3.policy import Policy, build
from gato_agent.rollouts.experts.sb3.zip_model import read_zip
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.filter import EpisodeFilter, filtered_indices, read_filter, write_filter
from gato_agent.rollouts.storage.shard import joined, open_arrays, pieces_of
from gato_agent.tokens.text_tokenizer import TextTokenizer
from gato_agent.training import run_folder
from gato_agent.training.fsdp import saved

SECONDS, MEMORY = 60, 2**32  # for one file, far above what any takes
SPACE = Dict({"grid": MultiDiscrete([3, 4]), "image": Box(0, 255, (20, 18, 3), np.uint8), "say": Text(8, charset="ab"),
              "x": Box(-2.0, np.inf, (3,))})  # fmt: skip
ACTION = Dict({"move": Box(-1, 1, (2,)), "turn": Discrete(3, start=1)})
CONFIG = GatoConfig(1, 1, 64, 128, 64, 300, (32, 64), values_per_token=4, action_decoder=True)


@dataclass(frozen=True)
class Kind:
    """A kind of file with functions that write one in a folder and read it as a comparable value."""

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    exact: bool = True  # whether all damage is to be noticed: our own files have digests
    forge: Callable[[Any, bytes], bytes] | None = None  # other JSON in the same file
    json: Callable[[bytes], Any] = json.loads


def episodes() -> list[Episode]:
    rng = np.random.default_rng(0)
    made = []
    for seed in range(4):
        SPACE.seed(seed)
        ACTION.seed(seed)
        seen, acted, labelled = (
            [space.sample() for _ in range(n)] for space, n in ((SPACE, 6), (ACTION, 5), (ACTION, 5))
        )
        labels = stack(ACTION, labelled) if seed % 2 else None
        made.append(Episode(stack(SPACE, seen), stack(ACTION, acted), labels, rng.normal(size=5), seed != 1, seed == 1,
                            (None, True, False)[seed % 3], seed, {"noise": 0.1 * seed}))  # fmt: skip
    return made


def store(folder: Path) -> Path:
    header = {
        "env_id": "Thing-v0", "env_kwargs": {"size": 5}, "noise": True, "versions": {"gymnasium": "1"},
        "observation_space": space_to_json(SPACE), "action_space": space_to_json(ACTION),
        "expert": {"kind": "sb3", "source": "model.zip", "sha256": "a" * 64},
    }  # fmt: skip
    with EpisodeStore.create(folder, header) as made:
        made.commit([each.encode() for each in episodes()])
        write_filter(made, EpisodeFilter(success_only=True))
        return made.folder


def all_of(path: Path) -> Any:
    """All data of a folder of episodes, read as training and `data show` read it."""
    opened = EpisodeStore(path if path.is_dir() else path.parent)
    read_filter(opened.folder)
    TrainedTask(opened.env_id, opened.observation_space, opened.action_space).tokenizer(CONFIG, None)
    indices = opened.indices()
    stats = [opened.stats(index) for index in indices]
    return (
        opened.header,
        opened.kind,
        filtered_indices(opened),
        stats,
        [opened.fitting(index).to_bytes() for index in indices],
    )


def single(folder: Path) -> Path:
    path = folder / "00000000.safetensors"
    path.write_bytes(episodes()[1].to_bytes())
    return path


def forged_episode(about: Any, data: bytes) -> bytes:
    """Shard with another description and a matching checksum."""
    from gato_agent.rollouts.storage import shard

    arrays, before = open_arrays(data)
    about = {key: value for key, value in about.items() if key != "checksum"} if isinstance(about, dict) else about
    if isinstance(about, dict):
        try:
            about["checksum"] = shard._table_checksum(arrays, about)
        except ValueError:
            about["checksum"] = before["checksum"]
    return b"".join(pieces_of(arrays, about))


def checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    text = TextTokenizer.train(["abab", "baba aa"] * 5, 280)
    task = TrainedTask("Toy-v0", SPACE, ACTION, 4, {"size": 5})
    return Checkpoint(Gato(CONFIG), {task.id: task}, text, {"step": 3}).save(folder)


def load_checkpoint(path: Path) -> Any:
    """Bytes of a checkpoint whose agents have acted twice, by the compiled decoder."""
    loaded = Checkpoint.load(path)
    for task in loaded.tasks.values():
        agent = Agent(loaded, task, num_threads=1)
        task.observation_space.seed(0)
        for _ in range(2):
            action = agent.act(batch_of_one(task.observation_space)(task.observation_space.sample()))
            assert only_one(task.action_space)(action) in task.action_space
    return loaded.to_bytes()


def about_of(data: bytes) -> Any:
    start = int.from_bytes(data[:8], "little") + 8
    return json.loads(json.loads(data[8:start])["__metadata__"]["gato"])


def forged_checkpoint(about: Any, data: bytes) -> bytes:
    folder = Path(mkdtemp())
    (folder / "x").write_bytes(data)
    tensors, _ = read(folder / "x")
    rest = {key: value for key, value in about.items() if key not in ("sha256", "format")}
    return to_bytes(tensors, rest)


def results(folder: Path) -> Path:
    names = ("CartPole-v1", "Meta-World/reach-v3", "Mine-v0")
    played = [Outcome(seed, 10.0 * seed, seed + 1, seed > 0) for seed in range(3)]
    settings = {"episodes": 3, "seed": 7, "temperature": 0.5, "precision": "float32", "env_kwargs": {}}
    found = Results("someone", None, "ab" * 32, settings, {"numpy": "1"}, {name: score(name, played) for name in names})
    found.failed = {"Taxi-v4": "it broke"}
    found.save(folder / "results.json", {"summary": summary.to_json(found)})
    return folder / "results.json"


def read_results(path: Path) -> Any:
    found = Results.load(path)
    samples = [each.sample() for each in found.scores()]
    page([found], [(found.actor, [each for each in samples if each is not None])], {}, {})
    return found.to_json(), summary.to_json(found), to_csv(found), markdown(found)


RUN = {"steps": 5, "seed": 0, "size": "nano", "rate": 1e-3}


def run_config(folder: Path) -> Path:
    run_folder.write(folder, RUN)
    return folder / "config.json"


def read_config(path: Path) -> Any:
    before = run_folder.prepare(path.parent, RUN, resume=True, may_change=("steps",))
    return {key: before.get(key) for key in RUN}


def manifest(folder: Path) -> Path:
    (folder / "videos").mkdir()
    (folder / "videos" / "CartPole-v1.mp4").touch()
    found = Results("someone", None, "ab", {})
    of = json.dumps([found.sha256, found.settings], sort_keys=True)
    entry = {"file": "CartPole-v1.mp4", "poster": "CartPole-v1.jpg", "return": 1.0, "steps": 3, "seconds": 2.0}
    (folder / "videos" / "videos.json").write_bytes(with_digest({"of": of, "films": {"CartPole-v1": entry}}, indent=1))
    return folder / "videos" / "videos.json"


def about_training(folder: Path) -> Path:
    (folder / "training.json").write_bytes(with_digest({"seed": 0, "steps": 5, "env_kwargs": {}}, sort_keys=True))
    return folder / "training.json"


def pointer(folder: Path) -> Path:
    (folder / "state.json").write_bytes(with_digest({"step": 5, "folder": "state-5"}))
    return folder / "state.json"


@cache
def zipped() -> bytes:
    buffer = io.BytesIO()
    PPO(
        "MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs={"net_arch": {"pi": [8, 4], "vf": [4]}}
    ).save(buffer)
    return buffer.getvalue()


def zip_of(folder: Path) -> Path:
    (folder / "model.zip").write_bytes(zipped())
    return folder / "model.zip"


def acts(policy: Policy) -> bytes:
    spaces = Box(-1, 1, (4,)), Discrete(2)
    build(policy, Spaces(*spaces), {"source": "x", "kind": "sb3", "sha256": ""}).act(
        np.zeros((1, 4), np.float32), np.ones(1, bool)
    )
    return policy.to_bytes()


def forged_zip(data: Any, before: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(before)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, json.dumps(data) if name == "data" else old.read(name))
    return buffer.getvalue()


def expert(folder: Path) -> Path:
    stats = normalize.Normalizer({"": np.arange(4.0)}, {"": np.ones(4)}, 10.0, 1e-8)
    policy = Policy(**{**vars(read_zip(zip_of(folder))), "normalize": stats, "notes": {"algo": "ppo"}})
    (folder / "expert.safetensors").write_bytes(policy.to_bytes())
    return folder / "expert.safetensors"


def forged_expert(about: Any, data: bytes) -> bytes:
    arrays, _ = open_arrays(data)
    return b"".join(pieces_of(arrays, {key: value for key, value in about.items() if key != "digest"}))


def statistics(folder: Path) -> Path:
    stats = normalize.Normalizer(
        {"a": np.arange(4.0), "b": np.ones((2, 2))}, {"a": np.ones(4), "b": np.ones((2, 2))}, 5.0, 1e-4
    )
    (folder / "obs_norm.npz").write_bytes(normalize.write_npz(stats))
    return folder / "obs_norm.npz"


def pickled(folder: Path) -> Path:
    envs = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    (folder / "vecnormalize.pkl").write_bytes(pickle.dumps(envs))
    return folder / "vecnormalize.pkl"


def read_statistics(path: Path) -> Any:
    found = (normalize.read_npz if path.suffix == ".npz" else normalize.read_pickle)(path)
    return found and found.to_json()


def text_model(folder: Path) -> Path:
    (folder / "text.model").write_bytes(TextTokenizer.train(["abab", "baba aa"] * 5, 280).model)
    return folder / "text.model"


def read_text(path: Path) -> Any:
    text = TextTokenizer.from_file(path)
    ids = text.encode("abba \u2581 \u00e9")
    assert all(0 <= each < text.size for each in ids)
    return text.decode(ids)


def tokens(folder: Path) -> Path:
    data = load_data(store(folder / "data"), CONFIG, None)
    data.mapped(folder / "tokens.safetensors", CONFIG)
    (folder / "mark").write_text(data.source_digest)
    return folder / "tokens.safetensors"


def read_tokens(path: Path) -> Any:
    data = Data.load(path, (path.parent / "mark").read_text(), CONFIG)
    if data is None:
        raise GatoError("made again")
    return data.sha256


def to_json(data: Any, _: bytes) -> bytes:
    return with_digest({key: value for key, value in data.items() if key != "digest"})


KINDS = {
    "shard": Kind(lambda f: next(store(f).glob("*.group.*")), all_of, forge=forged_episode, json=about_of),
    "episode": Kind(single, lambda path: Episode.from_bytes(path.read_bytes()).to_bytes()),
    "task.json": Kind(lambda f: store(f) / "task.json", all_of, forge=to_json),
    "keep.json": Kind(lambda f: store(f) / "keep.json", all_of, forge=to_json),
    "checkpoint": Kind(checkpoint, load_checkpoint, forge=forged_checkpoint, json=about_of),
    "results": Kind(results, read_results, forge=to_json),
    "config.json": Kind(run_config, read_config, forge=to_json),
    "videos.json": Kind(manifest, lambda p: existing_videos(Results("someone", None, "ab", {}), p.parent.parent)),
    "training.json": Kind(about_training, lambda p: training._check_same(p.parent, {"seed": 0, "steps": 5,
                          "env_kwargs": {}}), forge=to_json),
    "state.json": Kind(pointer, lambda p: saved(p.parent), forge=to_json),
    "zip": Kind(zip_of, lambda p: acts(read_zip(p)), forge=forged_zip,
                json=lambda data: json.loads(zipfile.ZipFile(io.BytesIO(data)).read("data"))),
    "expert": Kind(expert, lambda p: acts(Policy.from_file(p)), forge=forged_expert, json=about_of),
    "obs_norm.npz": Kind(statistics, read_statistics),
    "vecnormalize.pkl": Kind(pickled, read_statistics, exact=False),
    "text.model": Kind(text_model, read_text, exact=False),
    "tokens": Kind(tokens, read_tokens),
}  # fmt: skip
FORGED = [name for name, kind in KINDS.items() if kind.forge]


@pytest.fixture(autouse=True)
def bounded(tmp_path: Path) -> Iterator[None]:
    """Limit memory and time of each test."""

    def too_long(*_: object) -> None:
        raise TimeoutError("a file was read for too long")

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, too_long)
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):  # the sanitizer's shadow memory is larger
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(kind: Kind, path: Path) -> Any:
    """Value of a file, or the error of reading it."""
    signal.alarm(SECONDS)
    try:
        return kind.read(path)
    except GatoError as error:
        if not str(error) or "\n" in str(error):
            raise
        return error
    finally:
        signal.alarm(0)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with one to three changes of bits, bytes, blocks or length."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if not out:
            break
        at, length = int(rng.integers(len(out))), int(rng.integers(1, 64))
        match rng.integers(9):
            case 0 | 1 | 2:
                out[at] ^= 1 << int(rng.integers(8))
            case 3 | 4:
                out[at] = rng.integers(256)
            case 5:
                del out[at : at + length]
            case 6:
                out[at:at] = rng.bytes(length)
            case 7:
                out[at : at + length] = bytes(min(length, len(out) - at))
            case 8:
                del out[at:]
    return bytes(out)


def check_damage(name: str, folder: Path, seeds: range) -> None:
    kind = KINDS[name]
    path = kind.make(folder)
    data = path.read_bytes()
    whole = outcome(kind, path)
    assert not isinstance(whole, GatoError), whole
    for seed in seeds:
        changed = damaged(data, np.random.default_rng(seed))
        path.write_bytes(changed)
        found = outcome(kind, path)
        if kind.exact and not isinstance(found, GatoError):
            assert found == whole, f"{name}: wrong data were read after damage {seed}"


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_named_or_changes_nothing(name: str, tmp_path: Path) -> None:
    check_damage(name, tmp_path, range(60))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_much_damage_is_named_or_changes_nothing(name: str, tmp_path: Path) -> None:
    check_damage(name, tmp_path, range(1000, 2000))


HOSTILE = [
    None, True, -1, 0, 1, 7, 10**9, 10**18, 2**63, -(2**63), 10**300, 1e308, -0.5, 1.5, "", "x", "../..", "os:system",
    "\ud800", "9" * 5000, [], [[]], {}, {"a": 1}, [1e9], [10**9], [-1, 2], [0.5] * 1000, ["x"] * 3, {"kind": "Box"},
    [None],
]  # fmt: skip


def forged(value: Any, rng: np.random.Generator) -> Any:
    """JSON value with a random change at one path."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        places += [(here, key) for key in keys]
        waiting += [here[key] for key in keys if isinstance(here[key], dict | list)]
    container, key = places[rng.integers(len(places))]
    choice = HOSTILE[rng.integers(len(HOSTILE))]
    if rng.random() < 0.1 and isinstance(container, dict):
        del container[key]
    else:
        container[key] = copy.deepcopy(choice)
    return value


def check_forgery(name: str, folder: Path, seeds: range) -> None:
    kind = KINDS[name]
    path = kind.make(folder)
    data = path.read_bytes()
    value = kind.json(data)
    for seed in seeds:
        other = forged(value, np.random.default_rng(seed))
        assert kind.forge is not None
        path.write_bytes(kind.forge(other, data))
        outcome(kind, path)  # any exception but a named error fails


@pytest.mark.parametrize("name", FORGED)
def test_forgery_is_named_or_can_be_used(name: str, tmp_path: Path) -> None:
    check_forgery(name, tmp_path, range(60))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGED)
def test_much_forgery_is_named_or_can_be_used(name: str, tmp_path: Path) -> None:
    check_forgery(name, tmp_path, range(1000, 2000))


def test_what_is_packed_again_is_the_same() -> None:
    assert joined([each.encode() for each in episodes()]) == joined([each.encode() for each in episodes()])
    assert checked_digest(with_digest({"a": 1})) == {"a": 1}
