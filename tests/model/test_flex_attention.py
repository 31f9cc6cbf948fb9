"""FlexAttention equals SDPA: masks, both passes and prompts in plain operations on a CPU, its kernels on a GPU."""

import dataclasses
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor
from torch.nn.attention import flex_attention as pytorchs

from gato_agent.dataset.batch import Batch
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.model import flex_attention as flex
from gato_agent.model.attention import AttentionBackend, SdpaAttention
from gato_agent.model.config import GatoConfig
from gato_agent.model.embedding import CHANNELS
from gato_agent.model.flex_attention import FlexAttention, fits
from gato_agent.model.gato import Attention, Gato
from gato_agent.model.visibility import Visibility
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import Prompt
from gato_agent.tokens.space_tokenizer import SpaceTokenizer
from gato_agent.training.config import TrainConfig
from gato_agent.training.loss import ActionLoss, action_loss
from gato_agent.training.trainer import Trainer, compiles
from tests.helpers.sequences import Sequences, random_sequences
from tests.helpers.shapes import LAYOUTS

NANO = dataclasses.replace(GatoConfig.nano(), context=64, layers=2)
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


def shaped(size: int, context: int = 64) -> GatoConfig:
    return dataclasses.replace(NANO, heads=2, width=2 * size, context=context)


