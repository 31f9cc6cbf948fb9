"""Prompts: visible as SPEC says, made of what stands in the data, and the same however they are computed."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Text
from torch import Tensor

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.train import TrainConfig, train
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.load import load_data
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.spaces.views import View
from gato_agent.envs.tasks.task import Task, catalogue
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.model.rope import angles_of, rotate
from gato_agent.rollouts.collection.collect import CollectConfig, collect
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import NO_PROMPT, Prompt, demonstration, instruction_of, names_of
from gato_agent.tokens.space_tokenizer import PAD, PATCH, SpaceTokenizer
from gato_agent.tokens.timestep_layout import ALWAYS
from tests.helpers.harsh import harsh
from tests.helpers.shapes import NANO

SHORT = dataclasses.replace(GatoConfig.nano(), context=32, layers=2)
VOCABULARY = SHORT.vocabulary
OBSERVATION = Dict({"camera": Box(0, 255, (16, 32, 3), np.uint8), "goal": Text(8), "x": Box(-1, 1, (2,))})
ACTION = Discrete(3)
STEP = 2 + 4 + 2 + 1 + 1  # patches, text, numbers, separator, action


def letters(text: str) -> list[int]:
    return [ord(c) % 100 for c in text]


@torch.inference_mode()
def by_the_book(model: Gato, tokens: Tensor, segment: Tensor, index: Tensor, prefix_len: Tensor) -> Tensor:
    """SPEC's attention as it stands there, over all pairs of tokens."""
    config, (b, n) = model.config, tokens.shape
    i, j, prompt = index[:, :, None], index[:, None, :], prefix_len[:, :, None]
    seen = (j <= i) & ((i - j < config.context - prompt) | (j < prompt)) & (segment[:, :, None] == segment[:, None, :])
    seen = (seen & (tokens != PAD)[:, None, :] | torch.eye(n, dtype=torch.bool)).unsqueeze(1)
    clamped = angles_of(index.clamp(max=config.context - 1), config.head_size, torch.float32)
    angles = angles_of(index, config.head_size, torch.float32)
    x = model.embedding(tokens, None, None, None)
    for block in model.blocks:
        qkv = block.attention.qkv(block.attention_norm(x)).view(b, n, 3, config.heads, -1).permute(2, 0, 3, 1, 4)
        k = rotate(qkv[1], *angles)
        scores = rotate(qkv[0], *angles) @ k.mT
        far = rotate(qkv[0], *clamped) @ k.mT
        scores = torch.where((j < prompt).unsqueeze(1), far, scores) * config.head_size**-0.5
        y = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ qkv[2]
        x = x + block.attention.out(y.transpose(1, 2).reshape(b, n, -1))
        x = x + block.feed_forward(block.feed_forward_norm(x))
    return model.norm(x)


def random_segments(length: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A window of segments of all lengths, some without a prompt: tokens, segment, index, prefix_len."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(part.shape[1] for part in parts) < length:
        prompt = int(rng.choice([0, 3, 8]))
        index = np.delete(np.arange(rng.integers(1, 2 * length)), np.arange(prompt)[rng.random(prompt) < 0.3])
        parts.append(np.stack((np.full(len(index), len(parts)), index, np.full(len(index), prompt))))
    segment, index, prefix_len = torch.from_numpy(np.concatenate(parts, axis=1)[:, :length])
    tokens = torch.from_numpy(rng.integers(1, VOCABULARY.size, length))
    tokens[torch.from_numpy(rng.random(length) < 0.1)] = PAD
    return tokens, segment, index, prefix_len


@pytest.mark.parametrize("context", [32, 200])
def test_training_attends_as_the_specification_says(context: int) -> None:
    model = harsh(dataclasses.replace(SHORT, context=context))
    sequences = [random_segments(700, seed) for seed in range(6)]
    assert any(int(index.max()) > 2 * context for _, _, index, _ in sequences)
    tokens, segment, index, prefix_len = (torch.stack(part) for part in zip(*sequences, strict=True))
    with torch.inference_mode():
        actual = model(tokens, segment=segment, index=index, prefix_len=prefix_len)
    torch.testing.assert_close(actual, by_the_book(model, tokens, segment, index, prefix_len), atol=2e-5, rtol=0)


def test_a_prompt_is_seen_for_ever_and_all_else_is_forgotten() -> None:
    model = harsh(dataclasses.replace(SHORT, layers=1))
    tokens = torch.randint(1, VOCABULARY.size, (1, 300), generator=torch.Generator().manual_seed(0))
    prefix_len = torch.tensor([[4]])
    before = model(tokens, prefix_len=prefix_len)
    for place, last in ((3, 299), (4, 4 + 27), (100, 100 + 27)):
        changed = tokens.clone()
        changed[0, place] = tokens[0, place] % 500 + 1
        after = model(changed, prefix_len=prefix_len)
        assert not torch.allclose(before[0, last], after[0, last], atol=1e-6)
        assert torch.equal(before[0, last + 1 :], after[0, last + 1 :])


def test_without_prompts_the_numbers_are_the_old_ones() -> None:
    model = harsh(SHORT)
    tokens = torch.randint(1, VOCABULARY.size, (2, 200))
    assert torch.equal(model(tokens), model(tokens, prefix_len=torch.zeros(2, 1, dtype=torch.int64)))


def test_gradients_reach_a_prompt_from_beyond_the_context() -> None:
    model = harsh(dataclasses.replace(SHORT, layers=1)).train()
    tokens = torch.randint(10, VOCABULARY.size, (1, 128))
    tokens[0, 0] = 3
    model(tokens, prefix_len=torch.tensor([[1]]))[0, 120, 0].backward()
    assert model.embedding.table.weight.grad is not None
    assert model.embedding.table.weight.grad[3].abs().max() > 0


def episode(length: int, seed: int, goal: str) -> Episode:
    rng = np.random.default_rng(seed)
    goals = np.empty(length + 1, dtype=object)
    goals[:] = goal
    observations = {
        "camera": rng.integers(0, 256, (length + 1, 16, 32, 3), dtype=np.uint8), "goal": goals,
        "x": rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32),
    }  # fmt: skip
    return Episode(
        observations=observations, actions={"": rng.integers(0, 3, length)}, labels=None, rewards=np.ones(length),
        terminated=True, truncated=False, success=None, seed=seed, provenance={},
    )  # fmt: skip


