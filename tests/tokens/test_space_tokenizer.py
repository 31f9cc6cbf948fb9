"""SPEC's numbers, and an error that names the place for whatever has no token."""

import math
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, OneOf, Sequence, Space, Text, Tuple

from gato_agent.envs.errors import SpaceError
from gato_agent.envs.spaces.flatten import row, stack
from gato_agent.tokens.action_tokens import MOST_ACTED
from gato_agent.tokens.mu_law import compand, expand
from gato_agent.tokens.space_tokenizer import BINS, PAD, PATCH, SpaceTokenizer, Vocabulary
from gato_agent.tokens.text_tokenizer import TextTokenizer
from tests.helpers.random_spaces import random_value
from tests.helpers.testing_env import TestingEnv

V = Vocabulary(100)
ANY = Discrete(2)
INF = np.inf
F32, F64 = np.float32, np.float64


def observe(space: Space, *values, **options) -> list[list[int]]:
    """Tokens of observed values."""
    return SpaceTokenizer(space, ANY, V, **options).encode_observations(stack(space, list(values)))[0].tolist()


def act(space: Space, *values) -> list[list[int]]:
    """Tokens of acted values."""
    return SpaceTokenizer(ANY, space, V).encode_actions(stack(space, list(values))).tolist()


def numbers(low, high, dtype=F64) -> Box:
    return Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


def bins(tokens: list[list[int]]) -> list[int]:
    return [token - V.continuous for token in tokens[0]]


# ---- the vocabulary


def test_ids_of_the_published_sizes():
    assert Vocabulary(32_000) == (32_000,)
    vocabulary = Vocabulary(32_000)
    assert (vocabulary.continuous, vocabulary.discrete, vocabulary.separator) == (32_000, 33_024, 34_048)
    assert vocabulary.size == 34_049


# ---- continuous values


@pytest.mark.parametrize("code", [observe, act])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bin_edges(code, dtype):
    x = [-1, -0.9985, -0.9976, 0, -0.001, 0.5, 0.9976, 0.9985, 1]
    space = Box(-1, 1, (len(x),), dtype)
    assert bins(code(space, np.array(x, dtype))) == [0, 0, 1, 512, 511, 768, 1022, 1023, 1023]


def test_every_bin_decodes_to_its_centre():
    tokenizer = SpaceTokenizer(ANY, Box(-1, 1, (1,), F64), V)
    values = tokenizer.decode_actions(V.continuous + np.arange(BINS)[:, None])[""]
    assert values[[0, 511, 512, 1023], 0].tolist() == [-0.9990234375, -0.0009765625, 0.0009765625, 0.9990234375]
    assert np.array_equal(values[:, 0], (np.arange(BINS) + 0.5) / 512 - 1)
    assert tokenizer.encode_actions({"": values})[:, 0].tolist() == list(range(100, 1124))


def test_mu_law_golden_values():
    x = np.array([0, 0.01, 0.1, 1, 10, 100, 256, -1, -256])
    y = [0, 0.0682878, 0.2362368, 0.4546744, 0.6806396, 0.9073980, 1, -0.4546744, -1]  # ln(100|x| + 1) / ln(25601)
    np.testing.assert_allclose(compand(x), y, atol=1e-7)
    np.testing.assert_allclose(expand(compand(x)), x, rtol=1e-12)


def test_observations_are_companded_unless_their_bounds_are_narrow():
    x = np.array([0.5, 0.5, 0.5, 0.5, 0.5])
    space = numbers([-1, 0, -1, -2, -INF], [1, 0.5, 1.5, 1, INF])
    companded = 512 + math.floor(512 * math.log(51) / math.log(25601))
    assert bins(observe(space, x)) == [768, 768, companded, companded, companded]
    assert companded == 710


@pytest.mark.parametrize(
    ("x", "want"), [(0, 512), (1, 744), (-1, 279), (256, 1023), (-256, 0), (1e30, 1023), (-1e308, 0)]
)
def test_unbounded_observations(x, want):
    assert bins(observe(numbers([-INF], [INF]), np.array([x], F64))) == [want]


