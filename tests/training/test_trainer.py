"""Optimizer steps: exact resumption, Muon, gradient accumulation, precision, dropout, and that they learn."""

import copy
import dataclasses
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import pytest
import torch

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.commands.train import TrainConfig
from gato_agent.dataset.batch import Batch
from gato_agent.dataset.batches import BatchSampler
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.inference.agent import Agent
from gato_agent.model.gato import Gato
from gato_agent.training.option_groups import Precision
from gato_agent.training.trainer import Trainer
from tests.helpers.random_batch import SHORT, random_batch, random_parts
from tests.helpers.teaching import targets_of


class FixedSampler(BatchSampler):
    """Always the same batch."""

    def __init__(self, batch: Batch) -> None:
        self.fixed = batch

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        return self.fixed


@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16"}, {"optimizer": "muon"}])
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


def test_dropout_is_of_training_alone() -> None:
    torch.manual_seed(0)
    model, batch = Gato(SHORT), random_batch()
    plain = [Trainer(TrainConfig(), model).validate(FixedSampler(batch)) for _ in range(2)]
    trainer = Trainer(TrainConfig(dropout=0.5), model)
    assert trainer.validate(FixedSampler(batch)) == plain[0] == plain[1]
    first = copy.deepcopy(trainer).update(batch).loss
    assert copy.deepcopy(trainer).update(batch).loss == first
    assert first != Trainer(TrainConfig(), model).update(batch).loss
    for wrong in (-0.1, 1.0):
        with pytest.raises(UsageError, match="--dropout"):
            TrainConfig(dropout=wrong).check()


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
    sampler = BatchSampler([tokenized], sequence_length=128, batch_size=4)
    while trainer.step < 250:
        trainer.update(sampler.batch(trainer.step))
    agent = Agent(Checkpoint(trainer.model.eval(), {"identity": task}), task)
    observations = {"d": rng.integers(0, 4, 16), "x": rng.uniform(-1, 1, (16, 1)).astype(np.float32)}
    agent.reset(16)
    actions = agent.act(observations)
    assert (actions["d"] == observations["d"]).mean() > 0.9
    assert np.abs(actions["x"] - observations["x"]).mean() < 0.1
