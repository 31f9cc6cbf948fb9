"""Choices follow the distribution to the last share, and never fall on what has no probability."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.decoder import StepOptions
from gato_agent.inference.decoders.sampling import Sampler, choose, log_prob
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.model.config import GatoConfig
from tests.helpers.driving import play
from tests.helpers.harsh import harsh
from tests.helpers.shapes import LAYOUTS, NANO

EDGES = 0.0, 5e-324, 2.0**-53, 0.5, 1 - 2.0**-53  # of the numbers in [0, 1)


def exact(logits: Tensor, temperature: float, allowed: Tensor) -> np.ndarray:
    """Cumulative distribution of one row in extended precision."""
    scores = np.where(allowed.numpy(), logits.double().numpy().astype(np.longdouble) / temperature, -np.inf)
    shares = np.exp(scores - scores.max())
    return np.cumsum(shares / shares.sum())


@st.composite
def distributions(draw: st.DrawFn) -> tuple[Tensor, Tensor, float]:
    """Logits [ids], float32 and perhaps -inf, ids that are allowed, of which one may be chosen, and a temperature."""
    count = draw(st.integers(1, 40))
    values = st.floats(-200, 200, width=32) | st.sampled_from([0.0, -float("inf"), -1e30, 3e4])
    logits = torch.tensor(draw(st.lists(values, min_size=count, max_size=count)))
    allowed = torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    one = draw(st.integers(0, count - 1))
    allowed[one], logits[one] = True, draw(st.floats(-200, 200, width=32))
    return logits, allowed, draw(st.sampled_from([0.1, 0.7, 1.0, 5.0]))


@given(distributions(), st.floats(0, 1, exclude_max=True) | st.sampled_from(EDGES))
def test_a_uniform_number_cuts_the_cumulative_distribution(given: tuple[Tensor, Tensor, float], uniform: float) -> None:
    """The first id with more of the probability up to it; within rounding of a cut either side is right."""
    logits, allowed, temperature = given
    cumulative = exact(logits, temperature, allowed)
    index = choose(
        logits[None], uniform=torch.tensor([uniform], dtype=torch.float64), temperature=temperature,
        allowed=allowed[None],
    ).item()  # fmt: skip
    below = cumulative[index - 1] if index else 0.0
    assert below <= uniform + 1e-12 and uniform - 1e-12 < cumulative[index]


@given(distributions(), st.sampled_from([None, *EDGES]), st.booleans())
def test_what_has_no_probability_is_never_chosen(
    given: tuple[Tensor, Tensor, float], uniform: float | None, ordered: bool
) -> None:
    """Neither ids that are not allowed nor those whose share is zero, at the edges of [0, 1) and greedily."""
    logits, allowed, temperature = given
    drawn = None if uniform is None else torch.tensor([uniform], dtype=torch.float64)
    index = choose(logits[None], ordered=ordered, uniform=drawn, temperature=temperature, allowed=allowed[None])
    scores = logits.double().masked_fill(~allowed, -torch.inf) / (1.0 if uniform is None else temperature)
    assert allowed[index].all()
    assert scores.softmax(-1)[index] > 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_numbers_side_by_side_give_every_id_its_share(temperature: float) -> None:
    generator, count = torch.Generator().manual_seed(0), 100_000
    logits, allowed = 3 * torch.randn(30, generator=generator), torch.rand(30, generator=generator) < 0.7
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    index = choose(
        logits.expand(count, -1), uniform=uniform, temperature=temperature, allowed=allowed.expand(count, -1)
    )
    wanted = np.diff(exact(logits, temperature, allowed), prepend=0.0) * count
    actual = np.bincount(index.numpy(), minlength=30)
    assert np.abs(actual - wanted).max() <= 1


def test_greedy_takes_the_median_of_bins_and_of_others_the_likeliest() -> None:
    shares = torch.tensor([[0.3, 0.15, 0.1, 0.2, 0.25], [0.0, 0.6, 0.0, 0.1, 0.3], [0.0, 0.0, 0.0, 0.0, 1.0]])
    assert choose(shares.log(), ordered=True).tolist() == [2, 1, 4]
    assert choose(shares.log()).tolist() == [0, 1, 4]
    allowed = torch.tensor([[False, True, False, True, True], [True, False, True, True, True], [True] * 5])
    assert choose(shares.log(), ordered=True, allowed=allowed).tolist() == [3, 4, 4]
    assert choose(shares.log(), allowed=allowed).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("shares", "median", "likeliest"),
    [([1, 1], 0, 0), ([1, 1, 1, 1], 1, 0), ([1, 0, 1], 0, 0), ([0, 1, 0, 1], 1, 1), ([1, 1, 1], 1, 0), ([2], 0, 0)],
)
def test_of_ties_the_first_is_chosen(shares: list[int], median: int, likeliest: int) -> None:
    """The median is the first id with half of the probability up to it."""
    logits = torch.tensor([shares]).float().log()
    assert choose(logits, ordered=True).item() == median
    assert choose(logits).item() == likeliest


@pytest.mark.parametrize("kind", [TorchDecoder, CpuDecoder])
@pytest.mark.parametrize("layout", ["decoder", "hidden"])
def test_decoders_break_ties_alike(kind: type[TorchDecoder | CpuDecoder], layout: str) -> None:
    """All ids are exactly equally likely."""
    model = harsh(dataclasses.replace(NANO, context=20, layers=1, **LAYOUTS[layout]))
    bins, choices = model.config.vocabulary.continuous, model.config.vocabulary.discrete
    with torch.no_grad():
        table = model.action_decoder.table if model.action_decoder else model.embedding.table
        table.weight.zero_()
    legal = [(bins, bins + 4), (choices, choices + 4)]
    assert play(model, kind, 2, 1, legal=legal).actions[0].tolist() == [[bins + 1, choices]] * 2
    for uniform, index in ((0.0, 0), (0.25 - 2**-54, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1 - 2.0**-53, 3)):
        options = StepOptions(torch.full((2, 2), uniform, dtype=torch.float64), torch.tensor(0.3))
        actual = play(model, kind, 2, 1, lambda step, given=options: given, legal)
        assert actual.actions[0].tolist() == [[bins + index, choices + index]] * 2


@given(distributions())
def test_probabilities_sum_to_one(given: tuple[Tensor, Tensor, float]) -> None:
    logits, allowed, temperature = given
    count = len(logits)
    rows = logits.expand(count, -1), torch.arange(count), temperature, allowed.expand(count, -1)
    actual = log_prob(*rows).exp()
    assert actual.dtype == torch.float64
    assert actual.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (actual[~allowed] == 0).all()
    np.testing.assert_allclose(actual.cumsum(0).numpy(), exact(logits, temperature, allowed).astype(float), atol=1e-12)
    assert log_prob(logits[None], torch.tensor([0])).item() == pytest.approx(logits.double().log_softmax(-1)[0].item())


def test_environments_draw_from_streams_of_their_own() -> None:
    def sampler(seeds: list[int], temperature: float = 1.0) -> Sampler:
        return Sampler(temperature, [torch.Generator().manual_seed(seed) for seed in seeds])

    together, alone = sampler([3, 4]), sampler([4])
    for count in (2, 1, 5):
        drawn = together.uniforms(count)
        assert drawn is not None and drawn.shape == (2, count) and drawn.dtype == torch.float64
        assert ((drawn >= 0) & (drawn < 1)).all()
        assert torch.equal(drawn[1:], alone.uniforms(count))
    assert sampler([3], 0.0).uniforms(4) is None


def test_options_hold_a_number_a_token_where_something_is_drawn() -> None:
    drawn = StepOptions.of(Sampler(0.7, [torch.Generator()]), 3, marginal=True)
    assert drawn.uniforms is not None and drawn.uniforms.shape == (1, 3) and drawn.marginal
    assert drawn.temperature is not None and drawn.temperature.item() == 0.7
    greedy = StepOptions.of(Sampler(), 3, forced=torch.zeros(1, 3))
    assert greedy.uniforms is None and greedy.temperature is None and greedy.forced is not None


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    sampler = Sampler(0.5, [torch.Generator().manual_seed(0)])
    uniform = sampler.uniforms(4000)
    assert uniform is not None
    actual = choose(logits.expand(4000, -1), uniform=uniform[0], temperature=0.5)
    counts = np.bincount(actual.numpy(), minlength=3) / 4000
    np.testing.assert_allclose(counts, torch.softmax(logits / 0.5, -1)[0].numpy(), atol=0.02)


def test_the_named_sizes_know_which_ids_are_bins() -> None:
    vocabulary = GatoConfig.nano().vocabulary
    assert vocabulary.ordered(vocabulary.continuous) and vocabulary.ordered(vocabulary.discrete - 1)
    assert not vocabulary.ordered(vocabulary.discrete) and not vocabulary.ordered(0)
