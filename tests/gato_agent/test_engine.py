"""The compiled control step: equal to PyTorch's, the same for any number of lanes and threads, and never in the way."""

import dataclasses
import logging
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gato_agent import engine, native
from gato_agent.agent import Agent
from gato_agent.checkpoint import Checkpoint
from gato_agent.config import GatoConfig
from gato_agent.decode import Choose, Decoder, Legal, Precision, Prefill, TorchDecoder, median
from gato_agent.embedding import VALUE_WIDTH
from gato_agent.engine import Engine, make_decoder, pack
from gato_agent.envs.loop import steps
from gato_agent.model import ACTION_WIDTH, Gato
from gato_agent.seating import seat
from gato_agent.spaces import BINS, PACK, PAD

OBSERVATION = 5
WIDE = GatoConfig(2, 2, 256, 512, 100, 64, (32, 64), 16)  # heads of 128, as in the paper's larger sizes
FLAT = GatoConfig(2, 4, 64, 128, 40, 64, (32, 64), 16)  # heads of 16
ODD = GatoConfig(2, 6, 192, 256, 70, 64, (32, 64), 16)


def model_of(config: GatoConfig) -> Gato:
    torch.manual_seed(0)
    model = Gato(config).eval()
    with torch.no_grad():  # untrained attention is nearly uniform and would hide mistakes
        for block in model.blocks:
            block.attention.qkv.weight[: 2 * config.width] *= 2
    return model


def legal_for(config: GatoConfig) -> Legal:
    vocabulary = config.vocabulary
    return [
        (vocabulary.discrete + 3, vocabulary.discrete + 5),
        (vocabulary.continuous, vocabulary.discrete),
        (vocabulary.continuous + 100, vocabulary.continuous + 301),
    ]