def test_observations_beyond_their_bounds_go_the_same_way():
    space = numbers([-1, -5], [1, 5])
    assert bins(observe(space, np.array([3.0, 100.0]))) == [1023, 512 + math.floor(512 * 0.9073980)]
    assert bins(observe(space, np.array([-1.01, -1e9]))) == [0, 0]


def test_actions_are_linear_between_their_bounds():
    space = numbers([0, -2, 100], [4, 2, 300])
    assert bins(act(space, np.array([3, 0, 300]))) == [768, 512, 1023]
    assert bins(act(space, np.array([-9, 9, 1e9]))) == [0, 1023, 1023]
    decoded = SpaceTokenizer(ANY, space, V).decode_actions(np.array([[100, 100 + 512, 100 + 1023]]))[""]
    np.testing.assert_allclose(decoded, [[2 / 1024, 2 / 1024, 300 - 100 / 1024]])


def test_an_action_with_one_bound_has_the_bins_on_its_inner_side():
    space = numbers([10, -INF, -INF], [INF, 10, INF])
    tokenizer = SpaceTokenizer(ANY, space, V)
    assert (tokenizer.legal - V.continuous).tolist() == [[512, 1024], [0, 512], [0, 1024]]
    assert bins(act(space, np.array([10, 10, 0]))) == [512, 511, 512]
    assert bins(act(space, np.array([11, 9, 1]))) == [744, 279, 744]
    assert bins(act(space, np.array([-50, 50, 1e30]))) == [512, 511, 1023]
    with pytest.raises(SpaceError, match=r"action token 0 is 611, not one of 612 to 1123") as caught:
        tokenizer.decode_actions(np.array([[612, 100, 100], [611, 100, 100]]))
    assert caught.value.row == 1


TINY, BIG = 5e-324, 1.7976931348623157e308
EXTREMES = [
    numbers([-BIG, 0, -BIG, BIG], [BIG, BIG, -BIG / 2, BIG]),
    numbers([0, TINY, -TINY, -3 * TINY], [TINY, TINY, TINY, -2 * TINY]),
    numbers([-(2.0**53) - 2, 2.0**53, 1e16, 1 - 2**-53], [-(2.0**53), 2.0**53 + 2, 1e16, 1]),
    numbers([BIG, -INF, BIG / 2], [INF, -BIG, INF]),
    numbers([-3.4028235e38, 3.4028235e38, 1e-45], [3.4028235e38, INF, 1e-45], F32),
    numbers([65500, -INF, 0, 6e-8, -INF], [INF, -65500, INF, 6e-8, 65504], np.float16),
    Box(-(2**63), 2**63 - 2, (1,), np.int64),
    Box(np.array([2**63 - 2000, -(2**63)]), np.array([2**63 - 1, 1500 - 2**63]), dtype=np.int64),
    Box(np.array([0, 2**64 - 1025], np.uint64), np.array([2**64 - 1] * 2, np.uint64), dtype=np.uint64),
    Box(np.array([-(2**63)]), np.array([2**63 - 1]), dtype=np.int64),
    Box(-INF, INF, (1,), np.int64),
    Box(2**63 - 5000, INF, (1,), np.int64),
    Box(-INF, 1500 - 2**63, (1,), np.int64),
    Box(-INF, INF, (1,), np.int16),
]


@pytest.mark.parametrize("space", EXTREMES, ids=str)
def test_every_legal_token_is_an_action_at_the_extremes(space):
    tokenizer = SpaceTokenizer(ANY, space, V)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bin_ in range(BINS):
            tokens = np.clip(V.continuous + bin_, *(tokenizer.legal - [0, 1]).T)
            decoded = tokenizer.decode_actions(tokens[None])
            assert space.contains(row(space, decoded, 0)), (bin_, decoded)
            assert np.isfinite(decoded[""]).all()


def test_a_wide_integer_keeps_its_precision():
    space = Box(np.array([2**63 - 2000]), np.array([2**63 - 1]), dtype=np.int64)
    tokenizer = SpaceTokenizer(ANY, space, V)
    values = np.arange(2**63 - 2000, 2**63 - 1, 7)[:, None]
    decoded = tokenizer.decode_actions(tokenizer.encode_actions({"": values}))[""]
    assert np.abs(decoded - values).max() <= 2