def task_of(prompt: Prompt, *lengths: int, past_actions: bool = False) -> TokenizedTask:
    view = View.from_json([{"drop": "goal"}] if prompt.instruction else [])
    tokenizer = SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY, letters, 4, view, past_actions=past_actions)
    episodes = [episode(length, seed, "abcdefgh"[: seed % 3 + 1]) for seed, length in enumerate(lengths)]
    return TokenizedTask.of("Toy-v0", tokenizer, episodes, prompt, letters)


@pytest.mark.parametrize("past_actions", [False, True])
def test_every_segment_begins_with_its_instruction(past_actions: bool) -> None:
    task = task_of(Prompt("text", 5, instruction="goal"), 5, 40, 12, past_actions=past_actions)
    step = STEP - 4
    assert task.rows.shape[1] == step
    batch = BatchSampler([task], sequence_length=100, batch_size=8).batch(0)
    assert batch.index is not None and batch.prefix_len is not None
    assert (batch.prefix_len == 5).all() and (batch.tokens != PAD).all()
    assert (batch.until is None) == past_actions
    targets = {int(p): int(i) for p, i in zip(batch.targets.position, batch.targets.ids[:, 0], strict=True)}
    rows = {row.tobytes(): number for number, row in enumerate(task.rows)}
    checked = 0
    for b in range(8):
        for segment in batch.segment[b].unique():
            inside = batch.segment[b] == segment
            at, index, tokens = inside.nonzero()[0].item(), batch.index[b][inside], batch.tokens[b][inside]
            message = int((index < 5).sum())
            number, place = np.divmod(np.arange(len(index) - message), step)
            after = 5 + number * task.tokenizer.layout.span + place
            assert index.tolist() == [*range(message), *after]  # pads are counted and left out
            assert (batch.local[b][inside][:message] == -1).all()
            for start in range(message, len(tokens) - step + 1, step):
                n = rows[tokens[start : start + step].numpy().astype(np.int32).tobytes()]
                assert tokens[:message].tolist() == letters("abc"[: int(np.searchsorted(task.ends, n, "right")) + 1])
                assert targets.pop(b * 100 + int(at) + start + step - 2) == task.labels[n, 0]
                checked += 1
    assert checked > 50
    assert not targets or all(p % 100 > 100 - step for p in targets)


