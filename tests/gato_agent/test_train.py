"""Training: the loss is aimed, learning works, and a killed run ends bit-identical to an undisturbed one."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gato_agent.agent import Agent
from gato_agent.checkpoint import Checkpoint, TrainedTask
from gato_agent.config import GatoConfig
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.model import Gato
from gato_agent.rollouts.collect import CollectConfig, collect
from gato_agent.train import TrainConfig, Trainer, action_loss, gaussian, mixture, train
from gato_agent.windows import Batch, Targets

SHORT = dataclasses.replace(GatoConfig.nano(), context=64, layers=2)


def random_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    low, bins = SHORT.vocabulary.discrete, SHORT.vocabulary.continuous
    tokens = torch.randint(0, SHORT.vocabulary.size, (2, 128), generator=generator)
    position = torch.randperm(256, generator=generator)
    return Batch(
        tokens, torch.full_like(tokens, -1), torch.zeros_like(tokens), None, None,
        [
            Targets(bins, bins + 1024, position[:20], bins + torch.randint(0, 1024, (20,), generator=generator)),
            Targets(low, low + 3, position[20:50], low + torch.randint(0, 3, (30,), generator=generator)),
        ],
    )  # fmt: skip


def test_loss_is_the_mean_over_legal_ids_at_action_positions() -> None:
    torch.manual_seed(0)
    model, batch = Gato(SHORT).eval(), random_batch()
    logits = model.logits(model(batch.tokens, segment=batch.segment)).flatten(0, 1)
    total = 0.0
    for low, high, position, ids in batch.targets:
        total += F.cross_entropy(logits[position, low:high], ids - low, reduction="sum").item()
    assert action_loss(model, batch).item() == pytest.approx(total / 50, rel=1e-5)


def test_smoothing_spreads_targets_over_neighbouring_bins() -> None:
    kernel = gaussian(1024, 4.0, torch.device("cpu"))
    torch.testing.assert_close(kernel.sum(1), torch.ones(1024))
    assert kernel[500].argmax() == 500
    spread = (kernel[500] * (torch.arange(1024) - 500.0) ** 2).sum().sqrt().item()
    assert spread == pytest.approx(4.0, rel=1e-3)
    assert kernel[0].argmax() == 0  # and nothing wraps around
    assert kernel[0, 900:].max() == 0


def test_smoothing_touches_continuous_targets_only() -> None:
    torch.manual_seed(0)
    model, batch = Gato(SHORT).eval(), random_batch()
    continuous, discrete = batch.targets
    only = dataclasses.replace(batch, targets=[discrete])
    assert action_loss(model, only, 4.0) == action_loss(model, only, 0.0)
    only = dataclasses.replace(batch, targets=[continuous])
    assert action_loss(model, only, 4.0) != action_loss(model, only, 0.0)


def test_schedule() -> None:
    config = TrainConfig(size="nano", steps=1000, warmup=100, learning_rate=1.0)
    assert config.schedule(0) == pytest.approx(0.01)
    assert config.schedule(99) == pytest.approx(1.0)
    assert config.schedule(100) == pytest.approx(1.0)
    assert config.schedule(550) == pytest.approx(0.55)
    assert config.schedule(1000) == pytest.approx(0.1)


def test_saved_state_continues_exactly(tmp_path: Path) -> None:
    config = TrainConfig(steps=6, warmup=2)
    size = dataclasses.replace(SHORT, stochastic_depth=0.2)

    def fresh() -> Trainer:
        torch.manual_seed(0)
        return Trainer(config, Gato(size))

    whole = fresh()
    losses = [whole.update(random_batch(i)) for i in range(6)]
    first = fresh()
    for i in range(3):
        first.update(random_batch(i))
    (tmp_path / "state").write_bytes(first.to_bytes())
    second = fresh()
    second.load(tmp_path / "state")
    assert [second.update(random_batch(i)) for i in range(3, 6)] == losses[3:]
    assert second.to_bytes() == whole.to_bytes()


def test_a_loss_that_is_not_finite_stops_training() -> None:
    trainer = Trainer(TrainConfig(), Gato(SHORT))
    with torch.no_grad():
        trainer.model.norm.weight[0] = float("nan")
    before = trainer.model.blocks[0].attention.qkv.weight.clone()
    with pytest.raises(GatoError, match=r"step 0: the loss is nan.*learning-rate"):
        trainer.update(random_batch())
    assert torch.equal(before, trainer.model.blocks[0].attention.qkv.weight)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    collect(CollectConfig(env=("CartPole-v1",), episodes=4, noise=True, out=folder))
    return folder


def test_a_run_is_refused_where_one_is_and_resumed_only_as_it_was(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=data, out=tmp_path / "run", steps=1, batch_size=1, num_threads=1)
    train(config)
    with pytest.raises(UsageError, match=r"--resume"):
        train(config)
    with pytest.raises(UsageError, match=r"batch_size was 1 and is 2"):
        train(dataclasses.replace(config, batch_size=2, resume=True))
    with pytest.raises(UsageError, match=r"collect"):
        train(dataclasses.replace(config, data=tmp_path / "nothing", out=tmp_path / "other"))


def test_the_mixture_is_checked() -> None:
    assert mixture('{"b": 3}', ["a", "b"]) == [1.0, 3.0]
    for wrong in ('{"c": 1}', '{"a": 0}', '{"a": -1}', '{"a": "x"}', "[1]", "x", '{"a": NaN}'):
        with pytest.raises(UsageError, match=r"--mixture"):
            mixture(wrong, ["a", "b"])


def kill_until_done(command: list[str], moments: random.Random, kills: int) -> int:
    """Run a command that resumes, killing it at random moments; returns how many kills hit a running process."""
    hits = 0
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            process.wait(moments.uniform(2.0, 9.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            hits += 1
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return hits


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_training_ends_bit_identical(data: Path, tmp_path: Path, kills: int) -> None:
    steps = 12 if kills == 1 else 120

    def command(out: str) -> list[str]:
        arguments = f"train --data {data} --out {tmp_path / out} --steps {steps} --batch-size 1 --save-every 2".split()
        return [sys.executable, "-m", "gato_agent", *arguments, "--num-threads", "1", "--resume"]

    subprocess.run(command("undisturbed"), check=True, stdout=subprocess.DEVNULL)
    hits = kill_until_done(command("killed"), random.Random(0), kills)
    assert kills == 1 or hits >= 10
    for name in ("model.safetensors", "state.safetensors"):
        assert (tmp_path / "undisturbed" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    logs = [[json.loads(x) for x in (tmp_path / out / "log.jsonl").open()] for out in ("undisturbed", "killed")]
    assert [e["loss"] for e in logs[0]] == [e["loss"] for e in logs[1]]
    assert [e["step"] for e in logs[1]] == list(range(1, steps + 1))


def test_an_identity_task_is_learned(tmp_path: Path) -> None:
    """Observation equals the right action: a few seconds of training solve it, through the whole path."""
    from gato_agent.rollouts.episode import Episode
    from gato_agent.windows import TokenizedTask, Windows

    space = gym.spaces.Dict({"d": gym.spaces.Discrete(4), "x": gym.spaces.Box(-1, 1, (1,))})
    rng = np.random.default_rng(0)
    episodes = []
    for seed in range(60):
        values = {"d": rng.integers(0, 4, 21), "x": rng.uniform(-1, 1, (21, 1)).astype(np.float32)}
        actions = {k: v[:-1] for k, v in values.items()}
        episodes.append(Episode(
            observations=values, actions=actions, labels=None, rewards=np.ones(20), terminated=True, truncated=False,
            success=None, seed=seed, provenance={},
        ))  # fmt: skip
    task = TrainedTask("identity", space, space)
    tokenized = TokenizedTask("identity", task.tokenizer(SHORT, None), SHORT.vocabulary.separator, episodes)
    torch.manual_seed(0)
    small = dataclasses.replace(SHORT, width=64, heads=2, feed_forward=256)
    trainer = Trainer(TrainConfig(steps=250, warmup=20, learning_rate=3e-3), Gato(small))
    windows = Windows([tokenized], window=128, batch_size=4)
    while trainer.step < 250:
        trainer.update(windows.batch(trainer.step))
    agent = Agent(Checkpoint(trainer.model.eval(), {"identity": task}), task)
    observations = {"d": rng.integers(0, 4, 16), "x": rng.uniform(-1, 1, (16, 1)).astype(np.float32)}
    agent.reset(16)
    actions = agent.act(observations)
    assert (actions["d"] == observations["d"]).mean() > 0.9
    assert np.abs(actions["x"] - observations["x"]).mean() < 0.1
