"""The model against its specification, and against known mistakes of other implementations."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gato_agent.envs.errors import UsageError
from gato_agent.model.attention import SdpaAttention, query_blocks
from gato_agent.model.config import SIZES, GatoConfig
from gato_agent.model.embedding import PatchEmbedding
from gato_agent.model.gato import Block, Gato
from gato_agent.model.rope import angles_of
from gato_agent.model.visibility import Visibility
from gato_agent.tokens.leaf_codecs import distinct
from gato_agent.tokens.space_tokenizer import PAD, PATCH, VALUES
from gato_agent.tokens.timestep_layout import ACTION_GROUP
from tests.helpers.harsh import harsh

NANO = dataclasses.replace(GatoConfig.nano(), context=32, action_decoder=False)


@pytest.fixture
def model() -> Gato:
    torch.manual_seed(0)
    return Gato(NANO).eval()


def random_tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, NANO.vocabulary.size, (batch, length), generator=generator)


def test_changing_a_token_changes_no_earlier_logit(model: Gato) -> None:
    tokens = random_tokens(2, 100)
    before = model.logits(model(tokens))
    for t in (1, 31, 32, 33, 64, 99):
        changed = tokens.clone()
        changed[:, t] = changed[:, t] % 500 + 1
        after = model.logits(model(changed))
        assert torch.equal(before[:, :t], after[:, :t])
        assert not torch.allclose(before[:, t], after[:, t])


def test_blockwise_attention_equals_one_dense_mask() -> None:
    torch.manual_seed(1)
    length, context = 300, 32
    tokens = random_tokens(2, length)
    tokens[:, ::9] = PAD
    segment = torch.arange(length).div(70, rounding_mode="floor").expand(2, -1)
    qkv = torch.randn(2, length, 3, 4, 32)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    distance = torch.arange(length)[:, None] - torch.arange(length)
    dense = (distance >= 0) & (distance < context) & (segment[:, :, None] == segment[:, None, :])
    dense = dense & (tokens != PAD)[:, None, :] | (distance == 0)
    expected = F.scaled_dot_product_attention(q, k, v, dense.unsqueeze(1))
    blocks = list(query_blocks(Visibility.of(tokens, context, segment=segment)))
    assert len(blocks) == 3
    unrotated = torch.ones(1), torch.zeros(1)
    torch.testing.assert_close(SdpaAttention(blocks, unrotated).attend(qkv), expected.transpose(1, 2))


def test_equal_patches_are_encoded_once() -> None:
    few = torch.randint(0, 256, (3, 16, 16, 4), dtype=torch.uint8)
    patches = few[torch.tensor([0, 1, 0, 2, 2, 0])]
    actual, place = distinct(patches.numpy())
    assert len(actual) == 3
    assert np.array_equal(actual[place], patches)
    tower = PatchEmbedding(NANO).double()
    pixels = torch.tensor([[[0, 1], [64, 65]]] * 6)  # places of one index: nothing is drawn
    pictures = {}
    for training in (True, False):
        y = tower.train(training)(patches, pixels)
        y.square().sum().backward()
        pictures[training] = y.detach(), tower.stem.weight.grad
        tower.zero_grad()
    for once, each in zip(pictures[True], pictures[False], strict=True):
        torch.testing.assert_close(once, each)


def test_gradients_have_the_strides_of_their_weights() -> None:
    """DDP warns of all others, and copies them more slowly."""
    tower = PatchEmbedding(GatoConfig.tiny()).train()
    patches = torch.randint(0, 256, (8, 16, 16, 4), dtype=torch.uint8)
    tower(patches, torch.zeros(8, 2, 2, dtype=torch.int64)).sum().backward()
    for name, weight in tower.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.stride() == weight.stride(), name


def test_attention_ends_at_the_context() -> None:
    one_layer = Gato(dataclasses.replace(NANO, layers=1)).eval()
    tokens = random_tokens(1, 80)
    changed = tokens.clone()
    changed[0, 10] = tokens[0, 10] % 500 + 1
    before, after = one_layer(tokens), one_layer(changed)
    assert not torch.allclose(before[0, 10 + 31], after[0, 10 + 31], atol=1e-7)
    assert torch.equal(before[0, 10 + 32 :], after[0, 10 + 32 :])


def test_only_a_pad_attends_to_itself(model: Gato) -> None:
    tokens = random_tokens(2, 60)
    tokens[:, 10:20] = PAD
    tokens[:, 0] = PAD
    before = model(tokens)
    with torch.no_grad():
        model.embedding.table.weight[0] += 1  # what a PAD is embedded as; no other token here has id 0
    after = model(tokens)
    assert torch.equal(before[tokens != PAD], after[tokens != PAD])
    assert torch.isfinite(after).all()


def test_episodes_in_one_window_do_not_see_each_other(model: Gato) -> None:
    first, second = random_tokens(1, 40, seed=1), random_tokens(1, 40, seed=2)
    segment = torch.tensor([[0] * 40 + [1] * 40])
    packed = model(torch.cat((first, second), dim=1), segment=segment)
    torch.testing.assert_close(packed[:, :40], model(first))
    torch.testing.assert_close(packed[:, 40:], model(second), atol=1e-5, rtol=0)  # relative positions only


def test_feed_forward_reads_what_attention_wrote() -> None:
    """The TensorFlow version normalised the block's input there, which cut attention out of that branch."""
    torch.manual_seed(0)
    block = Block(NANO).eval()
    x = torch.randn(2, 20, NANO.width)
    visibility = Visibility.of(random_tokens(2, 20), NANO.context)
    backend = SdpaAttention.prepare(NANO, visibility, x.dtype)
    middle = x + block.attention(block.attention_norm(x), backend)
    expected = middle + block.feed_forward(block.feed_forward_norm(middle))
    assert torch.equal(block(x, backend), expected)