# ---- discrete values


def test_discrete_values():
    assert act(Discrete(3, start=5), 5, 7) == [[V.discrete], [V.discrete + 2]]
    assert act(MultiDiscrete([[2, 3], [4, 1024]]), np.array([[1, 2], [3, 1023]])) == [[1125, 1126, 1127, 2147]]
    assert act(MultiBinary((2, 2)), np.array([[0, 1], [1, 0]], np.int8)) == [[1124, 1125, 1125, 1124]]
    assert act(Box(0, 1, (2,), np.bool_), np.array([True, False])) == [[1125, 1124]]
    tokenizer = SpaceTokenizer(ANY, MultiDiscrete([[2, 3], [4, 1024]], start=[[0, 1], [-5, 7]]), V)
    assert tokenizer.legal.tolist() == [[1124, 1126], [1124, 1127], [1124, 1128], [1124, 2148]]


def test_integer_boxes_are_discrete_up_to_1024_values():
    space = Box(np.array([-10, -10]), np.array([1013, 1014]), dtype=np.int32)
    assert SpaceTokenizer(ANY, space, V).legal.tolist() == [[1124, 2148], [100, 1124]]
    assert act(space, np.array([1013, 1014], np.int32)) == [[2147, 1123]]
    assert observe(space, np.array([-10, 0], np.int32)) == [[1124, 612]]
    assert SpaceTokenizer(ANY, Box(-INF, INF, (1,), np.int8), V).legal.tolist() == [[1124, 1380]]


@pytest.mark.parametrize(
    ("space", "what"),
    [
        (Discrete(5000, start=2**15 - 100, dtype=np.int16), "has values beyond int16: give it a wider dtype"),
        (Discrete(100, start=100, dtype=np.int8), "has values beyond int8: give it a wider dtype"),
        (Graph(Box(0, 1), None), "Graph spaces are not supported: wrap the environment"),
        (Sequence(Discrete(2)), "Sequence spaces are not supported"),
        (OneOf([Discrete(2)]), "OneOf spaces are not supported"),
        (Box(INF, INF, (1,)), "holds no finite value"),
    ],
    ids=str,
)
def test_a_space_without_tokens_is_refused_by_name(space, what):
    for observed, acted in ((space, ANY), (ANY, space)):
        with pytest.raises(SpaceError, match=what):
            SpaceTokenizer(observed, acted, V)
        with pytest.raises(SpaceError, match=f"'a/1': .*{what}") as caught:
            SpaceTokenizer(*(Dict(a=Tuple((ANY, s))) if s is space else s for s in (observed, acted)), V)
        assert caught.value.key == "a/1"


@pytest.mark.parametrize("space", [Dict(), Tuple(()), Box(0, 1, (0,)), Dict(a=Box(0, 1, (3, 0)))], ids=str)
def test_a_space_without_elements_is_refused(space):
    for spaces in ((space, ANY), (ANY, space)):
        with pytest.raises(SpaceError, match="has no elements"):
            SpaceTokenizer(*spaces, V)


def test_a_space_without_elements_has_a_way_out_that_works():
    env = TestingEnv(reset=lambda env, seed, options: ({}, {}))
    env.observation_space, env.action_space = Dict(), Tuple(())
    for _ in range(2):
        with pytest.raises(SpaceError, match=r"has no elements: use gymnasium\.wrappers\..*\)$") as caught:
            SpaceTokenizer(env.observation_space, env.action_space, V)
        wrapper = re.search(r"gymnasium\.(wrappers\..*)$", str(caught.value))[1]
        env = eval(wrapper, {"wrappers": gym.wrappers, "env": env, "Discrete": Discrete})
    assert SpaceTokenizer(env.observation_space, env.action_space, V).layout.length == 3
    assert env.reset(seed=0)[0] == 0
    env.step(0)


# ---- values that are not of the space

