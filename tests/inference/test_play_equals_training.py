"""Play shows the model the very stream that it was trained on: at every choice the logits are the same."""

import dataclasses
from itertools import count

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Text
from gymnasium.vector.utils import batch_space
from torch import Tensor

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.envs.spaces.flatten import columns
from gato_agent.inference import agent as agent_module
from gato_agent.inference.agent import Agent
from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.space_tokenizer import PAD, PATCH, VALUES
from gato_agent.tokens.text_tokenizer import TextTokenizer
from tests.helpers.driving import teacher_forced
from tests.helpers.harsh import harsh
from tests.helpers.recording import columns_of, recording
from tests.helpers.shapes import NANO
from tests.helpers.traced import TracedDecoder

SMALL = dataclasses.replace(NANO, context=48, layers=2)
OBSERVATION = Dict({
    "camera": Box(0, 255, (20, 32, 3), np.uint8),  # four patches of different intervals
    "goal": Text(4, charset="abc"),  # at most four pieces of six
    "near": Discrete(3),
    "x": Box(-np.inf, np.inf, (2,)),
})  # fmt: skip
ACTION = Dict({"grip": Discrete(3), "move": Box(-1, 2, (2,))})
STEPS, RESTART = 40, 23  # environment 1 plays two episodes
TASK = TrainedTask("Toy-v0", OBSERVATION, ACTION, text_pieces=6)


SHAPES = (
    {"action_decoder": True, "values_per_token": 64},
    {"action_decoder": True, "values_per_token": 2},
    {"action_decoder": True},
    {"past_actions": True, "values_per_token": 2},
    {"past_actions": True},
    {"values_per_token": 2},
    {},
)
KINDS = (TorchDecoder, False), (TorchDecoder, True), (CpuDecoder, False), (CpuDecoder, True), (TracedDecoder, True)


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """With a token for each value or for several, in all layouts."""
    model = harsh(dataclasses.replace(SMALL, **request.param))
    return Checkpoint(model, {TASK.id: TASK}, TextTokenizer.train(["abc"], 300))


def uncached(checkpoint: Checkpoint, episode: Episode) -> list[Tensor]:
    """Logits of all action tokens in order, from the one window that holds the whole episode and nothing else."""
    tokenizer = TASK.tokenizer(checkpoint.model.config, checkpoint.text)
    task = TokenizedTask.of(TASK.id, tokenizer, [episode])
    sampler = BatchSampler([task], sequence_length=task.tokens, batch_size=1)
    batch = next(batch for batch in map(sampler.batch, count()) if batch.segment.max() == batch.segment.min())
    assert {PAD, PATCH} < set(batch.tokens[0].tolist())
    assert (VALUES in batch.tokens) == (checkpoint.model.config.values_per_token > 1)
    model = checkpoint.model
    with torch.inference_mode():
        hidden = model(
            batch.tokens, batch.patches, local=batch.local, intervals=batch.intervals, segment=batch.segment,
            index=batch.index, until=batch.until, value_groups=batch.value_groups,
        )[0]  # fmt: skip
        targets, legal = batch.targets, [(int(low), int(high)) for low, high in tokenizer.legal]
        assert targets.position.tolist() == sorted(targets.position.tolist())
        states = [hidden[targets.position + offset] for offset in targets.offset]
        logits = list(teacher_forced(model, states, targets.ids, legal))
    return [part[step] for step in range(len(targets.position)) for part in logits]


@pytest.mark.parametrize(("checkpoint", "kind", "followed"), [
    pytest.param(shape, kind, followed, id=f"{shape}-{kind.__name__}-{followed}",
                 marks=[pytest.mark.slow] * (kind is TracedDecoder and shape != SHAPES[0]))
    for shape in SHAPES for kind, followed in KINDS
], indirect=["checkpoint"])  # fmt: skip
def test_logits_in_play_are_those_of_training(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, kind: type[TorchDecoder | CpuDecoder], followed: bool
) -> None:
    """Also where others than the agent have acted, in the first step and in a third of the others."""
    seen: list[Tensor] = []
    monkeypatch.setattr(agent_module, "make_decoder", recording(kind, seen))
    agent = Agent(checkpoint, TASK, temperature=1.0)
    agent.reset(2)
    space = batch_space(OBSERVATION, 2)
    space.seed(0)
    observations = [space.sample() for _ in range(STEPS + 1)]
    others = batch_space(ACTION, 2)
    others.seed(1)
    actions = []
    for t, observation in enumerate(observations[:-1]):
        start = np.array([t == 0, t in (0, RESTART)])
        if followed and t % 3 == 0:
            actions.append(others.sample())
            agent.follow(observation, actions[-1], start)
        else:
            actions.append(agent.act(observation, start))

    n_act, worst = len(agent.tokenizer.legal), 0.0
    assert n_act == 3
    assert len(seen) == STEPS * n_act
    for env_index, begin, end in ((0, 0, STEPS), (1, 0, RESTART), (1, RESTART, STEPS)):
        episode = Episode(
            observations=columns_of([columns(OBSERVATION, o) for o in observations[begin : end + 1]], env_index),
            actions=columns_of([columns(ACTION, a) for a in actions[begin:end]], env_index),
            labels=None, rewards=np.ones(end - begin), terminated=True, truncated=False, success=None, seed=0,
        )  # fmt: skip
        played = seen[begin * n_act : end * n_act]
        for cached, expected in zip(played, uncached(checkpoint, episode), strict=True):
            scale = max(1.0, expected.abs().max().item())
            worst = max(worst, (cached[env_index] - expected).abs().max().item() / scale)
    assert worst < 1e-5
