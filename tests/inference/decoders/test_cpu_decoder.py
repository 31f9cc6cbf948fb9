"""The compiled control step: equal to PyTorch's, the same whatever else is played, and never in the way."""

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

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.loop import steps
from gato_agent.inference.agent import Agent
from gato_agent.inference.decoders import cpu_decoder
from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.cpu_weights import panels
from gato_agent.inference.decoders.decoder import Legal, Precision, Prefill, StepOptions
from gato_agent.inference.decoders.make_decoder import make_decoder
from gato_agent.inference.decoders.sampling import choose
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.inference.make_agent import make_agent_and_envs
from gato_agent.model.action_decoder import CHOSEN_WIDTH, STATE_WIDTH
from gato_agent.model.config import GatoConfig
from gato_agent.model.embedding import VALUE_WIDTH
from gato_agent.model.gato import Gato
from gato_agent.native import build as native
from gato_agent.tokens.space_tokenizer import BINS, VALUES
from gato_agent.tokens.timestep_layout import ACTION_GROUP
from tests.helpers.driving import OBSERVATION, Driver, forced, play, sampled, teacher_forced
from tests.helpers.harsh import harsh
from tests.helpers.paths import ROOT
from tests.helpers.shapes import LAYOUTS

WIDE = GatoConfig(2, 2, 256, 512, 100, 64, (32, 64), 16)  # heads of 128, as in the paper's larger sizes
FLAT = GatoConfig(2, 4, 64, 128, 40, 64, (32, 64), 16)  # heads of 16
ODD = GatoConfig(2, 6, 192, 256, 70, 64, (32, 64), 16)
PACKED = dataclasses.replace(FLAT, values_per_token=7, action_decoder=True)
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def shaped(layout: str, config: GatoConfig = FLAT) -> Gato:
    return harsh(dataclasses.replace(config, **LAYOUTS[layout]))


def legal_for(config: GatoConfig) -> Legal:
    """Three action tokens of other ranges."""
    vocabulary = config.vocabulary
    return [
        (vocabulary.discrete + 3, vocabulary.discrete + 5),
        (vocabulary.continuous, vocabulary.discrete),
        (vocabulary.continuous + 100, vocabulary.continuous + 301),
    ]