ROOM = Dict(
    pos=Box(-5, 5, (2, 2), F32),
    keys=Tuple((Discrete(3, start=1), MultiDiscrete([2, 9]))),
    big=Box(0, 9999, (2,), np.int32),
)
GOOD = {"pos": np.zeros((2, 2), F32), "keys": (2, np.array([0, 8])), "big": np.array([0, 9999])}


@pytest.mark.parametrize(
    ("bad", "key", "message"),
    [
        ({"pos": np.array([[0, 1], [np.nan, 0]], F32)}, "pos", "'pos': element [1, 0] is nan, not a finite number"),
        ({"pos": np.array([[0, np.inf], [0, 0]], F32)}, "pos", "'pos': element [0, 1] is inf, not a finite number"),
        ({"pos": np.array([[0, 0], [0, -np.inf]])}, "pos", "'pos': element [1, 1] is -inf, not a finite number"),
        ({"pos": np.array([[1e300, 0], [0, 0]])}, "pos", "'pos': element [0, 0] is inf, not a finite number"),
        ({"pos": np.array([[0, np.nan], [-np.inf, 0]])}, "pos", "'pos': element [0, 1] is nan, not a finite number"),
        ({"keys": (0, np.array([0, 8]))}, "keys/0", "'keys/0': value is 0, beyond its bounds 1 to 3"),
        ({"keys": (4, np.array([0, 8]))}, "keys/0", "'keys/0': value is 4, beyond its bounds 1 to 3"),
        ({"keys": (1, np.array([0, 9]))}, "keys/1", "'keys/1': element [1] is 9, beyond its bounds 0 to 8"),
        ({"keys": (1, np.array([-1, 0]))}, "keys/1", "'keys/1': element [0] is -1, beyond its bounds 0 to 1"),
    ],
)
def test_an_impossible_value_is_named(bad, key, message):
    tokenizer = SpaceTokenizer(ROOM, ROOM, V)
    columns = stack(ROOM, [GOOD, GOOD, GOOD | bad])
    for encode in (tokenizer.encode_observations, tokenizer.encode_actions):
        encode(stack(ROOM, [GOOD]))
        with pytest.raises(SpaceError) as caught:
            encode(columns)
        assert (caught.value.key, caught.value.row, str(caught.value)) == (key, 2, message)


@pytest.mark.parametrize(
    ("key", "column", "message"),
    [
        ("pos", np.zeros((2, 4), F32), "'pos': shape (4,) of float32 instead of (2, 2) of float32"),
        ("pos", np.zeros((2, 2, 2), "S1"), "'pos': shape (2, 2) of |S1 instead of (2, 2) of float32"),
        ("pos", np.zeros((3, 2, 2), F32), "'pos': 3 rows where other leaves have 2"),
        ("keys/0", np.array([1.0, 1.5]), "'keys/0': value is 1.5, which is no int64"),
        ("big", np.array([[0, 1], [2**31, 0]]), "'big': element [0] is 2147483648, which is no int32"),
        ("big", None, "'big': missing"),
    ],
)
def test_a_wrong_column_is_named(key, column, message):
    tokenizer = SpaceTokenizer(ROOM, ROOM, V)
    columns = stack(ROOM, [GOOD, GOOD]) | {key: column}
    if column is None:
        del columns[key]
    for encode in (tokenizer.encode_observations, tokenizer.encode_actions):
        with pytest.raises(SpaceError) as caught:
            encode(columns)
        assert (caught.value.key, str(caught.value)) == (key, message)


def test_at_the_root_no_key_is_named():
    with pytest.raises(SpaceError, match=r"^element \[1\] is nan, not a finite number$") as caught:
        observe(Box(-5, 5, (2,), F32), np.array([0, np.nan], F32))
    assert (caught.value.key, caught.value.row) == ("", 0)


def test_continuous_integers_beyond_their_bounds_are_clipped():
    space = Box(0, 9999, (2,), np.int32)
    assert act(space, np.array([-5, 20_000], np.int32)) == [[100, 1123]]
    assert observe(space, np.array([-256, 2**31 - 1], np.int32)) == [[100, 1123]]