def test_feed_forward_is_a_geglu() -> None:
    torch.manual_seed(0)
    layer = Block(NANO).feed_forward
    x = torch.randn(3, NANO.width)
    half = NANO.feed_forward // 2
    value, gate = x @ layer.hidden.weight[:half].T, x @ layer.hidden.weight[half:].T
    torch.testing.assert_close(layer(x), (value * F.gelu(gate)) @ layer.out.weight.T)


def test_identical_timesteps_are_told_apart(model: Gato) -> None:
    """The TensorFlow version knew no position in the sequence."""
    timestep = random_tokens(1, 6)
    hidden = model(timestep.repeat(1, 5))
    for t in range(1, 5):
        assert not torch.allclose(hidden[0, 5], hidden[0, 6 * t + 5], atol=1e-3)


@pytest.mark.parametrize("action_decoder", [False, True])
def test_batches_train_and_gradients_reach_every_weight(action_decoder: bool) -> None:
    """The TensorFlow version failed on a batch of more than one, and with `training=True`."""
    config = dataclasses.replace(NANO, stochastic_depth=0.1, values_per_token=4, action_decoder=action_decoder)
    model = harsh(config).train()
    tokens = random_tokens(4, 50)
    tokens[:, 10:12], tokens[:, 12] = PATCH, VALUES
    value_groups = torch.tensor([[0, 1023, 1024, -1]] * 4, dtype=torch.int16)
    patches = torch.randint(0, 256, (8, 16, 16, 4), dtype=torch.uint8)
    local = torch.arange(50).expand(4, -1)
    hidden = model(tokens, patches, local=local, value_groups=value_groups).flatten(0, 1)
    sum(model.logits(states).logsumexp(-1).sum() for states in states_of(model, hidden)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def states_of(model: Gato, hidden: Tensor) -> list[Tensor]:
    """States of action tokens, more than one hidden state predicts: each given random ids before it."""
    decoder = model.action_decoder
    if decoder is None:
        return [hidden]
    chain, states = decoder.begin(hidden), []
    for at in range(ACTION_GROUP + 2):
        states.append(decoder.state(decoder.marginal_state(hidden, at), hidden, chain, at))
        chain = decoder.extend(chain, torch.randint(0, 2048, (len(hidden),)) + decoder.first_id, at)
    return states


def test_batch_rows_equal_single_rows(model: Gato) -> None:
    tokens = random_tokens(3, 70)
    together = model(tokens)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], model(tokens[i : i + 1]), atol=1e-5, rtol=0)


def test_head_is_the_token_table_and_may_be_sliced(model: Gato) -> None:
    hidden = model(random_tokens(2, 10))
    assert torch.equal(model.logits(hidden), hidden @ model.embedding.table.weight.T)
    torch.testing.assert_close(model.logits(hidden, 100, 130), model.logits(hidden)[..., 100:130])
    assert not any("head" in name for name, _ in model.named_parameters())


def test_stochastic_depth_drops_whole_branches_in_training_only() -> None:
    torch.manual_seed(0)
    block = Block(dataclasses.replace(NANO, stochastic_depth=0.5))
    x = torch.ones(1000, 3)
    dropped = block.drop.train()(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped[:, 0], dropped[:, 2])
    assert 0.4 < (dropped[:, 0] == 0).float().mean() < 0.6
    assert torch.equal(block.drop.eval()(x), x)


def test_patches_stand_where_they_are_and_nowhere_else(model: Gato) -> None:
    tokens = random_tokens(2, 20)
    tokens[0, 3] = tokens[0, 4] = tokens[1, 7] = PATCH
    patches = torch.randint(0, 256, (3, 16, 16, 4), dtype=torch.uint8)
    intervals = torch.tensor([[[0, 32], [0, 32]], [[0, 32], [32, 64]], [[32, 64], [0, 128]]])
    x = model.embedding(tokens, torch.full_like(tokens, -1), patches, intervals)
    embedded = model.embedding.patch(patches, intervals)
    assert torch.equal(x[tokens == PATCH], embedded)
    assert torch.equal(x[tokens != PATCH], model.embedding.table(tokens[tokens != PATCH]))