class Recorder:
    """An agent of one action token and one value group that keeps the tokens and logits of its episodes."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.decoder, self.reset = agent, agent._stepper.decoder, agent.reset
        self.step, self.decoder.step = self.decoder.step, self.record  # type: ignore[method-assign]
        assert isinstance(self.decoder, CpuDecoder)
        self.start: Any = None
        self.episodes: list[tuple[list[tuple[Tensor, Tensor]], list[Tensor]]] = []
        self.current: dict[int, tuple[list[tuple[Tensor, Tensor]], list[Tensor]]] = {}

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        self.start = start
        return self.agent.act(observation, start)

    def record(self, prefill: Prefill, options: StepOptions, envs: Tensor | None = None) -> Tensor:
        action = self.step(prefill, options, envs)
        for env_index, fresh in enumerate(self.start):
            if fresh:
                self.current[env_index] = ([], [])
                self.episodes.append(self.current[env_index])
            tokens, logits = self.current[env_index]
            assert prefill.value_groups is not None
            tokens.append(
                (prefill.tokens[env_index].clone(), prefill.value_groups.view(len(self.start), -1)[env_index])
            )
            logits += [part[env_index].clone() for part in self.decoder.logits]
        return action

    @torch.inference_mode()
    def worst_error(self) -> float:
        """Largest difference to one uncached forward over an episode, over max(1, largest absolute logit)."""
        model, tokenizer = self.agent.model, self.agent.tokenizer
        legal, worst = [(int(low), int(high)) for low, high in tokenizer.legal], 0.0
        prompt = self.agent._stepper.prompter.reset(1)
        assert prompt is not None and len(legal) == 1
        count = torch.tensor([[prompt.tokens.shape[1]]])
        for seen, logits in self.episodes:
            tokens, value_groups = zip(*seen, strict=True)
            local = torch.cat((prompt.local[0], torch.from_numpy(tokenizer.layout.local).repeat(len(tokens))))
            stream = torch.cat((prompt.tokens[0], *tokens))
            hidden = model(stream[None], local=local[None], value_groups=torch.stack(value_groups), prefix_len=count)
            last = hidden[0, count.item() :].view(len(tokens), -1, model.config.width)[:, -1]
            (expected,) = teacher_forced(model, [last], torch.zeros(len(tokens), 1).long(), legal)
            scale = max(1.0, expected.abs().max().item())
            worst = max(worst, (torch.stack(logits) - expected).abs().max().item() / scale)
        return worst


@layouts
@pytest.mark.parametrize("config", [WIDE, FLAT, ODD])
def test_it_computes_what_pytorch_computes(config: GatoConfig, layout: str) -> None:
    """Greedily, around the ring and on."""
    model, legal = shaped(layout, config), legal_for(config)
    steps = 3 * config.context // (OBSERVATION + 1)
    expected = play(model, TorchDecoder, 3, steps, legal=legal)
    actual = play(model, CpuDecoder, 3, steps, legal=legal)
    assert torch.equal(actual.actions, expected.actions)
    assert actual.error(expected) <= 1e-5


@pytest.mark.parametrize("layout", ["hidden", "visible"])
def test_actions_that_are_read_may_have_more_tokens_than_an_observation(layout: str) -> None:
    model, legal = shaped(layout), legal_for(FLAT) * 2
    tokens, local = torch.tensor([[7, FLAT.vocabulary.separator]]), torch.tensor([[0, -1]])

    def actions(decoder: CpuDecoder | TorchDecoder) -> Tensor:
        decoder.reset(1, 2 if layout == "visible" else len(legal))
        decoder.reset_envs(torch.ones(1, dtype=torch.bool))
        return torch.cat([decoder.step(Prefill(tokens, local, None, None)) for _ in range(30)])

    assert torch.equal(actions(CpuDecoder(model, legal)), actions(TorchDecoder(model, legal)))


@pytest.mark.parametrize("groups", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_value_groups_and_long_actions_are_those_of_pytorch(groups: int) -> None:
    """In all precisions; a number's bits depend neither on other environments nor on threads."""
    model, legal = harsh(PACKED), legal_for(PACKED) * (1 if groups == 1 else 12)
    expected = play(model, TorchDecoder, 9, 14, legal=legal)
    actual = play(model, CpuDecoder, 9, 14, legal=legal)
    assert torch.equal(actual.actions, expected.actions)
    assert actual.error(expected) < 1e-5
    for precision in get_args(Precision):
        many = play(model, CpuDecoder(model, legal, precision), 9, 14, forced(expected), legal)
        assert many.error(expected) < 0.1
        many = play(model, CpuDecoder(model, legal, precision), 9, 14, legal=legal)
        for num_envs, threads in ((9, 2), (1, 1), (4, 2)):
            fewer = play(model, CpuDecoder(model, legal, precision, threads), num_envs, 14, legal=legal)
            assert fewer.equals(many.first(num_envs))


@pytest.mark.parametrize("value_groups", [
    None, torch.zeros(1, 7).short(), torch.zeros(2, 6).short(), torch.full((2, 7), -2), torch.full((2, 7), 2048),
])  # fmt: skip
def test_value_groups_that_the_model_cannot_read_are_refused(value_groups: Tensor | None) -> None:
    decoder, tokens = CpuDecoder(harsh(PACKED), legal_for(PACKED)), torch.tensor([[VALUES, VALUES, 3]])
    decoder.reset(1, 3)
    with pytest.raises(ValueError, match=r"value.groups"):
        decoder.step(Prefill(tokens, torch.arange(3)[None], None, None, value_groups))