@pytest.mark.parametrize("shape", [(2,), (1, 3), (2, 1), (1, 2, 1)])
def test_action_tokens_of_another_shape_are_refused(shape):
    with pytest.raises(SpaceError, match=r"instead of \[B, 2\]"):
        SpaceTokenizer(ANY, MultiBinary(2), V).decode_actions(np.full(shape, V.discrete))


def test_decoding_leaves_the_tokens_alone():
    tokens = np.array([[V.discrete + 1]])
    SpaceTokenizer(ANY, ANY, V).decode_actions(tokens)
    assert tokens.tolist() == [[V.discrete + 1]]


# ---- digits

MANY = [
    Discrete(1025), Discrete(4672), Discrete(1031, start=-7), Discrete(10**6 + 3), Discrete(2**40, start=2**50),
    Discrete(1500, dtype=np.uint16), MultiDiscrete([3, 2000, 1024]),
    MultiDiscrete([[5, 4672], [1031, 2]], start=[[1, 2], [-9, 0]]),
    Tuple((Discrete(4672), Dict(a=MultiDiscrete([2000, 2]), b=Box(-1, 1, (2,))))),
]  # fmt: skip


@pytest.mark.parametrize("values_per_token", [1, 64])
@pytest.mark.parametrize("space", MANY, ids=str)
def test_more_values_than_tokens_are_split_into_digits(space, values_per_token):
    rng = np.random.default_rng(0)
    tokenizer = SpaceTokenizer(space, space, V, values_per_token=values_per_token)
    assert (tokenizer.legal[:, 1] - tokenizer.legal[:, 0] <= 1024).all()
    columns = stack(space, [random_value(rng, space) for _ in range(50)])
    tokens = tokenizer.encode_actions(columns)
    assert ((tokenizer.legal[:, 0] <= tokens) & (tokens < tokenizer.legal[:, 1])).all()
    decoded = tokenizer.decode_actions(tokens)
    for path, column in columns.items():
        assert decoded[path].dtype == column.dtype
        if column.dtype.kind != "f":
            assert np.array_equal(decoded[path], column)
    low, high = tokenizer.legal.T
    anything = tokenizer.decode_actions(np.stack([low, high - 1, *rng.integers(low, high, size=(200, len(low)))]))
    assert all(space.contains(row(space, anything, i)) for i in range(202))
    seen = tokenizer.encode_observations(columns)
    assert (seen.value_groups if values_per_token > 1 else seen.tokens).shape[0] == 50
    if values_per_token == 1:
        numbers = np.concatenate([seen.tokens[:, : tokenizer.n_obs]], axis=1)
        assert len(np.unique(numbers, axis=0)) == len(np.unique(tokens, axis=0))


def test_digits_are_told_apart_and_named_as_the_values_that_they_are_of():
    tokenizer = SpaceTokenizer(ANY, Discrete(4672), V)
    assert (tokenizer.n_act, (tokenizer.legal - V.discrete).tolist()) == (2, [[0, 64], [0, 73]])
    assert (tokenizer.encode_actions({"": np.array([4000])}) - V.discrete).tolist() == [[54, 58]]
    for value in (-1, 4672):
        with pytest.raises(SpaceError, match=f"^value is {value}, beyond its bounds 0 to 4671$"):
            tokenizer.encode_actions({"": np.array([value])})


# ---- images