@pytest.mark.parametrize("past_actions", [False, True])
def test_some_segments_begin_with_a_part_of_another_episode(past_actions: bool) -> None:
    """All tokens of which stay visible, its actions among them, whatever the layout hides of later timesteps."""
    task = task_of(Prompt("demo", 3 * STEP), 30, 2, 40, past_actions=past_actions)
    rows = {row.tobytes(): number for number, row in enumerate(task.rows)}
    sampler = BatchSampler([task], sequence_length=200, batch_size=200, seed=3)
    batch = sampler.batch(0)
    assert batch.index is not None and batch.prefix_len is not None and batch.patches is not None
    assert len(batch.patches) == int((batch.tokens == PATCH).sum())
    shares, ends, begins = [], [], []
    for b in range(200):
        inside = batch.segment[b] == 0
        prompted = int(batch.prefix_len[b, 0]) > 0
        shares.append(prompted)
        if not prompted:
            number, place = np.divmod(np.arange(int(inside.sum())), STEP)
            assert batch.index[b][inside].tolist() == (number * task.tokenizer.layout.span + place).tolist()
            continue
        index, tokens = batch.index[b][inside], batch.tokens[b][inside].numpy().astype(np.int32)
        shown = index < 3 * STEP
        assert batch.until is None or (batch.until[b][inside][shown] == ALWAYS).all()
        steps = [rows.get(tokens[shown][i : i + STEP].tobytes()) for i in range(0, int(shown.sum()) - 4, STEP)]
        assert len(index[~shown]) and int(index[~shown][0]) == 3 * STEP
        if None in steps:  # pads of text were left out
            continue
        first = rows[tokens[~shown][:STEP].tobytes()]
        assert np.searchsorted(task.ends, first, "right") != np.searchsorted(task.ends, steps[0], "right")
        begins.append(steps[0])
        ends.append(int(steps[-1] or 0) + 1 in task.ends)
    assert 0.15 < np.mean(shares) < 0.35
    every = BatchSampler([task], sequence_length=200, batch_size=50, demos=1.0).batch(0)
    assert every.prefix_len is not None and (every.prefix_len[:, 0] > 0).all()
    assert all(task.prefix(np.random.default_rng(0), slice(0, 1), 0.0).prefix_len == 0 for _ in range(20))


def test_demonstrations_come_from_the_end_every_other_time() -> None:
    task = task_of(Prompt("demo", 2 * STEP), 40, 40)
    rng = np.random.default_rng(0)
    pieces = [task._demonstration_rows(rng, 1) for _ in range(2000)]
    assert all(p.start >= 40 and p.stop <= 80 and p.stop - p.start == 2 for p in pieces)
    starts = np.bincount([p.start - 40 for p in pieces], minlength=39) / 2000
    assert starts[38] == pytest.approx(0.5 + 0.5 / 39, abs=0.04)
    assert starts[:38].max() < 0.03 and starts[:38].min() > 0.002
    alone = task_of(Prompt("demo", 2 * STEP), 40)
    assert alone.prefix(rng, slice(0, 5), 1.0).prefix_len == 0  # there is no other episode


def test_prompts_are_not_targets_and_cost_no_pads() -> None:
    task = task_of(Prompt("text", 30, "ab"), 50)
    batch = BatchSampler([task], sequence_length=120, batch_size=4).batch(0)
    assert batch.index is not None
    assert len(batch.targets.position)
    assert (batch.index.flatten()[batch.targets.position] >= 30).all()
    assert batch.tokens[0, :2].tolist() == letters("ab") and batch.index[0, 2] == 30


def test_an_instruction_that_changes_is_named() -> None:
    task, wrong = Prompt("text", 5, instruction="goal"), episode(6, 7, "a")
    wrong.observations["goal"][4] = "b"
    tokenizer = SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY, letters, 4, View.from_json([{"drop": "goal"}]))
    with pytest.raises(GatoError, match=r"Toy-v0: seed 7, step 4: 'goal' changed .*from 'a' to 'b'.*--prompt none"):
        TokenizedTask.of("Toy-v0", tokenizer, [wrong], task, letters)
    wrong = episode(6, 7, "abcdefgh")
    with pytest.raises(GatoError, match=r"Toy-v0: seed 7: 'goal': a prompt of 8 text pieces where 5 .*--text-pieces 8"):
        TokenizedTask.of("Toy-v0", tokenizer, [wrong], task, letters)


def test_instructions_are_what_the_catalogue_says() -> None:
    space = Dict({"direction": Discrete(4), "mission": Text(80)})
    known = [task for task in catalogue().values() if task.instruction]
    assert {task.suite for task in known} == {"babyai", "babyai_rgb"} and len(known) > 50
    assert instruction_of("BabyAI-GoToLocal-v0", space, View()) == "mission"
    assert instruction_of("BabyAI-GoToLocal-v0", Dict({"mission": Text(80)}), View()) is None  # nothing would be left
    assert instruction_of("BabyAI-GoToLocal-v0", Dict({"mission": Discrete(3), "x": Discrete(2)}), View()) is None
    assert instruction_of("CartPole-v1", space, View()) is None is Task("a", "b").instruction