class Recorder:
    """An agent of one action token and one pack that keeps the tokens and logits of its episodes."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.decoder, self.reset = agent, agent._decoder, agent.reset
        self.step, self.decoder.step = self.decoder.step, self.record  # type: ignore[method-assign]
        assert isinstance(self.decoder, Engine)
        self.start: Any = None
        self.episodes: list[tuple[list[tuple[Tensor, Tensor]], list[Tensor]]] = []
        self.current: dict[int, tuple[list[tuple[Tensor, Tensor]], list[Tensor]]] = {}

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        self.start = start
        return self.agent.act(observation, start)

    def record(self, prefill: Prefill, choose: Choose) -> Tensor:
        action = self.step(prefill, choose)
        for lane, fresh in enumerate(self.start):
            if fresh:
                self.current[lane] = ([], [])
                self.episodes.append(self.current[lane])
            tokens, logits = self.current[lane]
            assert prefill.packs is not None
            tokens.append((prefill.tokens[lane].clone(), prefill.packs.view(len(self.start), -1)[lane]))
            logits += [part[lane].clone() for part in self.decoder.logits]
        return action

    @torch.inference_mode()
    def worst_error(self) -> float:
        """Largest difference to one uncached forward over an episode, over max(1, largest absolute logit)."""
        model, tokenizer = self.agent.model, self.agent.tokenizer
        ((low, high),), worst = tokenizer.legal.tolist(), 0.0
        said = self.agent._prompter.reset(1)
        assert said is not None
        count = said.tokens.shape[1]
        for seen, logits in self.episodes:
            tokens, packs = zip(*seen, strict=True)
            local = torch.cat((said.local[0], torch.from_numpy(tokenizer.local).repeat(len(tokens))))
            stream = torch.cat((said.tokens[0], *tokens))
            hidden = model(stream[None], local=local[None], packs=torch.stack(packs), pinned=torch.tensor([[count]]))[
                0, count:
            ].view(len(tokens), -1, model.config.width)[:, -1]
            expected = model.logits(model.predicting(hidden), low, high)
            scale = max(1.0, expected.abs().max().item())
            worst = max(worst, (torch.stack(logits) - expected).abs().max().item() / scale)
        return worst


def play(decoder: Decoder, config: GatoConfig, lanes: int, steps: int, choose: Choose) -> tuple[Tensor, list[Tensor]]:
    """Actions [steps, lanes, 3] and logits of a run with random observations; the last lane restarts midway."""
    decoder.reset(lanes, OBSERVATION + 2)
    generator = torch.Generator().manual_seed(1)
    local = torch.tensor([[-1, *range(OBSERVATION), -1]]).repeat(lanes, 1)
    decoder.restart(torch.ones(lanes, dtype=torch.bool), age=-1)
    actions, logits = [], []
    for t in range(steps):
        if t == steps // 2:
            decoder.restart(torch.arange(lanes) == lanes - 1)
        seen = torch.randint(0, config.vocabulary.size, (lanes, OBSERVATION + 2), generator=generator)
        actions.append(decoder.step(Prefill(seen, local, None, None), choose))
        logits += [part.clone() for part in decoder.logits]
    return torch.stack(actions), logits


@pytest.mark.parametrize("config", [WIDE, FLAT, ODD])
def test_it_computes_what_pytorch_computes(config: GatoConfig) -> None:
    model = model_of(config)
    legal = legal_for(config)
    steps = 3 * config.context // (OBSERVATION + 4)  # around the ring and on
    expected, there = play(TorchDecoder(model, legal), config, 3, steps, Choose())
    actions, here = play(Engine(model, legal), config, 3, steps, Choose())
    assert torch.equal(actions, expected)
    for a, b in zip(here, there, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1.0, b.abs().max().item())


def test_actions_that_are_read_may_have_more_tokens_than_an_observation() -> None:
    def play(decoder: Decoder) -> Tensor:
        decoder.reset(1, 2)
        decoder.restart(torch.ones(1, dtype=torch.bool))
        seen = Prefill(torch.tensor([[7, FLAT.vocabulary.separator]]), torch.tensor([[0, -1]]), None, None)
        return torch.cat([decoder.step(seen, Choose()) for _ in range(30)])

    model, legal = model_of(FLAT), legal_for(FLAT) * 2
    assert torch.equal(play(Engine(model, legal)), play(TorchDecoder(model, legal)))


PACKED = dataclasses.replace(FLAT, pack=7, parallel_actions=2)


def play_packed(decoder: Decoder, lanes: int) -> tuple[Tensor, list[Tensor]]:
    """Thirty steps of nine values in two packs and three action tokens, of which a separator predicts the last."""
    decoder.reset(lanes, 3)
    decoder.restart(torch.ones(lanes, dtype=torch.bool))
    generator, local = torch.Generator().manual_seed(2), torch.arange(3).repeat(lanes, 1)
    tokens = torch.tensor([[PACK, PACK, PACKED.vocabulary.separator]]).repeat(lanes, 1)
    actions, logits = [], []
    for _ in range(30):
        packs = torch.full((9, 14), PAD, dtype=torch.int16)
        packs[:, :9] = torch.randint(0, 2 * BINS, (9, 9), generator=generator)
        actions.append(decoder.step(Prefill(tokens, local, None, None, packs[:lanes].reshape(-1, 7)), Choose()))
        logits += [part.clone() for part in decoder.logits]
    return torch.stack(actions), logits


def test_packs_and_actions_predicted_at_once_are_those_of_pytorch() -> None:
    model, legal = model_of(PACKED), legal_for(PACKED)
    expected, there = play_packed(TorchDecoder(model, legal), 9)
    actions, here = play_packed(Engine(model, legal), 9)
    assert torch.equal(actions, expected)
    for a, b in zip(here, there, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1.0, b.abs().max().item())
    for precision in get_args(Precision):
        _, many = play_packed(Engine(model, legal, precision), 9)
        assert all((a - b).abs().max() < 0.1 for a, b in zip(many, there, strict=True))
        for lanes, threads in ((9, 2), (1, 1), (4, 2)):
            _, found = play_packed(Engine(model, legal, precision, threads), lanes)
            assert all(torch.equal(a[:lanes], b) for a, b in zip(many, found, strict=True))


@pytest.mark.parametrize("packs", [
    None, torch.zeros(1, 7).short(), torch.zeros(2, 6).short(), torch.full((2, 7), -2), torch.full((2, 7), 2048),
])  # fmt: skip
def test_packs_that_the_model_cannot_read_are_refused(packs: Tensor | None) -> None:
    decoder, tokens = Engine(model_of(PACKED), legal_for(PACKED)), torch.tensor([[PACK, PACK, 3]])
    decoder.reset(1, 3)
    with pytest.raises(ValueError, match="packs"):
        decoder.step(Prefill(tokens, torch.arange(3)[None], None, None, packs), Choose())


def test_its_widths_are_those_of_the_model() -> None:
    found = re.search(r"int VALUE = (\d+), STATE = (\d+);", engine.SOURCE.read_text())
    assert found is not None
    assert (int(found[1]), int(found[2])) == (VALUE_WIDTH, ACTION_WIDTH)


def test_of_bins_the_median_is_chosen_and_of_choices_the_likeliest() -> None:
    shares = torch.tensor([[0.3, 0.15, 0.1, 0.2, 0.25], [0.0, 0.6, 0.0, 0.1, 0.3], [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert Choose()(shares.log(), ordered=True).tolist() == [2, 1, 4]
    assert Choose()(shares.log()).tolist() == [0, 1, 4]
    model, vocabulary = model_of(PACKED), PACKED.vocabulary
    legal = [(vocabulary.continuous, vocabulary.discrete), (vocabulary.discrete, vocabulary.discrete + 9)]
    actions, logits = play_packed(decoder := Engine(model, legal), 2)
    assert len(decoder.logits) == 2
    for step, (bins, choices) in enumerate(zip(logits[::2], logits[1::2], strict=True)):
        assert torch.equal(actions[step, :, 0] - vocabulary.continuous, median(bins))
        assert torch.equal(actions[step, :, 1] - vocabulary.discrete, choices.argmax(-1))


@pytest.mark.parametrize("task", ["CartPole-v1", "LunarLander-v3"])
def test_it_plays_the_shipped_weights_as_one_uncached_forward(task: str) -> None:
    """5,000 environment steps and more of each, with restarts: logits within 1e-5 of the largest."""
    checkpoint = Checkpoint.load(None)
    with seat(checkpoint, task, 4) as (agent, envs):
        recorder = Recorder(agent)
        count = sum(1 for _ in steps(recorder, envs, range(1_000_000, 1_000_014)))
    assert count > 5000
    assert recorder.worst_error() < 1e-5


def test_a_lanes_numbers_do_not_depend_on_other_lanes_or_threads() -> None:
    model, legal = model_of(FLAT), legal_for(FLAT)
    _, many = play(Engine(model, legal, threads=1), FLAT, 9, 30, Choose())
    _, threaded = play(Engine(model, legal, threads=2), FLAT, 9, 30, Choose())
    assert all(torch.equal(a, b) for a, b in zip(many, threaded, strict=True))
    tokens = torch.randint(0, FLAT.vocabulary.size, (20, 9, OBSERVATION + 2))
    local = torch.full((9, OBSERVATION + 2), -1)
    for lanes in (1, 2, 5):
        together, fewer = Engine(model, legal), Engine(model, legal)
        together.reset(9, OBSERVATION + 2)
        fewer.reset(lanes, OBSERVATION + 2)
        for seen in tokens:
            together.step(Prefill(seen, local, None, None), Choose())
            fewer.step(Prefill(seen[:lanes], local[:lanes], None, None), Choose())
            assert all(torch.equal(a[:lanes], b) for a, b in zip(together.logits, fewer.logits, strict=True))


def test_it_does_not_see_what_becomes_of_the_model() -> None:
    model, legal = model_of(FLAT), legal_for(FLAT)
    _, expected = play(Engine(model, legal), FLAT, 2, 10, Choose())
    decoder = Engine(model, legal)
    model.double()  # frees what the parameters were
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    _, found = play(decoder, FLAT, 2, 10, Choose())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_model_of_another_dtype_is_played_in_float32() -> None:
    model, legal = model_of(FLAT).bfloat16(), legal_for(FLAT)
    _, found = play(Engine(model, legal), FLAT, 2, 10, Choose())
    _, expected = play(Engine(model.float(), legal), FLAT, 2, 10, Choose())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_it_samples_the_same_ids() -> None:
    def choose() -> Choose:
        return Choose(0.7, [torch.Generator().manual_seed(lane) for lane in range(2)])

    model = model_of(FLAT)
    expected, _ = play(TorchDecoder(model, legal_for(FLAT)), FLAT, 2, 40, choose())
    actions, _ = play(Engine(model, legal_for(FLAT)), FLAT, 2, 40, choose())
    assert torch.equal(actions, expected)
    assert len(actions[:, 0, 1].unique()) > 20


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.02), ("int8", 0.05)])
def test_reduced_precision_is_near(precision: Precision, bound: float) -> None:
    """Logits of the shipped weights over one token a step, so that the stream is the same whatever is chosen."""
    model = Checkpoint.load(None).model
    legal = legal_for(model.config)[:1]
    _, expected = play(Engine(model, legal), model.config, 1, 60, Choose())
    _, found = play(Engine(model, legal, precision), model.config, 1, 60, Choose())
    scale = max(1.0, *(part.abs().max().item() for part in expected))
    errors = [(a - b).abs().max().item() / scale for a, b in zip(found, expected, strict=True)]
    assert 0 < max(errors) < bound


@pytest.mark.parametrize("tokens", [torch.zeros(3, 4).long(), torch.zeros(2, 8).long(), torch.zeros(2, 4).int()])
def test_tokens_that_it_was_not_prepared_for_are_refused(tokens: Tensor) -> None:
    decoder = Engine(model_of(FLAT), legal_for(FLAT))
    decoder.reset(2, OBSERVATION + 2)
    with pytest.raises(ValueError, match=r"reset prepared for int64 \[2, n\] with n at most 7"):
        decoder.step(Prefill(tokens, tokens, None, None), Choose())


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_stays_as_it_is_over_ten_thousand_steps() -> None:
    model = model_of(FLAT)
    legal = legal_for(FLAT)
    decoder = Engine(model, legal)
    decoder.reset(2, OBSERVATION + 2)
    tokens = torch.zeros(2, OBSERVATION + 2, dtype=torch.int64)
    local = torch.full_like(tokens, -1)
    before = 0
    for t in range(11_000):
        decoder.step(Prefill(tokens, local, None, None), Choose())
        before = resident() if t == 1000 else before
    assert resident() - before < 2**20


def test_packing_keeps_every_weight() -> None:
    weight = torch.randn(100, 48)
    exact = pack(weight, "float32").kept[0]
    assert exact.shape == (2, 48, 64)
    assert torch.equal(exact.transpose(1, 2).reshape(128, 48)[:100], weight)
    panels, scale = pack(weight, "int8").kept
    restored = panels.float().transpose(1, 2).reshape(128, 48) * scale.unsqueeze(1)
    assert ((restored[:100] - weight).abs() <= weight.abs().amax(1, keepdim=True) / 254 + 1e-7).all()


def test_shapes_that_cannot_be_packed_are_played_with_pytorch() -> None:
    config = GatoConfig(1, 2, 96, 128, 40, 64, (32, 64), 16)
    assert not Engine.fits(config)
    assert isinstance(make_decoder(Gato(config).eval(), legal_for(config)), TorchDecoder)
    assert all(Engine.fits(GatoConfig.named(size)) for size in ("nano", "tiny", "small", "baseline", "large"))


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false", None])
def test_without_a_compiler_it_plays_with_pytorch_and_says_so(
    compiler: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler or "")
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    native.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            decoder = make_decoder(model_of(FLAT), legal_for(FLAT))
    finally:
        native.library.cache_clear()
    assert isinstance(decoder, TorchDecoder)
    assert "with PyTorch alone" in caplog.text and "compiler" in caplog.text
    assert not list(tmp_path.rglob("*.so"))


def test_a_broken_library_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "g++ -g0")
    native.library.cache_clear()
    try:
        (tmp_path / "gato-agent").mkdir()
        broken = tmp_path / "gato-agent" / f"engine-{native._identity(['g++', '-g0'], engine.SOURCE)}.so"
        broken.touch()
        native.library(engine.SOURCE)
        assert broken.stat().st_size > 1000
    finally:
        native.library.cache_clear()


@pytest.mark.parametrize("damage", [lambda code: code[: len(code) // 2], lambda code: code[:-1], lambda code: b""])
def test_compiled_code_that_was_cut_is_compiled_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """The loader would map the file as it says to be, and touching what is missing would end the process."""
    source = tmp_path / "small.cpp"
    source.write_text('extern "C" int answer() { return 42; }')
    program = (
        f"import pathlib; from gato_agent import native; print(native.library(pathlib.Path({str(source)!r})).answer())"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    for _ in range(2):
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
        (built,) = tmp_path.rglob("*.so")
        assert native._is_whole(built)
        built.write_bytes(damage(built.read_bytes()))
        assert not native._is_whole(built)


def test_a_place_that_the_model_has_not_is_refused() -> None:
    decoder = Engine(model_of(FLAT), legal_for(FLAT))
    decoder.reset(1, 4)
    with pytest.raises(ValueError, match="below 16 are known"):
        decoder.step(Prefill(torch.zeros(1, 4).long(), torch.full((1, 4), 16), None, None), Choose())


def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        native.library(engine.SOURCE)
        (built,) = tmp_path.rglob("*.so")
        native.library.cache_clear()
        monkeypatch.setattr(native.subprocess, "run", None)
        native.library(engine.SOURCE)
        assert sorted(tmp_path.rglob("*")) == [built.parent, built.with_suffix(".sha256"), built]
    finally:
        native.library.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the options are x86's")
@pytest.mark.parametrize("option", ["-mno-avx512f", "-mno-avx"])
def test_narrower_registers_compute_the_same(option: str, tmp_path: Path) -> None:
    files = [str(Path(__file__).with_name(name)) for name in ("test_engine.py", "test_band.py")]
    environment = {**os.environ, "CXX": f"c++ {option}", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "not slow", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert len(list(tmp_path.rglob("*.so"))) >= 2