def test_a_patch_knows_its_place():
    tokenizer = SpaceTokenizer(Box(0, 255, (64, 80, 3), np.uint8), ANY, V)
    assert tokenizer.n_obs == 4 * 5
    place = tokenizer.patch_intervals.reshape(4, 5, 2, 2)
    assert place[1, 0, 0].tolist() == [32, 64]  # row [16, 32) of 64 pixels -> [.25, .5] -> [32, 64], whose mean is 48
    assert place[1, :, 1].tolist() == [[0, 26], [26, 51], [51, 77], [77, 102], [102, 128]]
    assert place[:, 3, 0].tolist() == [[0, 32], [32, 64], [64, 96], [96, 128]]


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_patches_are_in_raster_order_and_padded_with_zeros(channels):
    space = Box(0, 255, (33, 20, *channels), np.uint8)
    image = np.random.default_rng(0).integers(1, 256, size=space.shape, dtype=np.uint8)
    tokenizer = SpaceTokenizer(space, ANY, V)
    tokens, patches, _ = tokenizer.encode_observations({"": image[None]})
    assert tokens.tolist() == [[PATCH] * 6] and patches.shape == (1, 6, 16, 16, 4)
    planes = image.reshape(33, 20, -1)
    rgb = planes[..., [0, 0, 0]] if planes.shape[2] == 1 else planes[..., :3]
    whole = patches[0].reshape(3, 2, 16, 16, 4).transpose(0, 2, 1, 3, 4).reshape(48, 32, 4)
    assert np.array_equal(whole[:33, :20, :3], rgb)
    assert np.array_equal(whole[:33, :20, 3], planes[..., 3] if channels == (4,) else np.zeros((33, 20)))
    assert not whole[33:].any() and not whole[:, 20:].any()


@pytest.mark.parametrize(
    ("space", "n_obs"),
    [
        (Box(0, 255, (16, 16), np.uint8), 1),
        (Box(0, 255, (15, 16), np.uint8), 240),
        (Box(0, 255, (16, 16, 2), np.uint8), 1),
        (Box(0, 254, (16, 16), np.uint8), 256),
        (Box(0, 255, (16, 16), np.int16), 256),
        (Box(0, 255, (1, 16, 16, 3), np.uint8), 1),
        (Box(0, 255, (84, 84, 4), np.uint8), 36),
        (Box(0, 255, (4, 84, 84), np.uint8), 36),
        (Box(0, 255, (3, 20, 40), np.uint8), 6),
        (Box(0, 255, (8, 84, 84), np.uint8), 72),
        (Box(0, 255, (20, 84, 84), np.uint8), 5 * 36),
        (Box(0, 255, (84, 84, 12), np.uint8), 4 * 36),
        (Box(0, 255, (4, 84, 84, 3), np.uint8), 4 * 36),
        (Box(0, 255, (4, 3, 84, 84), np.uint8), 4 * 36),
        (Box(0, 255, (4, 84, 84, 1), np.uint8), 36),
        (Box(0, 255, (84, 84, 2, 4), np.uint8), 2 * 36),
        (Box(0, 255, (20, 20, 20), np.uint8), 8000),  # a volume
        (Box(0, 255, (3, 15, 16), np.uint8), 720),
        (Box(0, 255, (0, 16, 16), np.uint8), 0),
        (Box(0, 255, (2, 2, 2, 16, 16), np.uint8), 2048),
        (Box(0, 255, (16,), np.uint8), 16),
    ],
    ids=str,
)
def test_what_is_an_image(space, n_obs):
    assert SpaceTokenizer(Tuple((space, Discrete(2))), ANY, V).n_obs == n_obs + 1
    acted, n_act = Tuple((space, Discrete(2))), math.prod(space.shape) + 1
    if n_act <= MOST_ACTED:
        assert SpaceTokenizer(ANY, acted, V).n_act == n_act
        return
    with pytest.raises(SpaceError, match=f"an action of {n_act:,} elements, and 65,536 can be held"):
        SpaceTokenizer(ANY, acted, V)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 20, 40), (1, 2, 0)),
        ((4, 20, 40), (1, 2, 0)),
        ((1, 20, 40), (1, 2, 0)),
        ((1, 20, 40, 3), (1, 2, 0, 3)),
        ((4, 20, 40, 1), (1, 2, 0, 3)),
        ((2, 2, 20, 40), (2, 3, 0, 1)),
    ],
)
def test_the_order_of_axes_changes_nothing(shape, axes):
    images = np.random.default_rng(0).integers(0, 256, size=(3, *shape), dtype=np.uint8)
    first = images.transpose(0, *(axis + 1 for axis in axes)).reshape(3, 20, 40, -1)
    ours, theirs = (
        SpaceTokenizer(Box(0, 255, each.shape[1:], np.uint8), ANY, V).encode_observations({"": each})
        for each in (images, first)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("shape", "sets"), [((4, 20, 40, 3), 4), ((4, 3, 20, 40), 4), ((12, 20, 40), 4), ((7, 20, 40), 2)]
)
def test_each_frame_of_a_stack_has_patches_of_its_own(shape, sets):
    """As many sets of patches as frames of three channels, oldest first, each where the picture's are."""
    stack_of = np.random.default_rng(0).integers(1, 256, size=(2, *shape), dtype=np.uint8)
    tokenizer = SpaceTokenizer(Box(0, 255, shape, np.uint8), ANY, V)
    patches = tokenizer.encode_observations({"": stack_of}).patches
    assert patches.shape == (2, sets * 6, 16, 16, 4) and tokenizer.n_obs == sets * 6
    places = tokenizer.patch_intervals.reshape(sets, 6, 2, 2)
    assert (places == places[0]).all()
    axis = shape.index(20) + 1
    planes = np.moveaxis(stack_of, (axis, axis + 1), (1, 2)).reshape(2, 20, 40, -1)
    wide = 4 if shape[0] == 7 else 3
    for number, part in enumerate(np.split(patches, sets, axis=1)):
        frame = planes[..., number * wide : (number + 1) * wide]
        whole = part.reshape(2, 2, 3, 16, 16, 4).transpose(0, 1, 3, 2, 4, 5).reshape(2, 32, 48, 4)
        assert np.array_equal(whole[:, :20, :40, : frame.shape[3]], frame)
        assert not whole[..., frame.shape[3] :].any() and not whole[:, 20:].any()


