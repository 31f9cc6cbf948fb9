"""Cross-entropy of action tokens: values, gradients, weights, families and label smoothing."""

import dataclasses

import pytest
import torch

from gato_agent.commands.train import TrainConfig
from gato_agent.model.config import GatoConfig
from gato_agent.training import loss as loss_module
from gato_agent.training.loss import action_loss, gaussian
from gato_agent.training.trainer import Trainer
from tests.helpers.harsh import harsh
from tests.helpers.random_batch import SHORT, batch_of, random_parts
from tests.helpers.teaching import Part, hidden_states, losses_of

STREAM = dataclasses.replace(SHORT, action_decoder=False)
shapes = pytest.mark.parametrize("shape", [SHORT, STREAM], ids=["decoder", "stream"])


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
