"""Training: the loss is aimed, learning works, and a killed run ends bit-identical to an undisturbed one."""

import copy
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Text
from torch import nn

from gato_agent.checkpoints.checkpoint import Checkpoint, read
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.commands.train import TrainConfig, defaults, fine_tuning, train
from gato_agent.dataset.batches import Batch, BatchSampler
from gato_agent.dataset.load import load_data, mixture
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.tokens.space_tokenizer import PAD
from gato_agent.tokens.text_tokenizer import TextTokenizer
from gato_agent.training import loss as loss_module
from gato_agent.training.config import Precision
from gato_agent.training.loss import action_loss, gaussian
from gato_agent.training.optimizer import Muon
from gato_agent.training.trainer import Trainer
from tests.helpers.harsh import harsh
from tests.helpers.teaching import Part, hidden_states, losses_of, random_ids, targets_of
from tests.helpers.testing_env import TestingEnv

SHORT = dataclasses.replace(GatoConfig.nano(), context=64, layers=2)
STREAM = dataclasses.replace(SHORT, action_decoder=False)
shapes = pytest.mark.parametrize("shape", [SHORT, STREAM], ids=["decoder", "stream"])


@pytest.fixture
def every(monkeypatch: pytest.MonkeyPatch) -> None:
    """The conditional part learns from all timesteps, so that its losses are exact in training, too."""
    monkeypatch.setattr(loss_module, "CONDITIONAL_EVERY", 1, raising=False)


class FixedWindows(BatchSampler):
    """Always the same batch."""

    def __init__(self, batch: Batch) -> None:
        self.fixed = batch

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        return self.fixed


def random_parts(seed: int = 0) -> list[Part]:
    """Twenty actions of a bin, a choice and a bin, and thirty of one choice; in both windows of 128 tokens."""
    generator = torch.Generator().manual_seed(seed)
    choices, bins = SHORT.vocabulary.discrete, SHORT.vocabulary.continuous
    kinds = [(bins, bins + 1024), (choices, choices + 3), (bins, bins + 1024)], [(choices, choices + 3)]
    position = 4 * torch.randperm(64, generator=generator)
    return [
        Part(at, random_ids(len(at), legal, generator), legal)
        for at, legal in zip(position[:50].split([20, 30]), kinds, strict=True)
    ]


def batch_of(parts: list[Part], *, seed: int = 0, shape: GatoConfig = SHORT, families: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed + 1000)
    tokens = torch.randint(0, SHORT.vocabulary.size, (2, 128), generator=generator)
    targets = targets_of(parts, action_decoder=shape.action_decoder, families=families)
    return Batch(tokens, torch.full_like(tokens, -1), torch.zeros_like(tokens), None, None, targets)


def random_batch(seed: int = 0, shape: GatoConfig = SHORT) -> Batch:
    return batch_of(random_parts(seed), seed=seed, shape=shape)


@shapes
@torch.no_grad()
def test_loss_is_the_mean_over_legal_ids_at_action_positions(shape: GatoConfig) -> None:
    model, parts = harsh(shape), random_parts()
    batch = batch_of(parts, shape=shape)
    hidden = hidden_states(model, batch)
    learned = [losses_of(model, hidden, part) for part in parts]
    marginal, chained = (sum(part[i].sum().item() for part in learned) for i in (0, 1))
    found = action_loss(model, batch)
    assert found.families.tolist() == [pytest.approx(chained, rel=1e-5)]
    assert found.marginal.item() == pytest.approx(marginal, rel=1e-5)
    assert found.weights.tolist() == [90]
    # Of an action's first token nothing comes before: the chain adds one loss for each of the others.
    conditional = chained - sum(part.marginal[:, 0].sum().item() for part in learned)
    expected = marginal + (conditional if shape.action_decoder else 0)
    assert found.total.item() == pytest.approx(expected, rel=1e-5)
    assert (chained != marginal) == shape.action_decoder