def test_its_widths_are_those_of_the_model() -> None:
    text = cpu_decoder.SOURCE.read_text()
    widths = re.search(r"int VALUE = (\d+), STATE = (\d+), CHOSEN = (\d+);", text)
    group = re.search(r"int GROUP = (\d+);", text)
    assert widths is not None and group is not None
    assert [int(width) for width in widths.groups()] == [VALUE_WIDTH, STATE_WIDTH, CHOSEN_WIDTH]
    assert int(group[1]) == ACTION_GROUP


@layouts
def test_of_bins_the_median_is_chosen_and_of_choices_the_likeliest(layout: str) -> None:
    model, vocabulary = shaped(layout), FLAT.vocabulary
    legal = [(vocabulary.continuous, vocabulary.discrete), (vocabulary.discrete, vocabulary.discrete + 9)]
    actions, logits = play(model, CpuDecoder, 2, 30, legal=legal)
    for step, (bins, choices) in enumerate(zip(logits[::2], logits[1::2], strict=True)):
        assert torch.equal(actions[step, :, 0] - vocabulary.continuous, choose(bins, ordered=True))
        assert torch.equal(actions[step, :, 1] - vocabulary.discrete, choices.argmax(-1))


@pytest.mark.parametrize("task", ["CartPole-v1", "LunarLander-v3"])
def test_it_plays_the_shipped_weights_as_one_uncached_forward(task: str) -> None:
    """5,000 environment steps and more of each, with restarts: logits within 1e-5 of the largest."""
    checkpoint = Checkpoint.load(None)
    with make_agent_and_envs(checkpoint, task, 4) as (agent, envs):
        recorder = Recorder(agent)
        count = sum(1 for _ in steps(recorder, envs, range(1_000_000, 1_000_014)))
    assert count > 5000
    assert recorder.worst_error() < 1e-5


@layouts
def test_an_environments_numbers_do_not_depend_on_others_or_threads(layout: str) -> None:
    model, legal = shaped(layout), legal_for(FLAT)
    many = play(model, CpuDecoder, 9, 16, legal=legal)
    assert play(model, CpuDecoder(model, legal, threads=2), 9, 16, legal=legal).equals(many)
    for num_envs in (1, 2, 5):
        assert play(model, CpuDecoder, num_envs, 16, legal=legal).equals(many.first(num_envs))


@pytest.mark.parametrize("layout", ["decoder", "hidden"])
def test_it_does_not_see_what_becomes_of_the_model(layout: str) -> None:
    model, legal = shaped(layout), legal_for(FLAT)
    expected = play(model, CpuDecoder, 2, 10, legal=legal)
    decoder = CpuDecoder(model, legal)
    model.double()  # frees what the parameters were
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert play(model, decoder, 2, 10, legal=legal).equals(expected)


@pytest.mark.parametrize("layout", ["decoder", "hidden"])
def test_a_model_of_another_dtype_is_played_in_float32(layout: str) -> None:
    model, legal = shaped(layout).bfloat16(), legal_for(FLAT)
    actual = play(model, CpuDecoder, 2, 10, legal=legal)
    assert actual.equals(play(model.float(), CpuDecoder, 2, 10, legal=legal))


@layouts
def test_it_samples_the_same_ids(layout: str) -> None:
    model, legal = shaped(layout), legal_for(FLAT)
    expected = play(model, TorchDecoder, 2, 40, sampled(2, 3), legal)
    actual = play(model, CpuDecoder, 2, 40, sampled(2, 3), legal)
    assert torch.equal(actual.actions, expected.actions)
    assert len(actual.actions[:, 0, 1].unique()) > 20