def of_a_task(kind: str, config: GatoConfig = NANO) -> BatchSampler:
    """Windows with images, and demonstrations that later tokens attend to from beyond their window."""
    spaces = Box(0, 255, (16, 16, 3), np.uint8), Box(-1, 1, (2,))
    tokenizer = SpaceTokenizer(
        *spaces, config.vocabulary, values_per_token=config.values_per_token, action_decoder=config.action_decoder,
        past_actions=config.past_actions,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            observations={"": rng.integers(0, 256, (length + 1, 16, 16, CHANNELS - 1), dtype=np.uint8)},
            actions={"": rng.uniform(-1, 1, (length, 2)).astype(np.float32)}, labels=None, rewards=np.ones(length),
            terminated=True, truncated=False, success=None, seed=seed, provenance={},
        )
        for seed, length in enumerate((60, 5, 90, 12))
    ]  # fmt: skip
    prompt = Prompt(kind, 4 * tokenizer.layout.length if kind == "demo" else 0)
    task = TokenizedTask.of("toy", tokenizer, episodes, prompt)
    return BatchSampler([task], sequence_length=3 * config.context, batch_size=3, demos=0.7)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plain operations in place of the kernels, which have no backward pass on a CPU."""
    monkeypatch.setattr(pytorchs, "_validate_device", lambda q, k, v: None)
    monkeypatch.setattr(pytorchs, "_WARNINGS_SHOWN", {"flex_attention_performance"})
    with torch.compiler.set_stance("force_eager"):
        yield


def random_windows(seed: int, context: int) -> Sequences:
    """Episodes of all lengths, with prompts, hidden actions or neither; some prompts are only PADs."""
    torch.manual_seed(seed)
    prompts, hidden = [(0,), (0, 1, 7, context // 2), (0,), (0, 7, context - 6)][seed % 4], [0, 0, 5, 5][seed % 4]
    length = int(np.random.default_rng(seed).integers(1, 7 * context))
    return random_sequences(seed, length, prompts=prompts, hidden=hidden, rows=3)


@pytest.mark.parametrize("seed", range(24))
def test_it_is_what_blocks_of_queries_give(seed: int, plain: None) -> None:
    size, context = [16, 32, 128][seed % 3], [40, 64, 150][seed // 3 % 3]
    config, shown = shaped(size, context), random_windows(seed, context)
    visibility = shown.visibility(context)
    layer = Gato(config).train().double().blocks[0].attention  # where nothing hides behind rounding
    x = torch.randn(*shown.tokens.shape, config.width, dtype=torch.float64, requires_grad=True)
    aim, actual = torch.randn_like(x), []
    assert isinstance(layer, Attention)
    backends: tuple[type[AttentionBackend], ...] = SdpaAttention, FlexAttention
    for backend in backends:
        y = layer(x, backend.prepare(config, visibility, x.dtype))
        actual.append((y.detach(), *torch.autograd.grad(y, (x, layer.qkv.weight), aim)))
    for blocks, ours in zip(*actual, strict=True):
        torch.testing.assert_close(ours, blocks, atol=1e-10, rtol=1e-10)


def test_one_episode_a_window_needs_no_segment(plain: None) -> None:
    tokens = random_windows(0, 64).tokens
    model, x = Gato(NANO).train(), torch.randn(*tokens.shape, NANO.width)
    visibility = Visibility.of(tokens, NANO.context)
    backends = (kind.prepare(NANO, visibility, x.dtype) for kind in (SdpaAttention, FlexAttention))
    torch.testing.assert_close(*(model.blocks[0].attention(x, each) for each in backends), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_blocks_are_those_of_every_score(seed: int, padded: bool) -> None:
    """Every block that `create_block_mask` reads is read; a block of keys that all end within it may be read too."""
    shown = random_windows(seed, 150)
    shown = shown if padded else shown._replace(tokens=shown.tokens.abs(), hidden=torch.zeros_like(shown.tokens))
    length = shown.tokens.shape[1]
    for queries in FlexAttention.prepare(shaped(16, 150), shown.visibility(150)):
        if queries is None:
            continue
        ours, size = queries.mask, (len(shown.tokens), None, length, length)
        every = pytorchs.create_block_mask(ours.mask_mod, *size, device="cpu")
        for name in ("full_kv_num_blocks", "full_q_num_blocks", "full_kv_indices", "full_q_indices"):
            assert torch.equal(getattr(ours, name), getattr(every, name)), name
        assert ours.seq_lengths == every.seq_lengths
        assert (ours.to_dense() >= every.to_dense()).all()
        assert padded or torch.equal(ours.to_dense(), every.to_dense())


def fixed_windows(ends: int, prompts: tuple[int, int]) -> Visibility:
    """Two windows of 200 tokens: episodes that end after `ends` and at the end, and one episode; both with prompts."""
    place = torch.arange(200)
    segment = torch.stack((place >= ends, place < 0)).long()
    index = torch.where(segment > 0, place - ends, place)
    prefix_len = torch.tensor(prompts)[:, None] * torch.stack((place < ends, place >= 0))
    tokens = torch.randint(1, 500, (2, 200))
    return Visibility.of(tokens, NANO.context, segment=segment, index=index, prefix_len=prefix_len)


def test_prompts_take_a_second_softmax_only_beyond_the_window() -> None:
    for ends, prompts, beyond in ((50, (5, 0), False), (50, (0, 5), True), (100, (5, 0), True), (60, (0, 0), False)):
        assert (FlexAttention.prepare(NANO, fixed_windows(ends, prompts)).prefix is not None) == beyond


def test_batches_of_one_shape_are_compiled_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorchs, "_validate_device", lambda q, k, v: None)
    compiled = torch.compile(flex._attend, backend="eager", fullgraph=True, dynamic=False)
    for i in range(6):
        backend = FlexAttention.prepare(NANO, fixed_windows(100 + i, (5 * (i % 2), 7 * (i % 2))))
        with nullcontext() if i < 2 else torch.compiler.set_stance("fail_on_recompile"):
            compiled(torch.randn(2, 200, 3, 4, 32, requires_grad=True), *backend).sum().backward()
        assert (backend.prefix is not None) == i % 2


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_value_is_read_from_the_device(
    layout: str, compiled: bool, plain: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device `meta` has no values: reading one, or mixing in a CPU tensor, raises."""
    monkeypatch.setattr(torch, "autocast", lambda device, enabled: nullcontext())  # which it lacks
    config = dataclasses.replace(NANO, **LAYOUTS[layout])
    model = Gato.skeleton(config).train()
    model.compiled = compiled
    batch = of_a_task("none", config).batch(0)
    losses = action_loss(model, batch.to("meta"), 4.0)
    assert all(part.is_meta for part in losses)
    losses.total.backward()
    assert all(p.grad is not None for p in model.blocks.parameters())
    assert model.embedding.patch.stem.weight.grad is not None


