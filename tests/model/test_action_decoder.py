"""The action decoder: its chain is what training teaches, leaves the trunk alone, and represents joint choices."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector.utils import batch_space, iterate
from torch import Tensor
from torch.nn import functional as F

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.dataset.batch import CONDITIONAL_EVERY, Batch
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.inference.agent import Agent
from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.decoder import Legal, StepOptions
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.model.action_decoder import ActionDecoder
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.training import loss as loss_module
from gato_agent.training.config import TrainConfig
from gato_agent.training.loss import action_loss
from gato_agent.training.trainer import Trainer
from tests.helpers import accord
from tests.helpers.driving import Driver, layout_of, legal_for, observe, play, sampled, sequence_of
from tests.helpers.harsh import harsh
from tests.helpers.shapes import LAYOUTS, NANO
from tests.helpers.teaching import Part, hidden_states, losses_of, random_ids, targets_of
from tests.helpers.traced import TracedDecoder

SMALL = dataclasses.replace(NANO, context=40, layers=1)
TINY = GatoConfig(1, 2, 64, 128, 64, 64, (32, 64), 16, values_per_token=8, action_decoder=True)
layouts = pytest.mark.parametrize("layout", LAYOUTS)
chains = pytest.mark.parametrize("layout", ["decoder", "separator"])


def shaped(layout: str, **fields: int) -> Gato:
    return harsh(dataclasses.replace(SMALL, **LAYOUTS[layout], **fields))


def correction_of(model: Gato) -> list[torch.nn.Parameter]:
    return model.corrections()


def trunk_of(model: Gato) -> dict[str, torch.nn.Parameter]:
    """All parameters but the correction's: the marginal heads and the table of scores are among them."""
    return {name: p for name, p in model.named_parameters() if "correction" not in name}


# ---- What is trained


def random_batch(config: GatoConfig, actions: int = 5, begin: int = 0) -> tuple[Batch, Part]:
    """Forty actions of as many tokens in two windows."""
    generator, legal = torch.Generator().manual_seed(3), legal_for(config, actions)
    tokens = torch.randint(0, config.vocabulary.size, (2, 128), generator=generator)
    part = Part(4 * torch.randperm(60, generator=generator)[:40], random_ids(40, legal, generator), legal)
    targets = targets_of([part], action_decoder=True, begin=begin)
    return Batch(tokens, torch.full_like(tokens, -1), torch.zeros_like(tokens), None, None, targets), part


def gradients(model: Gato, batch: Batch, bin_label_smoothing: float = 4.0) -> dict[str, Tensor]:
    model.zero_grad()
    action_loss(model, batch, bin_label_smoothing).total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("actions", [1, 2, 5, 40])