@pytest.mark.parametrize("layout", ["decoder", "separator"])
def test_marginals_are_those_of_pytorch(layout: str) -> None:
    """Each token without regard to those before it, which differs from the second token on alone."""
    model, legal = shaped(layout), legal_for(FLAT)

    def marginal(step: int) -> StepOptions:
        return StepOptions(marginal=True)

    expected, actual = (play(model, kind, 2, 20, marginal, legal) for kind in (TorchDecoder, CpuDecoder))
    assert torch.equal(actual.actions, expected.actions)
    assert actual.error(expected) < 1e-5
    chained = play(model, CpuDecoder, 2, 20, legal=legal)
    for at, (a, b) in enumerate(zip(actual.logits, chained.logits, strict=True)):
        assert torch.equal(a, b) == (at % 3 == 0)


@layouts
def test_it_follows_what_it_is_told(layout: str) -> None:
    """Forced ids are chosen whatever the logits, and later tokens and steps read them."""
    model, legal = shaped(layout), legal_for(FLAT)
    generator = torch.Generator().manual_seed(0)
    wanted = torch.stack([torch.randint(low, high, (20, 2), generator=generator) for low, high in legal], dim=2)

    def forced_options(step: int) -> StepOptions:
        return StepOptions(forced=wanted[step])

    expected, actual = (play(model, kind, 2, 20, forced_options, legal) for kind in (TorchDecoder, CpuDecoder))
    assert torch.equal(actual.actions, wanted) and torch.equal(expected.actions, wanted)
    assert actual.error(expected) < 1e-5


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.02), ("int8", 0.05)])
def test_reduced_precision_is_near(precision: Precision, bound: float) -> None:
    """Logits of the shipped weights, over the same actions."""
    model = Checkpoint.load(None).model
    legal = legal_for(model.config)
    expected = play(model, CpuDecoder, 1, 60, legal=legal)
    assert 0 < play(model, CpuDecoder(model, legal, precision), 1, 60, forced(expected), legal).error(expected) < bound


@pytest.mark.parametrize("tokens", [torch.zeros(3, 4).long(), torch.zeros(2, 8).long(), torch.zeros(2, 4).int()])
def test_tokens_that_it_was_not_prepared_for_are_refused(tokens: Tensor) -> None:
    decoder = CpuDecoder(harsh(FLAT), legal_for(FLAT))
    decoder.reset(2, 7)
    with pytest.raises(ValueError, match=r"reset prepared for int64 \[2, n\] with n at most 7"):
        decoder.step(Prefill(tokens, tokens, None, None))


@pytest.mark.parametrize("wrong", [FLAT.vocabulary.size, 2**40, -4, -(2**40)])
@pytest.mark.parametrize("prompt", [False, True])
def test_ids_that_the_vocabulary_has_not_are_refused(wrong: int, prompt: bool) -> None:
    decoder = CpuDecoder(harsh(FLAT), legal_for(FLAT))
    decoder.reset(2, 4, 4)
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    tokens[1, 2] = wrong
    seen = Prefill(tokens, tokens.clamp(max=0), None, None)
    with pytest.raises(ValueError, match=rf"token ids .*{wrong}.* the vocabulary has {FLAT.vocabulary.size}"):
        decoder.prefill_prefix(torch.ones(2, dtype=torch.bool), seen) if prompt else decoder.step(seen)


@pytest.mark.parametrize("layout", ["decoder", "hidden"])
@pytest.mark.parametrize("change", ["low", "high", "far", "short", "long", "flat", "int32"])
def test_forced_ids_that_are_not_legal_are_refused(layout: str, change: str) -> None:
    model, legal = shaped(layout), legal_for(FLAT)
    ids = torch.tensor([[low for low, _ in legal]] * 2)
    ids[1, 1] += {"low": -1, "high": BINS, "far": 2**40}.get(change, 0)
    ids = {"short": ids[:, :2], "long": ids.repeat(1, 2), "flat": ids[0], "int32": ids.int()}.get(change, ids)
    driver = Driver(model, 2, CpuDecoder, legal=legal)
    observed, value_groups = (
        torch.zeros(2, OBSERVATION, dtype=torch.int64),
        torch.zeros(2, model.config.values_per_token).short(),
    )
    if model.config.values_per_token > 1:
        observed[:, -1] = VALUES
    start = torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"forced action tokens must be among the ids|options of a step"):
        driver.step(observed, value_groups, start, StepOptions(forced=ids))