@shapes
def test_targets_count_by_their_weights(shape: GatoConfig, every: None) -> None:
    model, parts = harsh(shape), random_parts()
    alone = [action_loss(model, batch_of([part], shape=shape)).families[0] for part in parts]
    weighed = [part._replace(weight=weight) for part, weight in zip(parts, (0.25, 2.0), strict=True)]
    batch = batch_of(weighed, shape=shape)
    found = action_loss(model, batch)
    assert found.families[0].item() == pytest.approx((0.25 * alone[0] + 2 * alone[1]).item(), rel=1e-5)
    assert found.weights.tolist() == [0.25 * 60 + 2 * 30] == [batch.targets.weighed]
    metrics = Trainer(TrainConfig(bin_label_smoothing=0.0), model).update(batch)
    assert metrics.loss == pytest.approx(found.families[0].item() / 75, rel=1e-5)
    assert metrics.marginal == pytest.approx(found.marginal.item() / 75, rel=1e-5)


@shapes
@pytest.mark.parametrize("smooth", [0.0, 4.0])
def test_loss_and_its_gradients_are_those_of_cross_entropy(
    shape: GatoConfig, smooth: float, every: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK", 7 * 1024)  # 20 targets in three pieces
    model, parts = harsh(shape).train(), random_parts()
    batch = batch_of(parts, shape=shape)
    learned = [losses_of(model, hidden_states(model, batch), part, smooth) for part in parts]
    expected = sum((part.marginal.sum() for part in learned), torch.zeros(()))
    if shape.action_decoder:
        expected = expected + sum(part.conditional[:, 1:].sum() for part in learned)
    found = action_loss(model, batch, smooth).total
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    gradients = torch.autograd.grad(found, list(model.parameters()), allow_unused=True)
    assert any(gradient is not None for gradient in wanted)
    for mine, its in zip(gradients, wanted, strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=2e-5)


@shapes
def test_losses_of_families_are_told_apart(shape: GatoConfig, every: None) -> None:
    model, parts = harsh(shape), random_parts()
    of_other = [part._replace(family=2 * i) for i, part in enumerate(parts)]
    batch = batch_of(of_other, shape=shape, families=4)
    found = action_loss(model, batch)
    assert found.weights.tolist() == [60, 0, 30, 0]
    for part, family in zip(parts, (0, 2), strict=True):
        alone = action_loss(model, batch_of([part], shape=shape)).families
        assert found.families[family].item() == pytest.approx(alone.item(), rel=1e-5)
    assert found.families[1] == found.families[3] == 0
    metrics = Trainer(TrainConfig(bin_label_smoothing=0.0), model).update(batch)
    sums = found.families
    assert metrics.families == (
        pytest.approx(sums[0].item() / 60, rel=1e-5), None, pytest.approx(sums[2].item() / 30, rel=1e-5), None
    )  # fmt: skip
    assert metrics.loss == pytest.approx(sums.sum().item() / 90, rel=1e-5)


def test_smoothing_spreads_targets_over_neighbouring_bins() -> None:
    kernel = gaussian(1024, 4.0, torch.device("cpu"))
    torch.testing.assert_close(kernel.sum(1), torch.ones(1024))
    assert kernel[500].argmax() == 500
    spread = (kernel[500] * (torch.arange(1024) - 500.0) ** 2).sum().sqrt().item()
    assert spread == pytest.approx(4.0, rel=1e-3)
    assert kernel[0].argmax() == 0  # and nothing wraps around
    assert kernel[0, 900:].max() == 0


@torch.no_grad()
def test_smoothing_touches_continuous_targets_only() -> None:
    model, (_, discrete) = harsh(SHORT), random_parts()
    bins = random_parts()[0]
    continuous = Part(bins.position, bins.ids[:, ::2], bins.legal[::2])
    for part, touched in ((discrete, False), (continuous, True)):
        smoothed, sharp = (action_loss(model, batch_of([part]), smooth) for smooth in (4.0, 0.0))
        for a, b in ((smoothed.families, sharp.families), (smoothed.marginal, sharp.marginal)):
            assert torch.equal(a, b) != touched


def test_schedule() -> None:
    config = TrainConfig(size="nano", steps=1000, warmup=100, learning_rate=1.0)
    assert config.rate(0) == pytest.approx(0.01)
    assert config.rate(99) == pytest.approx(1.0)
    assert config.rate(100) == pytest.approx(1.0)
    assert config.rate(550) == pytest.approx(0.55)
    assert config.rate(1000) == pytest.approx(0.1)


def test_a_constant_rate_decays_in_the_end() -> None:
    config = TrainConfig(size="nano", steps=1000, warmup=100, learning_rate=1.0, schedule="wsd", decay_steps=200)
    assert [config.rate(step) for step in (0, 99, 500, 800, 900, 999)] == pytest.approx([0.01, 1, 1, 1, 0.5, 0.005])
    constant = dataclasses.replace(config, decay_steps=0)
    assert constant.rate(999) == 1.0
    config.check_past({"steps": 800, "decay_steps": 0}, 800)  # a longer one goes on where a constant one ended
    for before, step in (({"steps": 900, "decay_steps": 200}, 800), ({"steps": 500, "decay_steps": 100}, 450)):
        with pytest.raises(UsageError, match=r"rates of its first \d+ steps would have been others"):
            config.check_past(before, step)
    with pytest.raises(UsageError, match="--decay-steps 200: for --schedule wsd"):
        TrainConfig(decay_steps=200).check()
    with pytest.raises(UsageError, match="--holdout"):
        TrainConfig(holdout=0.9).check()


@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16"}, {"optimizer": "muon", "ema": 0.9}])
def test_saved_state_continues_exactly(options: dict[str, Any], tmp_path: Path) -> None:
    config = TrainConfig(steps=6, warmup=2, **options)
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


def test_muon_is_for_the_matrices_of_the_blocks() -> None:
    torch.manual_seed(0)
    trainer = Trainer(TrainConfig(optimizer="muon", warmup=0, learning_rate=1e-3, weight_decay=0.0), Gato(SHORT))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.update(random_batch())
    for name, parameter in trainer.model.named_parameters():
        known, matrix = trainer.optimizer.state[parameter].keys(), name.startswith("blocks") and parameter.ndim == 2
        assert known <= ({"momentum_buffer"} if matrix else {"exp_avg", "exp_avg_sq", "step"})
        if matrix:  # the larger directions move equally far, and all by about as much as in AdamW's steps
            change = (parameter - before[name]).detach()
            directions = torch.linalg.svdvals(change)
            assert directions[len(directions) // 4] > 0.6 * directions[0]
            assert 1e-4 < change.square().mean().sqrt() < 3e-4


@pytest.mark.parametrize("shape", [(48, 96), (96, 48)])
def test_muon_is_pytorchs_with_exact_products(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    peer = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    muon = Muon([ours], 0.1)
    muon.param_groups[0]["lr"] = 1e-2
    for seed in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient, gradient.clone()
        muon.step(), peer.step()
    moved = (theirs - 1).abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * moved)  # its products are in bfloat16


def test_parts_of_a_step_add_up_to_it(every: None) -> None:
    losses = []
    whole = random_batch()
    halves = []
    for i in (0, 1):
        here = [part.position // 128 == i for part in random_parts()]
        parts = [
            part._replace(position=part.position[own] - 128 * i, ids=part.ids[own])
            for part, own in zip(random_parts(), here, strict=True)
        ]
        one = [tensor[i : i + 1] for tensor in (whole.tokens, whole.local, whole.segment)]
        halves.append(Batch(*one, None, None, targets_of(parts, action_decoder=True)))
    for parts in ([whole], halves):
        torch.manual_seed(0)
        trainer = Trainer(TrainConfig(warmup=2), Gato(SHORT))
        losses.append([trainer.update(*parts)[:2] for _ in range(4)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_averaged_weights_follow_and_are_what_is_kept(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = Trainer(TrainConfig(ema=0.5, warmup=0), Gato(SHORT))
    assert trainer.mean is trainer.result is not None
    expected = trainer.model.norm.bias.detach().clone()
    for step in range(3):
        trainer.update(random_batch())
        share = 1 - min(0.5, (1 + step) / (10 + step))
        expected += share * (trainer.model.norm.bias.detach() - expected)
    torch.testing.assert_close(trainer.mean.norm.bias.detach(), expected)
    config = TrainConfig(data=data, out=tmp_path, steps=2, batch_size=2, accumulate=2, ema=0.9, num_threads=1)
    kept = Checkpoint.load(train(config)).model
    state = read(tmp_path / "state.safetensors")[0]
    assert torch.equal(kept.norm.bias, state["mean.norm.bias"])
    assert not torch.equal(kept.norm.bias, state["model.norm.bias"])
    with pytest.raises(UsageError, match=r"--accumulate 3 parts"):
        train(dataclasses.replace(config, out=tmp_path / "other", accumulate=3))


def test_bfloat16_takes_nearly_the_steps_of_float32() -> None:
    losses = {}
    for precision in get_args(Precision):
        torch.manual_seed(0)
        trainer = Trainer(TrainConfig(steps=8, warmup=2, precision=precision), Gato(SHORT))
        losses[precision] = [trainer.update(random_batch(0))[0] for _ in range(8)]
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
        assert losses[precision][-1] < losses[precision][0] - 0.1
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.01)


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
    collect(CollectConfig(env=("CartPole-v1",), episodes=4, noise=True, workers=0, out=folder))
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


def test_a_run_may_begin_with_the_weights_of_another(data: Path, tmp_path: Path) -> None:
    first = TrainConfig(data=data, out=tmp_path / "first", steps=1, batch_size=1, num_threads=1)
    weights = Checkpoint.load(train(first)).model.state_dict()
    # A step this small changes nothing that float32 could show beside a weight.
    second = dataclasses.replace(first, out=tmp_path / "second", init=str(tmp_path / "first"), learning_rate=1e-30)
    for name, tensor in Checkpoint.load(train(second)).model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    longer = dataclasses.replace(second, out=tmp_path / "longer", shape='{"context": 600}')
    assert Checkpoint.load(train(longer)).model.config == dataclasses.replace(GatoConfig.nano(), context=600)
    with pytest.raises(UsageError, match=r"is of another size: .* or give --size nano --shape {}"):
        train(dataclasses.replace(second, out=tmp_path / "third", size="tiny"))


def test_fine_tuning_has_defaults_of_its_own() -> None:
    own = fine_tuning("shipped", batch_size=2)
    assert (own.size, own.init, own.batch_size, own.steps) == ("tiny", "shipped", 2, 200)
    assert own.rate(0) == own.rate(own.steps - 1) == 6e-4
    paper = TrainConfig.fine_tuning("large", "there")
    assert paper.rate(0) == paper.rate(paper.steps - 1) == 1e-5
    assert (paper.batch_size, paper.steps, paper.weight_decay, paper.dropout) == (64, 10_000, 0.0, 0.1)
    assert defaults(["--init=shipped", "--steps", "3"]) == defaults(["--init", "shipped"]) == fine_tuning("shipped")
    assert defaults(["--data", "--init"]) == defaults([]) == TrainConfig()
    other = dataclasses.replace(GatoConfig.tiny(), context=96, layers=2)
    assert other.described() == ("tiny", '{"layers": 2, "context": 96}')
    assert GatoConfig.named("tiny").reshaped(other.described()[1]) == other
    with pytest.raises(UsageError, match="no checkpoint at nowhere"):
        defaults(["--init", "nowhere"])


def test_fine_tuning_learns_one_task_and_leaves_the_others(tmp_path: Path) -> None:
    collect(CollectConfig(env=("FrozenLake-v1",), expert="random", episodes=8, workers=0, out=tmp_path / "data"))
    given = {"data": tmp_path / "data", "steps": 20, "batch_size": 1, "num_threads": 1, "device": "cpu"}
    train(fine_tuning("shipped", **given, out=tmp_path / "run", learning_rate=1e-3))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").open()]
    assert np.mean(losses[-5:]) < losses[0] - 0.1
    assert Checkpoint.load(tmp_path / "run").tasks.keys() == {"FrozenLake-v1"}


def test_dropout_is_of_training_alone() -> None:
    torch.manual_seed(0)
    model, batch = Gato(SHORT), random_batch()
    plain = [Trainer(TrainConfig(), model).validate(FixedWindows(batch)) for _ in range(2)]
    trainer = Trainer(TrainConfig(dropout=0.5), model)
    assert trainer.validate(FixedWindows(batch)) == plain[0] == plain[1]
    first = copy.deepcopy(trainer).update(batch).loss
    assert copy.deepcopy(trainer).update(batch).loss == first
    assert first != Trainer(TrainConfig(), model).update(batch).loss
    for wrong in (-0.1, 1.0):
        with pytest.raises(UsageError, match="--dropout"):
            TrainConfig(dropout=wrong).check()


def test_the_mixture_is_checked() -> None:
    assert mixture('{"b": 3}', ["a", "b"]) == [1.0, 3.0]
    assert mixture('{"classic": 2, "CartPole-v1": 5}', ["CartPole-v1", "Acrobot-v1", "a"]) == [5.0, 2.0, 1.0]
    for wrong in ('{"c": 1}', '{"a": 0}', '{"a": -1}', '{"a": "x"}', "[1]", "x", '{"a": NaN}'):
        with pytest.raises(UsageError, match=r"--mixture"):
            mixture(wrong, ["a", "b"])


def test_a_run_goes_on_only_with_the_data_it_began_with(tmp_path: Path) -> None:
    more = CollectConfig(env=("CartPole-v1",), expert="random", episodes=2, workers=0, out=tmp_path / "data")
    collect(more)
    config = TrainConfig(data=more.out, out=tmp_path / "run", steps=1, batch_size=1, num_threads=1)
    train(config)
    collect(dataclasses.replace(more, episodes=3))
    with pytest.raises(UsageError, match=r"data_sha256 was \w+ and is \w+"):
        train(dataclasses.replace(config, resume=True))


def test_a_command_with_the_wrong_data_can_simply_be_corrected(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=data, out=tmp_path / "run", steps=1, batch_size=1, num_threads=1)
    for wrong in ({"data": tmp_path / "nothing"}, {"mixture": '{"Pendulum-v1": 2}'}):
        with pytest.raises(UsageError):
            train(dataclasses.replace(config, **wrong))
        assert not config.out.exists()
    assert train(config).exists()


def words() -> TestingEnv:
    """Observes an order to go somewhere."""
    return TestingEnv(
        observation_space=Text(12, charset="abcdefghijklmnopqrstuvwxyz "),
        reset=lambda env, seed, options: ("go left", {}),
        step=lambda env, action: ("go right", 1.0, env.t >= 3, False, {}),
    )


def test_a_text_model_of_ones_own_and_bfloat16_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, "Words-v0", EnvSpec("Words-v0", entry_point=words))
    collect(CollectConfig(env=("Words-v0",), expert="random", episodes=2, workers=0, out=tmp_path / "data"))
    text = TextTokenizer.train(["go right to the left"], 300)
    (tmp_path / "own.model").write_bytes(text.model)
    config = TrainConfig(
        data=tmp_path / "data", out=tmp_path / "run", text_model=tmp_path / "own.model", steps=1, batch_size=1,
        weights="bfloat16", num_threads=1,
    )  # fmt: skip
    (task,) = load_data(config.data, GatoConfig.nano(), 32, config.text_model).tokenized
    pieces = text.encode("go right")
    assert task.rows[1, :32].tolist() == pieces + [PAD] * (32 - len(pieces))
    path = train(config)
    kept = Checkpoint.load(path).text
    assert kept is not None
    assert kept.model == text.model != TextTokenizer.train(["go left", "go right"], 512).model
    float32 = sum(4 * p.numel() for p in Gato(GatoConfig.nano()).parameters())
    assert path.stat().st_size - len(text.model) == pytest.approx(float32 / 2, rel=0.01)

    (tmp_path / "own.model").write_bytes(TextTokenizer.train(map(str, range(1000)), 600).model)
    with pytest.raises(UsageError, match=r"own\.model has 600 pieces and .* room for 512"):
        train(dataclasses.replace(config, out=tmp_path / "other"))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A short run that saves three times, and was never stopped."""
    out = tmp_path_factory.mktemp("undisturbed")
    config = TrainConfig(data=data, out=out, steps=6, batch_size=1, save_every=2, num_threads=1)
    train(config)
    return config


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("model.safetensors", "state.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
    logs = [[json.loads(line) for line in (run / "log.jsonl").open()] for run in (a, b)]
    steps, others = ([(entry["step"], entry["loss"]) for entry in log] for log in logs)
    assert steps == others
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))


@pytest.mark.parametrize(("file", "model_at", "state_at"), [("model", 4, 4), ("state", 6, 4)])
def test_a_save_broken_off_between_its_files_is_made_good(
    file: str, model_at: int, state_at: int, undisturbed: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state never runs ahead of the model; what it does not record is done again."""
    config = dataclasses.replace(undisturbed, out=tmp_path)
    saves, rename = count(1), Path.replace

    def full_disk(path: Path, target: Path) -> Path:
        if target.name == f"{file}.safetensors" and next(saves) == 3:
            raise OSError("the disk is full")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(OSError, match="the disk is full"):
            train(config)
    assert read(tmp_path / "model.safetensors")[1]["training"]["step"] == model_at
    assert read(tmp_path / "state.safetensors")[1]["step"] == state_at
    done = (tmp_path / "log.jsonl").read_text().splitlines()[:state_at]
    train(dataclasses.replace(config, resume=True))
    assert_same_run(undisturbed.out, tmp_path)
    # Speeds are logged too, so these are the same lines only where nothing that was done is done again.
    assert (tmp_path / "log.jsonl").read_text().splitlines()[:state_at] == done


def kill_at(command: list[str], out: Path, lines: int, delay: float, saving: bool) -> bool:
    """Run a command that resumes, and kill it a moment after it has made its log so long; whether it was running.

    Args:
        command: what to run.
        out: folder of the run.
        lines: how long the log is to be.
        delay: seconds to wait then.
        saving: wait for files that are being written too.
    """
    log = out / "log.jsonl"
    before = log.stat().st_ino if log.exists() else None
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if log.exists() and log.stat().st_ino != before and log.read_bytes().count(b"\n") >= lines:
            while saving and process.poll() is None and not partial(out):
                time.sleep(0.001)
            time.sleep(delay)
            process.kill()
            break
        time.sleep(0.01)
    return process.wait() == -signal.SIGKILL


def partial(out: Path) -> list[Path]:
    """Files of a checkpoint that are not complete."""
    return list(out.glob(".*.safetensors.partial"))


KILLS = int(os.environ.get("KILLS", "20"))  # KILLS=100 pytest -n0 -m slow -k killed


@pytest.mark.parametrize("kills", [1, pytest.param(KILLS, marks=pytest.mark.slow)])
def test_killed_training_ends_bit_identical(kills: int, undisturbed: TrainConfig, tmp_path: Path) -> None:
    """Every third kill comes while a checkpoint is being written; one that loads is there at any time."""
    steps = 6 if kills == 1 else 3 * kills
    whole = dataclasses.replace(undisturbed, steps=steps)
    if steps != undisturbed.steps:
        whole = dataclasses.replace(whole, out=tmp_path / "whole")
        train(whole)
    config = dataclasses.replace(whole, out=tmp_path / "killed", resume=True)
    arguments = f"--data {config.data} --out {config.out} --steps {steps} --batch-size 1 --save-every 2 --num-threads 1"
    command = [sys.executable, "-m", "gato_agent", "train", *arguments.split(), "--resume"]
    moments, broken_off = random.Random(0), 0
    for i, length in enumerate(sorted(moments.sample(range(3, steps - 1), kills))):
        saving = i % 3 == 1
        delay = moments.uniform(0, 0.02 if saving else 0.1)
        assert kill_at(command, config.out, length, delay, saving), "it ended before it was killed"
        broken_off += bool(partial(config.out))
        if length > 4:  # the checkpoint of step 2 is on disk before that of step 4 is begun
            assert read(config.out / "state.safetensors")[1]["step"] >= 2
            Checkpoint.load(config.out)
    assert broken_off >= kills // 6
    train(config)
    assert_same_run(whole.out, config.out)


def test_a_run_stopped_by_the_clock_goes_on_exactly(undisturbed: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(undisturbed, out=tmp_path, minutes=0.0)
    for step in range(1, 4):
        train(config)
        assert read(tmp_path / "state.safetensors")[1]["step"] == step
        config = dataclasses.replace(config, resume=True)
    train(dataclasses.replace(config, minutes=None))
    assert_same_run(undisturbed.out, tmp_path)


def test_a_constant_run_is_finished_with_a_decay(undisturbed: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(undisturbed, out=tmp_path / "a", schedule="wsd", warmup=2)
    train(config)
    longer = dataclasses.replace(config, steps=8, decay_steps=2, resume=True)
    train(longer)
    train(dataclasses.replace(longer, out=tmp_path / "b"))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UsageError, match="would have been others"):
        train(dataclasses.replace(longer, steps=10))
    with pytest.raises(UsageError, match="--steps 7: it has taken 8 already"):
        train(dataclasses.replace(longer, steps=7))


def test_held_out_episodes_are_looked_at_and_the_best_model_is_kept(undisturbed: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(undisturbed, out=tmp_path, holdout=0.25)
    train(config)
    data = load_data(config.data, GatoConfig.nano(), 32, holdout=0.25)
    (learned,), (held_out,) = data.tokenized, data.held_out
    assert (len(learned.ends), len(held_out.ends)) == (3, 1)
    losses = {
        entry["step"]: entry["held_out_loss"]
        for entry in map(json.loads, (tmp_path / "log.jsonl").open())
        if "held_out_loss" in entry
    }
    assert list(losses) == [2, 4, 6]
    best = read(tmp_path / "best" / "model.safetensors")[1]["training"]
    assert best["held_out_loss"] == min(losses.values()) == losses[best["step"]]
    assert Checkpoint.load(tmp_path / "best").tasks.keys() == {"CartPole-v1"}


def test_a_damaged_best_model_is_replaced(undisturbed: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(undisturbed, out=tmp_path, holdout=0.25, steps=1)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "model.safetensors").write_bytes(b"no model")
    train(config)
    assert Checkpoint.load(tmp_path / "best").training["step"] == 1


def test_an_identity_task_is_learned(tmp_path: Path) -> None:
    """Observation equals the right action: a few seconds of training solve it, through the whole path."""
    from gato_agent.dataset.batches import BatchSampler
    from gato_agent.dataset.task_tokens import TokenizedTask
    from gato_agent.rollouts.storage.episode import Episode

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
    tokenized = TokenizedTask.of("identity", task.tokenizer(SHORT, None), episodes)
    torch.manual_seed(0)
    small = dataclasses.replace(SHORT, width=64, heads=2, feed_forward=256)
    trainer = Trainer(TrainConfig(steps=250, warmup=20, learning_rate=3e-3), Gato(small))
    windows = BatchSampler([tokenized], window=128, batch_size=4)
    while trainer.step < 250:
        trainer.update(windows.batch(trainer.step))
    agent = Agent(Checkpoint(trainer.model.eval(), {"identity": task}), task)
    observations = {"d": rng.integers(0, 4, 16), "x": rng.uniform(-1, 1, (16, 1)).astype(np.float32)}
    agent.reset(16)
    actions = agent.act(observations)
    assert (actions["d"] == observations["d"]).mean() > 0.9
    assert np.abs(actions["x"] - observations["x"]).mean() < 0.1