def test_patch_position_is_the_rounded_mean_or_drawn_from_the_interval(model: Gato) -> None:
    tower = model.embedding.patch
    interval = torch.tensor([[[32, 64], [0, 26]]]).expand(5000, 2, 2)  # paper's example: row [.25, .5] -> 48
    assert tower.eval()._positions(interval)[0].tolist() == [48, 13]
    drawn = tower.train()._positions(interval)
    assert set(drawn[:, 0].tolist()) == set(range(32, 64))
    assert set(drawn[:, 1].tolist()) == set(range(26))


def test_local_positions_are_added_to_observations_only(model: Gato) -> None:
    tokens = random_tokens(1, 4)
    local = torch.tensor([[0, 5, -1, -1]])
    x = model.embedding(tokens, local, None, None)
    expected = model.embedding.table(tokens)
    expected[0, 0] += model.embedding.local.weight[0]
    expected[0, 1] += model.embedding.local.weight[5]
    assert torch.equal(x, expected)


def test_angles_stay_exact_after_millions_of_tokens() -> None:
    """In float32 the angle of token 10^7 + 1 would be off by half a radian."""
    cos, sin = angles_of(torch.tensor([10_000_001]), 32, torch.float32)
    exact = torch.tensor(10_000_001.0, dtype=torch.float64)
    assert cos[0, 0, 0].item() == pytest.approx(exact.cos().item(), abs=1e-6)
    assert sin[0, 0, 16].item() == pytest.approx(exact.sin().item(), abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts(size: str) -> None:
    count = sum(p.numel() for p in Gato.skeleton(GatoConfig.named(size)).parameters())
    expected = {"nano": 2.37e6, "tiny": 5.87e6, "small": 79.6e6, "baseline": 343.5e6, "large": 1085e6}
    assert count == pytest.approx(expected[size], rel=0.005)
    if SIZES[size].published:
        assert count == pytest.approx(SIZES[size].published, rel=0.09)


def test_a_named_size_can_be_reshaped() -> None:
    wider = GatoConfig.tiny().reshaped('{"context": 256, "patch_channels": [32, 64]}')
    assert wider == dataclasses.replace(GatoConfig.tiny(), context=256, patch_channels=(32, 64))
    assert GatoConfig.tiny().reshaped("{}") == GatoConfig.tiny()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"depth": 3}', "depth"),
        ('{"layers": 0}', "layers 0 must be a whole number, at least 1"),
        ('{"context": "long"}', "context 'long' must be a whole number, at least 1"),
        ('{"context": true}', "context True"),
        ('{"action_decoder": 1}', "action_decoder 1 must be true or false"),
        ('{"past_actions": "yes"}', "past_actions 'yes' must be true or false"),
        ('{"patch_channels": 3}', "not a model configuration"),
        ('{"patch_channels": [32, "x"]}', "patch_channels"),
        ('{"width": 130}', "must split into"),
        ('{"stochastic_depth": 2}', "stochastic_depth"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GatoConfig.nano().reshaped(text)


@pytest.mark.parametrize(
    ("former", "fields"),
    [
        (32, {"action_decoder": True, "past_actions": False}),
        (0, {"action_decoder": False, "past_actions": True}),
        (False, {"action_decoder": False, "past_actions": True}),
    ],
)
def test_a_configuration_of_version_0_1_is_read(former: int, fields: dict[str, bool]) -> None:
    """Its actions were predicted at once, from which a chain without corrections follows, or stayed visible."""
    for size in (GatoConfig.tiny(), GatoConfig.small()):
        data = {key: value for key, value in size.to_json().items() if key not in fields}
        assert GatoConfig.from_json({**data, "parallel_actions": former}) == dataclasses.replace(size, **fields)


def test_the_first_files_have_neither_field_and_their_actions_stay_visible() -> None:
    data = {k: v for k, v in GatoConfig.small().to_json().items() if k not in ("action_decoder", "past_actions")}
    assert GatoConfig.from_json(data) == dataclasses.replace(GatoConfig.small(), past_actions=True)


@pytest.mark.parametrize("former", [True, 1, 2, 64, -1, "32", 0.5])
def test_an_action_of_version_0_1_that_cannot_be_read_is_refused(former: object) -> None:
    data = {**GatoConfig.tiny().to_json(), "parallel_actions": former}
    with pytest.raises(UsageError, match=rf"parallel_actions {former} of version 0.1 cannot be conv.* train again"):
        GatoConfig.from_json(data)


def test_named_sizes_have_the_layouts_of_their_kind() -> None:
    """Small sizes decode with an action decoder, published ones through the transformer; none sees past actions."""
    assert {size: GatoConfig.named(size).action_decoder for size in SIZES} == {
        "nano": True, "tiny": True, "small": False, "baseline": False, "large": False,
    }  # fmt: skip
    assert not any(GatoConfig.named(size).past_actions for size in SIZES)