IDS = 2 + BINS + 201  # legal ones of all action tokens


@pytest.mark.parametrize(
    "options",
    [
        StepOptions(uniforms=torch.rand(2, 2, dtype=torch.float64)),
        StepOptions(uniforms=torch.rand(3, 3, dtype=torch.float64)),
        StepOptions(uniforms=torch.rand(6, dtype=torch.float64)),
        StepOptions(uniforms=torch.rand(2, 3, dtype=torch.float32)),
        StepOptions(allowed=torch.ones(2, IDS - 1, dtype=torch.bool)),
        StepOptions(allowed=torch.ones(1, IDS, dtype=torch.bool)),
        StepOptions(allowed=torch.ones(2, 3, dtype=torch.bool)),
        StepOptions(allowed=torch.arange(IDS).repeat(2, 1) >= 2),
    ],
    ids=["short", "tall", "flat", "float32", "narrow", "low", "tokens", "nothing allowed"],
)
def test_options_that_do_not_fit_are_refused(options: StepOptions) -> None:
    """None may be read beyond its end, or lead to an id that is not legal."""
    decoder = CpuDecoder(harsh(FLAT), legal_for(FLAT))
    decoder.reset(2, 7)
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    decoder.step(Prefill(tokens, tokens, None, None))
    with pytest.raises(ValueError, match=r"options of a step|a mask of a step"):
        decoder.step(Prefill(tokens, tokens, None, None), options)


def test_too_few_tokens_for_a_long_action_are_refused() -> None:
    decoder = CpuDecoder(harsh(PACKED), legal_for(PACKED) * 12)
    decoder.reset(1, 3)
    tokens = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"1 tokens cannot predict 36: it takes 2"):
        decoder.step(Prefill(tokens, tokens, None, None))


