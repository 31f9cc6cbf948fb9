"""An agent is prompted in play as it was in training: the same logits, and errors that say what is wrong."""

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Text
from gymnasium.vector.utils import batch_space
from torch import Tensor

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.commands.play import PlayConfig, play
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.spaces.flatten import columns
from gato_agent.envs.spaces.views import View
from gato_agent.inference import agent as agent_module
from gato_agent.inference.agent import Agent
from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import NO_PROMPT, Prompt
from gato_agent.tokens.space_tokenizer import PAD
from gato_agent.tokens.text_tokenizer import TextTokenizer
from gato_agent.tokens.timestep_layout import ALWAYS
from tests.helpers.driving import teacher_forced
from tests.helpers.harsh import harsh
from tests.helpers.recording import columns_of, recording
from tests.helpers.shapes import NANO

SMALL = dataclasses.replace(NANO, context=60, layers=2)
OBSERVATION = Dict({
    "camera": Box(0, 255, (20, 32, 3), np.uint8), "goal": Text(6, charset="abc"), "x": Box(-np.inf, np.inf, (2,)),
})  # fmt: skip
ACTION = Box(-1, 2, (2,))
SEEN = View.from_json([{"drop": "goal"}])  # 4 patches, 2 numbers, separator, 2 action tokens: 9
TASKS = {
    "instruction": TrainedTask("Toy-v0", OBSERVATION, ACTION, view=SEEN, prompt=Prompt("text", 9, instruction="goal")),
    "name": TrainedTask("Toy-v0", OBSERVATION, ACTION, view=SEEN, prompt=Prompt("text", 5, "a toy")),
    "demo": TrainedTask("Toy-v0", OBSERVATION, ACTION, view=SEEN, prompt=Prompt("demo", 18)),
    "long demo": TrainedTask("Toy-v0", OBSERVATION, ACTION, view=SEEN, prompt=Prompt("demo", 27)),
    "none": TrainedTask("Toy-v0", OBSERVATION, ACTION, view=SEEN),
}
STEPS, RESTART = 40, 23  # environment 1 plays two episodes


def checkpoint_for(*tasks: TrainedTask, config: GatoConfig = SMALL) -> Checkpoint:
    return Checkpoint(
        harsh(config), {task.id: task for task in tasks}, TextTokenizer.train(["abc", "a toy"], 300), name="test"
    )


def demonstration(steps: int) -> Episode:
    """Random."""
    space, rng = batch_space(OBSERVATION, steps + 1), np.random.default_rng(0)
    space.seed(3)
    actions = {"": rng.uniform(-1, 2, (steps, 2)).astype(np.float32)}
    return Episode(
        observations=columns(OBSERVATION, space.sample()), actions=actions,
        labels=None, rewards=np.ones(steps), terminated=True, truncated=False, success=None, seed=0,
    )  # fmt: skip