def test_tasks_have_names() -> None:
    ids = ["Meta-World/pick-place-v3", "CartPole-v1", "Hopper-v4", "Hopper-v5"]
    assert names_of(ids) == ["Meta-World pick-place", "CartPole", "Hopper-v4", "Hopper-v5"]


def test_demonstrations_fill_a_quarter_of_the_context() -> None:
    assert demonstration(19, 512) == Prompt("demo", 6 * 19)
    assert demonstration(200, 512) == Prompt("demo", 200)
    with pytest.raises(UsageError, match=r"300 tokens .* context of 512"):
        demonstration(300, 512)


def test_prompts_are_plain_data() -> None:
    for prompt in (NO_PROMPT, Prompt("text", 5, "a name"), Prompt("text", 9, instruction="mission"), Prompt("demo", 8)):
        assert Prompt.from_json(json.loads(json.dumps(prompt.to_json()))) == prompt
    for wrong in ({"kind": "code"}, {"tokens": -1}, {"tokens": 1.5}, {"text": 3}, {"instruction": 4}):
        with pytest.raises(ValueError, match="a prompt"):
            Prompt.from_json(wrong)
    with pytest.raises(TypeError):
        Prompt.from_json({"other": 1})


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of a BabyAI level and of CartPole."""
    folder = tmp_path_factory.mktemp("levels")
    for env in ("BabyAI-GoToLocal-v0", "CartPole-v1"):
        collect(CollectConfig(env=(env,), expert="random", episodes=3, out=folder, success_only=False))
    return folder


def test_a_mission_said_once_leaves_four_tokens_a_timestep(levels: Path) -> None:
    config = NANO
    data = load_data(levels, config, None, prompt="auto")
    babyai, cartpole = data.tasks["BabyAI-GoToLocal-v0"], data.tasks["CartPole-v1"]
    assert babyai.prompt.instruction == "mission" and cartpole.prompt.text == "CartPole"
    assert data.text is not None
    assert cartpole.prompt.tokens == len(data.text.encode("CartPole"))
    assert babyai.tokenizer(config, data.text).layout.length == 4
    none = load_data(levels, config, None)
    assert none.tasks["BabyAI-GoToLocal-v0"].tokenizer(config, none.text).layout.length > 10
    assert none.tasks["BabyAI-GoToLocal-v0"].prompt == NO_PROMPT
    demo = load_data(levels, config, None, prompt="demo")
    assert demo.tasks["CartPole-v1"].prompt == Prompt("demo", 126)
    assert len({d.sha256 for d in (data, none, demo, load_data(levels, config, 20, prompt="text"))}) == 4
    with pytest.raises(UsageError, match=r"prompt of 300 tokens .* context of 512"):
        load_data(levels, config, 300, prompt="text")
    with pytest.raises(UsageError, match="--prompt demo shows actions, which no model with an action decoder reads"):
        load_data(levels, dataclasses.replace(config, action_decoder=True), None, prompt="demo")


def test_one_task_without_an_instruction_needs_no_prompt(levels: Path, tmp_path: Path) -> None:
    (tmp_path / "CartPole-v1").symlink_to(levels / "CartPole-v1")
    assert load_data(tmp_path, SHORT, None, prompt="auto").tasks["CartPole-v1"].prompt == NO_PROMPT


@pytest.mark.parametrize(("kind", "past_actions"), [("auto", True), ("demo", False), ("demo", True)])
def test_training_resumes_exactly_and_keeps_the_prompt(
    levels: Path, tmp_path: Path, kind: str, past_actions: bool
) -> None:
    shape = json.dumps({"action_decoder": False, "past_actions": past_actions})
    config = TrainConfig(
        data=levels, out=tmp_path / "whole", steps=4, batch_size=1, save_every=2, prompt=kind, device="cpu",  # type: ignore[arg-type]
        holdout=0.34, num_threads=1, shape=shape,
    )  # fmt: skip
    whole = train(config)
    parts = dataclasses.replace(config, out=tmp_path / "parts", minutes=0.0)
    train(parts)
    train(dataclasses.replace(parts, resume=True, minutes=None))
    assert whole.read_bytes() == (tmp_path / "parts" / whole.name).read_bytes()
    tasks = Checkpoint.load(whole).tasks
    assert {task.prompt.kind for task in tasks.values()} == {"text" if kind == "auto" else kind}
    further = dataclasses.replace(config, init=whole, out=tmp_path / "further", prompt="auto", steps=1)
    assert {task.prompt.kind for task in Checkpoint.load(train(further)).tasks.values()} == {
        task.prompt.kind for task in tasks.values()
    }