def test_a_library_with_other_structs_is_not_called(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither one of another size nor one more or less; the model is then played with PyTorch."""
    structs = cpu_decoder.STRUCTS
    assert cpu_decoder._compiled.__wrapped__()
    for wrong in (structs[::-1], (*structs[:-1], structs[0])):
        monkeypatch.setattr(cpu_decoder, "STRUCTS", wrong)
        with pytest.raises(OSError, match=r"cpu_decoder.cpp was compiled with other structs: \[16, "):
            cpu_decoder._compiled.__wrapped__()
    cpu_decoder._compiled.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert isinstance(make_decoder(harsh(FLAT), legal_for(FLAT)), TorchDecoder)
    finally:
        cpu_decoder._compiled.cache_clear()
    assert "with PyTorch alone" in caplog.text


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@layouts
def test_memory_stays_as_it_is_over_ten_thousand_steps(layout: str) -> None:
    driver = Driver(shaped(layout), 2, CpuDecoder)
    tokens = torch.zeros_like(driver.local)
    value_groups = torch.zeros(2, 8).short() if driver.layout.value_groups else None
    if value_groups is not None:
        tokens[:, -1] = VALUES
    seen, before = Prefill(tokens, driver.local, None, None, value_groups), 0
    options = sampled(2, 2)
    for t in range(11_000):
        driver.decoder.step(seen, options(t % 200))
        before = resident() if t == 1000 else before
    assert resident() - before < 2**20


def test_packing_keeps_every_weight() -> None:
    weight = torch.randn(100, 48)
    exact = panels(weight, "float32").sources[0]
    assert exact.shape == (2, 48, 64)
    assert torch.equal(exact.transpose(1, 2).reshape(128, 48)[:100], weight)
    packed, scale = panels(weight, "int8").sources
    restored = packed.float().transpose(1, 2).reshape(128, 48) * scale.unsqueeze(1)
    assert ((restored[:100] - weight).abs() <= weight.abs().amax(1, keepdim=True) / 254 + 1e-7).all()


def test_shapes_that_cannot_be_packed_are_played_with_pytorch() -> None:
    config = GatoConfig(1, 2, 96, 128, 40, 64, (32, 64), 16)
    assert not CpuDecoder.fits(config)
    assert isinstance(make_decoder(Gato(config).eval(), legal_for(config)), TorchDecoder)
    assert all(CpuDecoder.fits(GatoConfig.named(size)) for size in ("nano", "tiny", "small", "baseline", "large"))


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false", None])
def test_without_a_compiler_it_plays_with_pytorch_and_says_so(
    compiler: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler or "")
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    for cached in (native.library, cpu_decoder._compiled):
        cached.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            decoder = make_decoder(harsh(FLAT), legal_for(FLAT))
    finally:
        for cached in (native.library, cpu_decoder._compiled):
            cached.cache_clear()
    assert isinstance(decoder, TorchDecoder)
    assert "with PyTorch alone" in caplog.text and "compiler" in caplog.text
    assert not list(tmp_path.rglob("*.so"))


def test_a_broken_library_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "g++ -g0")
    native.library.cache_clear()
    try:
        (tmp_path / "gato-agent").mkdir()
        broken = (
            tmp_path
            / "gato-agent"
            / f"{cpu_decoder.SOURCE.stem}-{native._identity(['g++', '-g0'], cpu_decoder.SOURCE)}.so"
        )
        broken.touch()
        native.library(cpu_decoder.SOURCE, "the decoder")
        assert broken.stat().st_size > 1000
    finally:
        native.library.cache_clear()


def test_a_changed_header_is_another_build(tmp_path: Path) -> None:
    source, header = tmp_path / "small.cpp", tmp_path / "small.h"
    source.write_text('#include "small.h"')
    identities = [native._identity(["g++"], source)]
    for text in ("int a;", "int b;"):
        header.write_text(text)
        identities.append(native._identity(["g++"], source))
    assert len(set(identities)) == 3


@pytest.mark.parametrize("damage", [lambda code: code[: len(code) // 2], lambda code: code[:-1], lambda code: b""])
def test_compiled_code_that_was_cut_is_compiled_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """The loader would map the file as it says to be, and touching what is missing would end the process."""
    source = tmp_path / "small.cpp"
    source.write_text('extern "C" int answer() { return 42; }')
    program = (
        "import pathlib; from gato_agent.native import build; "
        f"print(build.library(pathlib.Path({str(source)!r}), 'a test').answer())"
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
    decoder = CpuDecoder(harsh(FLAT), legal_for(FLAT))
    decoder.reset(1, 4)
    with pytest.raises(ValueError, match="below 16 are known"):
        decoder.step(Prefill(torch.zeros(1, 4).long(), torch.full((1, 4), 16), None, None))


def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        native.library(cpu_decoder.SOURCE, "the decoder")
        (built,) = tmp_path.rglob("*.so")
        native.library.cache_clear()
        monkeypatch.setattr(native, "_compile", None)
        native.library(cpu_decoder.SOURCE, "the decoder")
        assert sorted(tmp_path.rglob("*")) == [built.parent, built.with_suffix(".sha256"), built]
    finally:
        native.library.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the options are x86's")
@pytest.mark.parametrize("option", ["-mno-avx512f", "-mno-avx"])
def test_narrower_registers_compute_the_same(option: str, tmp_path: Path) -> None:
    files = [
        str(ROOT / "tests" / name) for name in ("inference/decoders/test_cpu_decoder.py", "model/test_cpu_attention.py")
    ]
    environment = {**os.environ, "CXX": f"c++ {option}", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "not slow", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert len(list(tmp_path.rglob("*.so"))) >= 2