def test_the_trunk_is_trained_by_the_marginal_loss_alone(actions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit, and with it the marginal heads and the table; the conditional loss trains the correction alone."""
    model = shaped("separator").train()
    batch, part = random_batch(model.config, actions)
    actual = gradients(model, batch)
    marginal = losses_of(model, hidden_states(model, batch), part, 4.0).marginal.sum()
    for (name, parameter), wanted in zip(
        trunk_of(model).items(),
        torch.autograd.grad(marginal, list(trunk_of(model).values()), allow_unused=True),
        strict=True,
    ):
        assert (name in actual) == (wanted is not None) == (parameter.grad is not None)
        if wanted is not None:
            torch.testing.assert_close(actual[name], wanted, rtol=1e-4, atol=2e-5)
    trained = {name for name in actual if "correction" in name}
    assert (len(trained) > 0) == (actions > 1)
    with monkeypatch.context() as patch:  # no conditional loss at all
        patch.setattr(ActionDecoder, "state", lambda self, marginal, hidden, chain, at: marginal)
        without = gradients(model, batch)
    assert without.keys() == actual.keys() - trained
    assert all(torch.equal(without[name], actual[name]) for name in without)


@pytest.mark.parametrize("actions", [2, 40])
def test_the_correction_learns_from_some_actions_what_all_would_teach(
    actions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient from every other action, weighed accordingly, is on average that from all of them."""
    model = shaped("separator").train()
    _, part = random_batch(model.config, actions)
    parts = [gradients(model, random_batch(model.config, actions, begin)[0]) for begin in range(CONDITIONAL_EVERY)]
    monkeypatch.setattr(loss_module, "CONDITIONAL_EVERY", 1)
    batch = random_batch(model.config, actions)[0]
    whole = gradients(model, batch)
    conditional = losses_of(model, hidden_states(model, batch), part, 4.0).conditional[:, 1:].sum()
    names = [name for name in whole if "correction" in name]
    assert {name.split(".")[2] for name in names} >= {"chosen", "read", "state", "out"}
    wanted = torch.autograd.grad(conditional, [model.get_parameter(name) for name in names])
    for name, gradient in zip(names, wanted, strict=True):
        mean = sum((each[name] for each in parts), torch.zeros(())) / CONDITIONAL_EVERY
        torch.testing.assert_close(whole[name], gradient, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=2e-5)


def test_a_wild_correction_does_not_slow_the_trunk() -> None:
    """Gradients of both are clipped apart, so that one step leaves the same trunk."""
    trunks = []
    for scale in (1.0, 1000.0):
        model = shaped("separator")
        assert model.action_decoder is not None
        with torch.no_grad():
            for layer in model.action_decoder.correction.out.parameters():
                layer.mul_(scale)
        Trainer(TrainConfig(warmup=0), model).update(random_batch(model.config)[0])
        trunks.append(trunk_of(model))
    assert all(torch.equal(trunks[0][name], trunks[1][name]) for name in trunks[0])


@layouts
@pytest.mark.parametrize("actions", [1, 3, 40])
def test_play_scores_actions_as_the_loss_does(layout: str, actions: int) -> None:
    """Negative log-likelihoods of sampled actions, from logits in play and by teacher forcing over the episode."""
    model = shaped(layout, context=80)
    legal = legal_for(model.config, actions)
    driver, options = Driver(model, 1, TorchDecoder, legal=legal), sampled(1, actions)
    generator = torch.Generator().manual_seed(0)
    for t in range(30):
        driver.step(*observe(model.config, (1,), generator), torch.tensor([t == 0]), options(t))
    (episode,) = driver.episodes
    shown, played = sequence_of(model.config, episode), torch.stack(episode.actions)
    nll = sum(
        F.cross_entropy(torch.stack([step[at] for step in episode.logits]), played[:, at] - low, reduction="sum")
        for at, (low, _) in enumerate(legal)
    )
    targets = targets_of([Part(shown.first, played, legal)], action_decoder=model.config.action_decoder)
    assert layout_of(model.config, actions).first + 0 == shown.first[0]
    given = {name: part for name, part in shown.arguments.items() if name != "local"}
    batch = Batch(
        shown.tokens, shown.arguments["local"], torch.zeros_like(shown.tokens), None, None, targets, **given  # type: ignore[arg-type]
    )  # fmt: skip
    with torch.no_grad():
        losses = action_loss(model, batch)
    assert losses.families.item() == pytest.approx(float(nll), rel=1e-5)
    assert losses.weights.item() == 30 * actions


# ---- What is played


@layouts
@pytest.mark.parametrize("kind", [TorchDecoder, CpuDecoder, TracedDecoder])
def test_later_tokens_depend_on_earlier_ones(
    layout: str, kind: type[TorchDecoder | CpuDecoder | TracedDecoder]
) -> None:
    """The first token's distribution is the same whatever is chosen, the second's is not."""
    model = shaped(layout)
    legal = legal_for(model.config, 3)
    low = torch.tensor([[low for low, _ in legal]])
    first, second = (
        play(
            model, kind, 1, 1, lambda step, forced_options=low + change: StepOptions(forced=forced_options), legal
        ).logits
        for change in (torch.tensor([[0, 0, 0]]), torch.tensor([[5, 0, 0]]))
    )
    assert torch.equal(first[0], second[0])
    for a, b in zip(first[1:], second[1:], strict=True):
        assert (a.softmax(-1) - b.softmax(-1)).abs().sum() > 0.01


@chains
def test_an_untrained_chain_is_its_marginals(layout: str) -> None:
    """The correction begins at zero, and in 0.1's weights, which have none, it stays there."""
    torch.manual_seed(0)
    model = Gato(dataclasses.replace(SMALL, **LAYOUTS[layout])).eval()
    chained = play(model, CpuDecoder, 2, 10)
    assert play(model, CpuDecoder, 2, 10, lambda step: StepOptions(marginal=True)).equals(chained)
    loss = action_loss(model, random_batch(model.config)[0])
    assert loss.total.item() > loss.marginal.item()  # both parts are learned from all the same
    with torch.no_grad():
        loss = action_loss(model, random_batch(model.config)[0])
    assert loss.families.item() == pytest.approx(loss.marginal.item(), rel=1e-6)


@chains
@pytest.mark.parametrize("kind", [TorchDecoder, CpuDecoder])
def test_what_was_chosen_is_carried_from_group_to_group(layout: str, kind: type[TorchDecoder | CpuDecoder]) -> None:
    """A first id changes the last of seventy tokens, two groups later, through the matrix that carries alone."""
    model = shaped(layout)
    legal = legal_for(model.config, 70)
    low = torch.tensor([[low for low, _ in legal]])
    other = low.clone()
    other[0, 0] += 3

    def differences() -> list[bool]:
        runs = [
            play(model, kind, 1, 1, lambda step, forced_options=ids: StepOptions(forced=forced_options), legal)
            for ids in (low, other)
        ]
        return [not torch.equal(a, b) for a, b in zip(*(run.logits for run in runs), strict=True)]

    assert differences() == [False] + 69 * [True]
    assert model.action_decoder is not None
    with torch.no_grad():
        model.action_decoder.correction.carry.weight.zero_()
    assert differences() == [False] + 31 * [True] + 38 * [False]


def masks(legal: Legal, num_envs: int, steps: int, seed: int) -> list[Tensor]:
    """Random masks bool [env, ids] of each step; every third range of ids is left with a single one."""
    generator, actual = torch.Generator().manual_seed(seed), list[Tensor]()
    for step in range(steps):
        parts = []
        for at, (low, high) in enumerate(legal):
            share = torch.rand(num_envs, 1, generator=generator)
            part = torch.rand(num_envs, high - low, generator=generator) < share
            one = torch.randint(0, high - low, (num_envs, 1), generator=generator)
            part = part & torch.tensor((at + step) % 3 != 0)
            parts.append(part.scatter(1, one, torch.ones_like(part)))
        actual.append(torch.cat(parts, dim=1))
    return actual


@layouts
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("actions", [3, 40, 256])
def test_masks_are_obeyed_by_all_decoders_alike(layout: str, temperature: float, actions: int) -> None:
    """Ids are among those that are allowed and legal, greedily and sampled; recorded, with three action tokens."""
    model = shaped(layout, context=actions + 10)
    legal, steps = legal_for(model.config, actions), 8 if actions == 3 else 2
    allowed, draw = masks(legal, 3, steps, actions), sampled(3, actions) if temperature else None

    def options(step: int) -> StepOptions:
        return (draw(step) if draw else StepOptions())._replace(allowed=allowed[step])

    kinds = TorchDecoder, CpuDecoder, *([TracedDecoder] if actions == 3 else [])  # a recording of more takes long
    expected, *others = (play(model, kind, 3, steps, options, legal) for kind in kinds)
    for other in others:
        assert torch.equal(other.actions, expected.actions)
    ends = np.cumsum([0, *(high - low for low, high in legal)])
    for step, actions_taken in enumerate(expected.actions):
        for at, (low, high) in enumerate(legal):
            ids = actions_taken[:, at]
            assert ((low <= ids) & (ids < high)).all()
            assert allowed[step][torch.arange(3), ends[at] + ids - low].all()


@layouts
def test_masks_of_everything_change_nothing(layout: str) -> None:
    model = shaped(layout)
    width = sum(high - low for low, high in legal_for(model.config))
    for kind in (TorchDecoder, CpuDecoder, TracedDecoder):
        free, masked = (
            play(model, kind, 2, 10, lambda step, given=given: sampled(2, 2)(step)._replace(allowed=given))
            for given in (None, torch.ones(2, width, dtype=torch.bool))
        )
        assert masked.equals(free)


# ---- What it can represent


def learn(kind: str, config: GatoConfig, steps: int, count: int, batch_size: int) -> Checkpoint:
    """A model that saw episodes of numbers that agree."""
    task = TrainedTask("Accord-v0", accord.OBSERVATION, accord.KINDS[kind].space)
    tokenized = TokenizedTask.of(task.id, task.tokenizer(config, None), accord.episodes(kind, count))
    sampler = BatchSampler([tokenized], sequence_length=2 * config.context, batch_size=batch_size)
    torch.manual_seed(0)
    trainer = Trainer(TrainConfig(steps=steps, warmup=10, learning_rate=3e-3), Gato(config))
    for step in range(steps):
        trainer.update(sampler.batch(step))
    return Checkpoint(trainer.model.eval(), {task.id: task})


def agreement(kind: str, checkpoint: Checkpoint, temperature: float, **options: Any) -> float:
    """Share of 1,000 actions whose numbers agree, over episodes of fifty environments."""
    agent = Agent(checkpoint, checkpoint.tasks["Accord-v0"], temperature=temperature, **options)
    space, rng = batch_space(agent.task.action_space, 50), np.random.default_rng(1)
    actions = [agent.act(rng.uniform(-1, 1, (50, 2)).astype(np.float32)) for _ in range(20)]
    return float(np.mean([accord.KINDS[kind].agrees(each) for batch in actions for each in iterate(space, batch)]))


@pytest.mark.parametrize("kind", accord.KINDS)
def test_numbers_that_must_agree_are_learned(kind: str) -> None:
    """A hundred steps of training suffice; chosen independently, the numbers agree only by chance."""
    checkpoint = learn(kind, TINY, 100, 400, 4)
    assert agreement(kind, checkpoint, 0.0) >= 0.99
    assert agreement(kind, checkpoint, 1.0) >= 0.99
    assert agreement(kind, checkpoint, 1.0, marginal=True) < 0.5


@pytest.mark.parametrize("kind", ["numbers", *(pytest.param(kind, marks=pytest.mark.slow) for kind in
                                               ("bits", "choice and number"))])  # fmt: skip
def test_they_are_learned_through_the_transformer_too(kind: str) -> None:
    config = dataclasses.replace(TINY, action_decoder=False, values_per_token=1)
    checkpoint = learn(kind, config, 400, 400, 4)
    assert agreement(kind, checkpoint, 0.0) >= 0.99
    assert agreement(kind, checkpoint, 1.0) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("kind", accord.KINDS)
def test_the_default_size_learns_them(kind: str) -> None:
    checkpoint = learn(kind, dataclasses.replace(GatoConfig.nano(), context=128), 100, 1500, 8)
    assert agreement(kind, checkpoint, 0.0) >= 0.99
    assert agreement(kind, checkpoint, 1.0) >= 0.99