# ---- order


def test_order_in_a_timestep():
    image = Box(0, 255, (16, 32), np.uint8)
    space = Dict(
        [
            ("c", Discrete(2)),
            ("b", Tuple([image, *(Discrete(20, start=i) for i in range(1, 12)), Text(1)])),
            ("a", Dict(z=image, a=Box(-1, 1, (1,)))),
            ("B", Discrete(5)),
            ("t", Text(2, charset="xy")),
        ]
    )
    value = {
        "c": 1, "b": (np.full((16, 32), 7, np.uint8), *range(1, 12), "q"), "t": "xy", "B": 4,
        "a": {"z": np.full((16, 32), 9, np.uint8), "a": np.ones(1, F32)},
    }  # fmt: skip
    tokenizer = SpaceTokenizer(space, space, V, text=lambda s: [ord(c) % 100 for c in s], text_pieces=3)
    tokens, patches, _ = tokenizer.encode_observations(stack(space, [value]))
    d = V.discrete
    assert tokens[0].tolist() == [
        *[ord("q") % 100 - 0, PAD, PAD],  # b/12
        *[ord("x") % 100, ord("y") % 100, PAD],  # t
        *[PATCH] * 4,  # a/z, b/0
        *[d + 4, V.continuous + 1023],  # B, a/a: upper case sorts first
        *[d] * 11,  # b/1 ... b/11, by number
        d + 1,  # c
    ]
    assert tokenizer.patch_slots.tolist() == [6, 7, 8, 9]
    assert patches[0, :, 0, 0, 0].tolist() == [9, 9, 7, 7]
    assert tokenizer.n_act == 1 + 1 + 512 + 512 + 11 + 1 + 1 + 2
    acted = tokenizer.encode_actions(stack(space, [value]))[0].tolist()
    assert (
        acted[:2] == [d + 4, V.continuous + 1023] and acted[2:514] == [d + 9] * 512 and acted[-3:] == [d + 1, d, d + 1]
    )


# ---- text


def test_observed_text_is_padded_to_its_room():
    tokenizer = TextTokenizer.train(["go to the red ball", "go to the blue key"], 300)
    space = Text(40, min_length=0, charset="abcdefghijklmnopqrstuvwxyz ")
    spaces = SpaceTokenizer(space, ANY, Vocabulary(300), tokenizer.encode, text_pieces=8)
    tokens, *_ = spaces.encode_observations(stack(space, ["go to the red ball", "", "go to the red ball"]))
    pieces = tokenizer.encode("go to the red ball")
    assert tokens.tolist() == [pieces + [PAD] * (8 - len(pieces)), [PAD] * 8, pieces + [PAD] * (8 - len(pieces))]
    assert 0 < len(pieces) < 8