def test_it_is_for_gpus_and_heads_that_its_kernels_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "available", lambda: True)
    assert all(fits(GatoConfig.named(size), "cuda") for size in ("nano", "tiny", "small", "baseline", "large"))
    assert not fits(NANO, "cpu") and not fits(shaped(24), "cuda") and not fits(shaped(8), "cuda")
    assert compiles(TrainConfig(), NANO, torch.device("cuda:1"))
    assert not compiles(TrainConfig(compile=False), NANO, torch.device("cuda"))
    monkeypatch.setattr(flex, "available", lambda: False)
    assert not compiles(TrainConfig(), NANO, torch.device("cuda"))


@pytest.fixture
def exact() -> Iterator[None]:
    """Products of whole float32s, and nothing compiled before."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.compiler.reset()
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def gradients(model: Gato, batch: Batch, precision: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)  # of the places of patches
    model.zero_grad()
    losses = ActionLoss(model, 4.0, precision)(batch)
    (losses.total / losses.weights.sum()).backward()
    return {"loss": losses.total.detach()} | {
        name: p.grad for name, p in model.named_parameters() if p.grad is not None
    }


class TestOnADevice:
    pytestmark = gpu

    @pytest.mark.parametrize("kind", ["none", "demo"])
    @pytest.mark.parametrize(("size", "context"), [(16, 64), (32, 64), (128, 64), (32, 512)])
    @pytest.mark.parametrize(("precision", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
    def test_loss_and_gradients_are_those_of_blocks(
        self, kind: str, size: int, context: int, precision: torch.dtype, most: float, exact: None
    ) -> None:
        torch.manual_seed(0)
        config = dataclasses.replace(shaped(size, context), action_decoder=kind == "none")
        model = Gato(config).cuda().train()
        batch = of_a_task(kind, config).batch(0).to("cuda")
        actual = []
        for model.compiled in (False, True):
            actual.append(gradients(model, batch, precision))
        assert actual[0].keys() == actual[1].keys()
        for name, expected in actual[0].items():
            assert (actual[1][name] - expected).norm() <= most * expected.norm(), name

    @pytest.mark.parametrize("seed", range(6))
    def test_it_is_what_blocks_of_queries_give(self, seed: int, exact: None) -> None:
        size, context = [16, 32, 128][seed % 3], [40, 64, 150][seed // 3 % 3]
        model = Gato(shaped(size, context)).cuda().train()
        shown = random_windows(seed, context)
        arguments = {name: None if x is None else x.cuda() for name, x in shown.arguments().items()}
        actual = []
        for model.compiled in (False, True):
            hidden = model(shown.tokens.cuda(), **arguments)
            actual.append((hidden, *torch.autograd.grad(hidden.square().mean(), list(model.blocks.parameters()))))
        for blocks, ours in zip(*actual, strict=True):
            assert ours.isfinite().all()
            assert (ours - blocks).norm() <= 1e-4 * blocks.norm() + 1e-7

    @pytest.mark.parametrize("kind", ["none", "demo"])
    def test_a_run_compiles_once(self, kind: str, exact: None) -> None:
        """One graph with prompt keys beyond the window, and one without."""
        torch.manual_seed(0)
        windows = of_a_task(kind)
        batches = [windows.batch(step).to("cuda") for step in range(12)]
        config = TrainConfig(precision="bfloat16", learning_rate=1e-3, warmup=0)
        trainer = Trainer(config, Gato(NANO).cuda())
        assert trainer.model.compiled
        near = [
            dataclasses.replace(batch, segment=short(batch.segment), index=None, prefix_len=None) for batch in batches
        ]
        if kind == "demo":  # angles of each window and not of all, as in batches with prompts
            near = [dataclasses.replace(batch, prefix_len=torch.zeros_like(batch.tokens)) for batch in batches]
        trainer.update(near[0])
        losses = [trainer.update(batches[0]).loss]
        with torch.compiler.set_stance("fail_on_recompile"):
            for step in range(1, 12):
                trainer.update(near[step])
                losses.append(trainer.update(batches[step]).loss)
        assert np.isfinite(losses).all() and np.mean(losses[-3:]) < losses[0]


def short(segment: Tensor) -> Tensor:
    """The same windows, cut into pieces of 50 tokens."""
    place = torch.arange(segment.shape[1], device=segment.device)
    return segment * 1000 + place // 50
