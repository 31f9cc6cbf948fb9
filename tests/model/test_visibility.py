"""The attention rule as tensors is that over all pairs of tokens, and every backend reads it alike."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gato_agent.model.attention import QUERIES, AttentionBackend, SdpaAttention, query_blocks
from gato_agent.model.config import GatoConfig
from gato_agent.model.cpu_attention import CpuAttention
from gato_agent.model.flex_attention import FlexAttention
from gato_agent.model.visibility import Visibility
from gato_agent.tokens.space_tokenizer import PAD
from gato_agent.tokens.timestep_layout import ACTION_GROUP, ALWAYS, TimestepLayout
from tests.helpers.sequences import Sequences, attention, random_sequences

CONTEXTS = 8, 64, 150


@st.composite
def shown_sequences(draw: st.DrawFn) -> tuple[Sequences, int]:
    """Windows and a context; with and without prompts, hidden actions, and several episodes a window."""
    context, hidden = draw(st.sampled_from(CONTEXTS)), draw(st.sampled_from([0, 6]))
    longest = context - max(1, hidden)  # an action fits beside its prompt
    prompts = draw(st.sampled_from([(0,), (0, 1, min(context // 2, longest)), (0, min(7, longest), longest)]))
    shown = random_sequences(
        draw(st.integers(0, 2**31)), draw(st.integers(1, 4 * QUERIES)), prompts=prompts, hidden=hidden,
        whole=draw(st.booleans()),
    )  # fmt: skip
    return shown, context


@settings(max_examples=500)
@given(shown_sequences())
def test_the_tensors_are_the_rule_over_all_pairs(case: tuple[Sequences, int]) -> None:
    shown, context = case
    visibility, every = shown.visibility(context), slice(0, shown.tokens.shape[1])
    near, prompt = shown.visible(context)
    assert torch.equal(visibility.recent(every, every), near)
    assert visibility.reads_prefix == bool(((shown.index >= context) & (shown.prefix_len > 0)).any())
    actual = visibility.prefix(every, every) if visibility.reads_prefix else torch.zeros_like(prompt)
    assert torch.equal(actual, prompt)
    assert torch.equal(visibility.segment, shown.segment)
    part = slice(every.stop // 3, every.stop // 2 + 1)
    assert torch.equal(visibility.recent(part, every), near[:, part])
    assert torch.equal(visibility.recent(part, part), near[:, part, part])


@settings(max_examples=100)
@given(shown_sequences())
def test_blocks_of_queries_read_what_the_rule_says(case: tuple[Sequences, int]) -> None:
    """All queries in order, each recent and each prompt key at most once, and no other key."""
    shown, context = case
    near, prompt = shown.visible(context)
    actual = torch.zeros_like(near), torch.zeros_like(near)
    queries: list[int] = []
    for block in query_blocks(shown.visibility(context)):
        queries += range(block.queries.start, block.queries.stop)
        assert block.queries.stop - block.queries.start <= QUERIES
        assert set(block.mask.unique().tolist()) <= {0.0, -float("inf")}
        actual[0][:, block.queries, block.keys] = block.mask[:, 0] == 0
        if block.prefix is not None:
            actual[1][:, block.queries, block.prefix.keys] = block.prefix.mask[:, 0] == 0
    assert queries == list(range(shown.tokens.shape[1]))
    assert torch.equal(actual[0], near) and torch.equal(actual[1], prompt)


@settings(max_examples=50)
@given(shown_sequences(), st.sampled_from([16, 32, 64]))
def test_pytorchs_and_compiled_attention_weigh_the_same_keys(case: tuple[Sequences, int], size: int) -> None:
    """Forward and backward, against every score in float64."""
    shown, context = case
    visibility = shown.visibility(context)
    config = dataclasses.replace(GatoConfig.nano(), context=context, heads=2, width=2 * size)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(*shown.tokens.shape, 3, 2, size, generator=generator, requires_grad=True)
    aim = torch.randn(*shown.tokens.shape, 2, size, generator=generator)
    expected = attention(qkv.double(), shown, context)
    (wanted,) = torch.autograd.grad(expected, qkv, aim.double())
    backends: list[type[AttentionBackend]] = [SdpaAttention]
    if size % 32 == 0:  # which compiled attention needs
        backends.append(CpuAttention)
    for backend in backends:
        result = backend.prepare(config, visibility, qkv.dtype).attend(qkv)
        torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-5)
        (gradient,) = torch.autograd.grad(result, qkv, aim)
        torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-4)


@settings(max_examples=100)
@given(shown_sequences())
def test_masks_of_flex_attention_are_the_rule(case: tuple[Sequences, int]) -> None:
    """Its mask function pair by pair; and every pair that it allows is in a block that is read."""
    shown, context = case
    length = shown.tokens.shape[1]
    config = dataclasses.replace(GatoConfig.nano(), context=context)
    attention = FlexAttention.prepare(config, shown.visibility(context))
    batch, queries, keys = torch.arange(2)[:, None, None], torch.arange(length)[:, None], torch.arange(length)
    for masked, wanted in zip(attention, shown.visible(context), strict=True):
        if masked is None:
            assert not wanted.any()
            continue
        assert torch.equal(masked.mask.mask_mod(batch, torch.tensor(0), queries, keys), wanted)
        blocks = masked.mask.to_dense()[:, 0].bool()
        size = masked.mask.BLOCK_SIZE[0]
        held = blocks.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, :length, :length]
        assert not (wanted & ~held).any()


def test_no_argument_is_one_episode_a_row() -> None:
    tokens = torch.randint(1, 500, (2, 200))
    tokens[:, 50:60] = PAD
    plain = Visibility.of(tokens, 32)
    place = torch.arange(200).expand(2, -1)
    explicit = Visibility.of(
        tokens, 32, segment=torch.zeros_like(tokens), index=place, prefix_len=torch.zeros_like(tokens),
        until=torch.full_like(tokens, ALWAYS),
    )  # fmt: skip
    assert plain.position.shape == (1, 200)  # angles are turned once for all rows
    for a, b in zip(plain[1:4], explicit[1:4], strict=True):
        assert torch.equal(a, b)
    assert plain.prefix_first is None and explicit.prefix_first is None


@pytest.mark.parametrize("n_act", [1, 6, 31, 32, 33, 64, 65, 256])
@pytest.mark.parametrize("n_obs", [1, 7])
@pytest.mark.parametrize("value_groups", [0, 1])
def test_layouts_place_every_action_token_once(n_obs: int, n_act: int, value_groups: int) -> None:
    """Tokens, positions and predictors of the three layouts are consistent with each other."""
    for action_decoder, past_actions in ((True, False), (True, True), (False, False), (False, True)):
        layout = TimestepLayout(n_obs, n_act, action_decoder, past_actions, value_groups)
        assert layout.local.shape == layout.until.shape == (layout.length,)
        assert layout.n_prefill == layout.n_obs + layout.n_separators <= layout.length
        places = [layout.predictor(at) for at in range(n_act)]
        assert places[0] == layout.first and places == sorted(places)
        if action_decoder:
            assert layout.span == layout.length == layout.n_prefill and not layout.carried and not layout.rewound
            assert places[-1] == layout.length - 1  # the last token is of use
            assert [place - places[0] for place in places] == [at // ACTION_GROUP for at in range(n_act)]
            assert layout.first == n_obs - value_groups
            assert (layout.until == ALWAYS).all() and layout.local.tolist() == list(range(layout.length))
            continue
        assert layout.n_separators == 1 and layout.length == n_obs + 1 + n_act
        assert places == list(range(n_obs, n_obs + n_act))  # each token is predicted by the one before it
        assert layout.local.tolist() == [*range(n_obs), *[-1] * (1 + n_act)]
        assert layout.hides_actions == (not past_actions)
        stays = layout.until == ALWAYS
        assert layout.span == int(stays.sum())
        assert (layout.until[~stays] == layout.length - 1).all()
        # What enters in a step, less what is taken out again, is what a timestep leaves in the cache.
        entered = layout.carried + layout.n_prefill + n_act - 1
        assert entered - layout.rewound == layout.span
        assert np.array_equal(stays, np.arange(layout.length) < (n_obs if layout.hides_actions else layout.length))