def test_a_text_takes_no_more_room_than_its_bytes():
    assert SpaceTokenizer(Text(3), ANY, V).n_obs == 12
    assert SpaceTokenizer(Text(3), ANY, V, text_pieces=5).n_obs == 5


@pytest.mark.parametrize(
    ("text", "encode", "message"),
    [
        ("abcdef", lambda s: [1] * len(s), "'t': 6 text pieces where 5 have room: train with --text-pieces 6 or more"),
        (
            "abc",
            lambda s: [1, 100, 2],
            "'t': text piece 100 of a vocabulary of 100: use the text tokenizer of this size",
        ),
        ("abc", None, "'t': is text, and this tokenizer was made without a text tokenizer: pass `text`"),
        (
            "\ud800",
            TextTokenizer.train([], 300).encode,
            "'t': '\\ud800' is not valid Unicode: surrogates not allowed at 0",
        ),
    ],
)
def test_text_without_tokens_is_named(text, encode, message):
    space = Dict(t=Text(9))
    tokenizer = SpaceTokenizer(space, ANY, V, encode, text_pieces=5)
    with pytest.raises(SpaceError) as caught:
        tokenizer.encode_observations(stack(space, [{"t": text}]))
    assert (caught.value.key, caught.value.row, str(caught.value)) == ("t", 0, message)


def test_an_acted_text_is_one_token_a_character():
    space, d = Text(4, min_length=2, charset="cab"), V.discrete
    tokenizer = SpaceTokenizer(ANY, space, V)
    assert tokenizer.legal.tolist() == [[d, d + 3], [d, d + 3], [d, d + 4], [d, d + 4]]
    assert act(space, "ba", "caba") == [[d + 1, d, d + 3, d + 3], [d + 2, d, d + 1, d]]
    written = np.array([[2, 0, 3, 1], [0, 0, 0, 3], [1, 1, 1, 1]]) + d
    assert tokenizer.decode_actions(written)[""].tolist() == ["ca", "aaa", "bbbb"]
    with pytest.raises(SpaceError, match="action token 1 is 1127, not one of 1124 to 1126"):
        tokenizer.decode_actions(np.array([[0, 3, 3, 3]]) + d)


@pytest.mark.parametrize("text", ["a", "abcab", "abx", "", "\ud800a"])
def test_an_acted_text_beyond_its_space_is_named(text):
    with pytest.raises(
        SpaceError, match=r"is not in 'Text\(2, 4, charset=abc\)'|is not in Text\(2, 4, charset=abc\)"
    ) as caught:
        act(Text(4, min_length=2, charset="cab"), "ab", text)
    assert caught.value.row == 1


def test_charsets_have_1_to_1023_characters():
    wide = "".join(chr(0x4E00 + i) for i in range(1024))
    assert SpaceTokenizer(ANY, Text(1, charset=wide[:1023]), V).legal.tolist() == [[1124, 2147]]
    for charset in (wide, ""):
        with pytest.raises(SpaceError, match=f"a charset of {len(charset)} characters, and 1 to 1023 can be acted"):
            SpaceTokenizer(ANY, Text(1, charset=charset), V)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (Box(-1, 1, (2**20 + 1,)), Discrete(2), "an observation of 1,048,577 elements"),
        (Dict({str(i): Box(-1, 1, (2**18,)) for i in range(5)}), Discrete(2), "an observation of 1,310,720 elements"),
        (Discrete(2), Text(10**15), "an action of 1,000,000,000,000,000 elements"),
        (Discrete(2), Box(-1, 1, (2**16 + 1,)), "an action of 65,537 elements"),
    ],
)
def test_what_no_model_can_hold_is_refused_before_arrays_are_made(
    observation: Space, action: Space, message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        SpaceTokenizer(observation, action, Vocabulary(0))