@torch.inference_mode()
def uncached(checkpoint: Checkpoint, task: TrainedTask, episode: Episode, shown: Episode) -> list[Tensor]:
    """Logits of all action tokens in order, from one forward over the prompt and the whole episode.

    Of a demonstration all is visible to all that follows, its actions among it.
    """
    assert checkpoint.text is not None
    tokenizer, length = task.tokenizer(checkpoint.model.config, checkpoint.text), task.prompt.tokens
    layout = tokenizer.layout
    common = task.id, tokenizer
    said = TokenizedTask.of(*common, [episode], task.prompt, checkpoint.text.encode)
    rows, (patches, value_groups) = said.rows, said.seen(slice(None))
    prompt, local = np.full(length, PAD), np.full(length, -1)
    if task.prompt.kind == "text":
        prompt = said.texts[0]
    elif task.prompt.kind == "demo":
        other = TokenizedTask.of(*common, [shown])
        where = slice(max(0, len(other.rows) - length // layout.length), None)
        last, (shown_patches, shown_packs) = other.rows[where], other.seen(where)
        prompt[: last.size], local[: last.size] = last.reshape(-1), np.tile(other.local, len(last))
        patches, value_groups = np.concatenate((shown_patches, patches)), np.concatenate((shown_packs, value_groups))
    packed = torch.from_numpy(value_groups) if tokenizer.n_value_groups else None
    tokens = torch.from_numpy(np.concatenate((prompt, rows.reshape(-1))))[None].long()
    places = torch.from_numpy(np.concatenate((local, np.tile(said.local, len(rows)))))[None]
    intervals = torch.from_numpy(np.resize(tokenizer.patch_intervals, (len(patches), 2, 2)))
    images = torch.from_numpy(patches)
    step = np.arange(len(rows))[:, None]
    index = np.concatenate((np.arange(length), (length + step * layout.span + np.arange(layout.length)).ravel()))
    ends = np.minimum(length + step * layout.length + layout.until, ALWAYS).ravel()
    until = np.concatenate((np.full(length, ALWAYS), ends))
    hidden = checkpoint.model(
        tokens, images, local=places, intervals=intervals, value_groups=packed, index=torch.from_numpy(index)[None],
        until=torch.from_numpy(until)[None], prefix_len=torch.tensor([[length]]),
    )[0, length:].view(len(rows), layout.length, -1)  # fmt: skip
    legal = [(int(low), int(high)) for low, high in tokenizer.legal]
    states = [hidden[:, layout.predictor(at)] for at in range(len(legal))]
    logits = list(teacher_forced(checkpoint.model, states, torch.from_numpy(said.labels).long(), legal))
    return [part[step] for step in range(len(rows)) for part in logits]


@pytest.mark.parametrize("kind", [TorchDecoder, CpuDecoder])
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("shape", [
    {}, {"values_per_token": 2}, {"past_actions": True}, {"past_actions": True, "values_per_token": 2},
    {"action_decoder": True, "values_per_token": 2},
], ids=str)  # fmt: skip
def test_prompted_logits_in_play_are_those_of_training(
    monkeypatch: pytest.MonkeyPatch, kind: type[TorchDecoder | CpuDecoder], name: str, shape: dict[str, Any]
) -> None:
    task, shown, seen = TASKS[name], demonstration(2), list[Tensor]()
    config = dataclasses.replace(SMALL, **shape)
    checkpoint = checkpoint_for(task, config=config)
    if task.prompt.kind == "demo":  # whole timesteps
        length = task.tokenizer(config, checkpoint.text).layout.length
        task = dataclasses.replace(task, prompt=Prompt("demo", task.prompt.tokens // 9 * length))
        checkpoint = checkpoint_for(task, config=config)
    monkeypatch.setattr(agent_module, "make_decoder", recording(kind, seen))
    agent = Agent(checkpoint, task, temperature=1.0, demonstration=shown if "demo" in name else None)
    agent.reset(2)
    space = batch_space(OBSERVATION, 2)
    space.seed(0)
    observations = [space.sample() for _ in range(STEPS + 1)]
    for t, observation in enumerate(observations):
        observation["goal"] = ("abc", "cab" if t < RESTART else "bb")
    actions = [agent.act(o, np.array([t == 0, t in (0, RESTART)])) for t, o in enumerate(observations[:-1])]
    worst = 0.0
    for env_index, begin, end in ((0, 0, STEPS), (1, 0, RESTART), (1, RESTART, STEPS)):
        episode = Episode(
            observations=columns_of([columns(OBSERVATION, o) for o in observations[begin : end + 1]], env_index),
            actions=columns_of([columns(ACTION, a) for a in actions[begin:end]], env_index),
            labels=None, rewards=np.ones(end - begin), terminated=True, truncated=False, success=None, seed=0,
        )  # fmt: skip
        if env_index == 1 and begin:  # what is known of an episode's first observation holds for all of it
            episode.observations["goal"][:] = "bb"
        elif env_index == 1:
            episode.observations["goal"][:] = "cab"
        for cached, expected in zip(seen[begin * 2 : end * 2], uncached(checkpoint, task, episode, shown), strict=True):
            scale = max(1.0, expected.abs().max().item())
            worst = max(worst, (cached[env_index] - expected).abs().max().item() / scale)
    assert worst < 1e-5


def test_a_prompt_changes_what_is_played() -> None:
    space = batch_space(OBSERVATION, 1)
    space.seed(0)
    observation = space.sample()
    played = []
    for goal in ("a", "b", "a"):
        observation["goal"] = (goal,)
        played.append(Agent(checkpoint_for(TASKS["instruction"]), TASKS["instruction"]).act(observation))
    assert np.array_equal(played[0], played[2]) and not np.array_equal(played[0], played[1])
    unprompted = Agent(checkpoint_for(TASKS["instruction"]), TASKS["instruction"], prompt="none")
    assert unprompted._stepper.prompter.tokens == 0
    assert not np.array_equal(unprompted.act(observation), played[0])


def test_an_instruction_that_changes_or_is_too_long_is_named() -> None:
    task = TASKS["instruction"]
    agent = Agent(checkpoint_for(task), task)
    agent.reset(2)
    space = batch_space(OBSERVATION, 2)
    space.seed(0)
    observation = space.sample()
    observation["goal"] = ("ab", "abc")
    agent.act(observation)
    agent.act(observation)
    observation["goal"] = ("ab", "c")
    with pytest.raises(
        GatoError, match=r"Toy-v0: observation in environment 1, step 2: 'goal' changed .*'abc' to 'c'.*none"
    ):
        agent.act(observation)
    agent.act(observation, np.array([False, True]))  # a new episode may say something else
    short = dataclasses.replace(task, prompt=Prompt("text", 2, instruction="goal"))
    agent = Agent(checkpoint_for(short), short)
    observation["goal"] = ("a", "cba")
    with pytest.raises(
        GatoError, match=r"Toy-v0: observation in environment 1, step 0: .*3 text pieces where 2 .*--text-pieces 3"
    ):
        agent.act(observation)


def test_only_what_was_trained_is_played() -> None:
    for name, options, message in (
        ("none", {"prompt": "text"}, r"Toy-v0 was trained with --prompt none, not text"),
        ("name", {"prompt": "demo"}, r"Toy-v0 was trained with --prompt text, not demo"),
        ("demo", {}, r"give --demo and a folder of collected episodes, or --prompt none"),
        ("name", {"demonstration": demonstration(3)}, r"--prompt text, so leave --demo out"),
    ):
        with pytest.raises(UsageError, match=message):
            Agent(checkpoint_for(TASKS[name]), TASKS[name], **options)  # type: ignore[arg-type]
    huge = dataclasses.replace(TASKS["name"], prompt=Prompt("text", 31, "a toy"))
    with pytest.raises(UsageError, match=r"prompt of 31 tokens leaves too little of a context of 60"):
        Agent(checkpoint_for(huge), huge)
    assert Agent(checkpoint_for(TASKS["demo"]), TASKS["demo"], prompt="none")._stepper.prompter._prompt == NO_PROMPT


def test_an_action_must_fit_beside_its_prompt() -> None:
    """All tokens of an action are within the context that the prompt leaves."""
    for prompt, n_act, refused in ((0, 59, False), (0, 60, True), (20, 39, False), (20, 40, True)):
        prefix = Prompt("text", prompt, "a toy") if prompt else NO_PROMPT
        task = dataclasses.replace(TASKS["name"], action_space=Box(-1, 1, (n_act,)), prompt=prefix)
        if not refused:
            task.tokenizer(SMALL, None)
            continue
        with pytest.raises(UsageError, match=rf"Toy-v0: an action takes {n_act} tokens, .* has room for {n_act - 1}: "):
            task.tokenizer(SMALL, None)


def test_the_prompt_is_kept_in_a_checkpoint(tmp_path: Path) -> None:
    for task in TASKS.values():
        assert Checkpoint.load(checkpoint_for(task).save(tmp_path)).tasks == {"Toy-v0": task}


def test_play_and_evaluate_show_a_demonstration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = gym.make("CartPole-v1")
    task = TrainedTask("CartPole-v1", env.observation_space, env.action_space, prompt=Prompt("demo", 24))
    checkpoint_for(task).save(tmp_path / "run")
    collect(CollectConfig(env=("CartPole-v1",), expert="random", episodes=1, out=tmp_path / "data", workers=0))
    common: dict[str, Any] = {"checkpoint": str(tmp_path / "run"), "episodes": 2}
    for demo in (tmp_path / "data", tmp_path / "data" / "CartPole-v1"):
        played = play(PlayConfig(env="CartPole-v1", render="none", demo=demo, **common))
        assert len(played["episodes"]) == 2
    (score,) = evaluate(EvaluateConfig(env=("CartPole-v1",), demo=tmp_path / "data", **common)).tasks.values()
    assert score.mean == played["mean_return"]
    (without,) = evaluate(EvaluateConfig(env=("CartPole-v1",), prompt="none", **common)).tasks.values()
    assert without.episodes == 2
    with pytest.raises(UsageError, match="give --demo"):
        play(PlayConfig(env="CartPole-v1", render="none", **common))
    collect(CollectConfig(env=("Acrobot-v1",), expert="random", episodes=1, out=tmp_path / "other", workers=0))
    with pytest.raises(UsageError, match=r"other has no episode of CartPole-v1: make one with `gato-agent collect"):
        play(PlayConfig(env="CartPole-v1", render="none", demo=tmp_path / "other", **common))
