"""Random nested spaces and their values, with many edge cases in bounds and values.

Gymnasium's `sample` overflows for wide integers and never returns a bound.
"""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple

KEYS = ["", "/", "~", "~1", "a/b", "a", "B", "b", " ", "0", "9", "10", "\u00e9", "\U0001f600", "image", "very long key"]
CHARSETS = ["ab", "01", "xyz ", "\u00e9\u2581\n", "\U0001f600\U0001f680\u4e2d", "abcdefghijklmnopqrstuvwxyz", "z\0"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]
ONE_OF_EACH: list[Space[Any]] = [
    Discrete(4, start=-2),
    MultiDiscrete(np.array([[2, 3], [4, 5]])),
    MultiBinary(3),
    Box(-1, 1, (), np.float32),
    Box(0, 255, (16, 16, 3), np.uint8),
    Text(5),
    Text(2, min_length=2, charset="ab"),
    Dict(b=Discrete(3), a=Dict(text=Text(4), x=Box(-1, 1, (2,)))),
    Tuple((Text(3), Text(3))),
    Dict(a=Discrete(3), b=Dict(), c=Tuple(()), d=Box(0, 255, (0, 3, 4), np.uint8)),
    Tuple((Discrete(2), Dict(z=Tuple((MultiBinary(2), Text(3)))), Box(-np.inf, np.inf, (1,)))),
]


def random_space(rng: np.random.Generator, depth: int = 3) -> Space[Any]:
    """A space with at least one element, nested up to `depth` times."""
    if depth and rng.random() < 0.45:
        parts = [random_space(rng, depth - 1) for _ in range(rng.integers(1, 4))]
        if rng.random() < 0.5:
            return Tuple(parts)
        keys = rng.choice(KEYS, len(parts), replace=False).tolist()
        return Dict(list(zip(keys, parts, strict=True)))  # a list keeps the order, which need not be sorted
    kinds = [discrete, multi_discrete, multi_binary, float_box, float_box, integer_box, integer_box, bool_box, text]
    return image(rng) if rng.random() < 0.03 else kinds[rng.integers(len(kinds))](rng)


def shape_of(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.integers(1, 4, size=rng.choice([0, 1, 1, 1, 2, 3])).tolist())


def discrete(rng: np.random.Generator) -> Space[Any]:
    dtype = np.dtype(rng.choice(INTEGERS))
    n = int(min(rng.choice([1, 2, 3, 7, 100, 1023, 1024]), np.iinfo(dtype).max))
    return Discrete(n, start=start_of(rng, dtype, n), dtype=dtype)


def start_of(rng: np.random.Generator, dtype: np.dtype, n: int) -> int:
    info = np.iinfo(dtype)
    last = int(info.max) - n + 1
    return min(last, [0, 0, 1, -1 if info.min else 5, int(info.min), last][rng.integers(6)])


def multi_discrete(rng: np.random.Generator) -> Space[Any]:
    dtype, shape = np.dtype(rng.choice(INTEGERS)), shape_of(rng) or (1,)
    n = rng.choice([1, 2, 5, 100, min(1024, np.iinfo(dtype).max)], size=shape).astype(dtype)
    start = np.array([start_of(rng, dtype, int(k)) for k in n.flat], dtype=dtype).reshape(shape)
    return MultiDiscrete(n, dtype=dtype.type, start=start)


def multi_binary(rng: np.random.Generator) -> Space[Any]:
    shape = shape_of(rng) or (2,)
    return MultiBinary(shape if rng.random() < 0.5 else int(shape[0]))


def text(rng: np.random.Generator) -> Space[Any]:
    most = int(rng.integers(1, 9))
    return Text(most, min_length=int(rng.integers(0, most + 1)), charset=CHARSETS[rng.integers(len(CHARSETS))])


def image(rng: np.random.Generator) -> Space[Any]:
    sides = tuple(rng.integers(16, 41, size=2).tolist())
    return Box(0, 255, sides + [(), (1,), (3,), (4,)][rng.integers(4)], np.uint8)


def bool_box(rng: np.random.Generator) -> Space[Any]:
    low, high = [(0, 1), (0, 0), (1, 1)][rng.integers(3)]
    return Box(low, high, shape_of(rng), np.bool_)


def float_box(rng: np.random.Generator) -> Space[Any]:
    dtype, shape = np.dtype(rng.choice(FLOATS)), shape_of(rng)
    one_kind = rng.random() < 0.5
    kind = int(rng.integers(9))
    pairs = [
        float_bounds(rng, dtype, kind if one_kind else int(rng.integers(9))) for _ in range(np.prod(shape, dtype=int))
    ]
    low, high = np.array(pairs, dtype=dtype).reshape(*shape, 2).transpose(-1, *range(len(shape)))
    return Box(low.copy(), high.copy(), shape, dtype.type)


def float_bounds(rng: np.random.Generator, dtype: np.dtype, kind: int) -> tuple[Any, Any]:
    info, inf = np.finfo(dtype), dtype.type(np.inf)
    scale = rng.choice([1e-3, 1, 10, 1e4, float(info.max) / 4, float(info.smallest_normal)])
    a, b = sorted(dtype.type(x * scale) for x in rng.uniform(-1, 1, 2))
    return [
        (dtype.type(-1), dtype.type(1)),
        (a / dtype.type(2), b / dtype.type(2)),
        (a, b),
        (a, a),
        (a, np.nextafter(a, inf)),
        (info.min, info.max),
        (a, inf),
        (-inf, b),
        (-inf, inf),
    ][kind]


def integer_box(rng: np.random.Generator) -> Space[Any]:
    dtype, shape = np.dtype(rng.choice(INTEGERS)), shape_of(rng)
    info = np.iinfo(dtype)
    if rng.random() < 0.3:
        low, high = integer_bounds(rng, dtype)
        below, above = (rng.random(2) < 0.7) if info.min else (False, False)
        return Box(-np.inf if below else low, np.inf if above else high, shape, dtype.type)
    pairs = [integer_bounds(rng, dtype) for _ in range(np.prod(shape, dtype=int))]
    low, high = np.array(pairs, dtype=dtype).reshape(*shape, 2).transpose(-1, *range(len(shape)))
    return Box(low.copy(), high.copy(), shape, dtype.type)


def integer_bounds(rng: np.random.Generator, dtype: np.dtype) -> tuple[int, int]:
    least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    span = min(int(rng.choice([0, 1, 5, 255, 1022, 1023, 1024, 1025, 2**16 - 1, 2**31, 2**63 - 1])), most - least)
    span = most - least if rng.random() < 0.15 else span
    low = [least, most - span, max(least, min(most - span, int(rng.integers(-100, 100))))][rng.integers(3)]
    return low, low + span


def random_value(rng: np.random.Generator, space: Space[Any]) -> Any:
    """Draw a value of `space`, often on a bound, and of any magnitude if there is no bound."""
    if isinstance(space, Dict):
        return {key: random_value(rng, child) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(random_value(rng, child) for child in space.spaces)
    if isinstance(space, Text):
        chars, length = sorted(space.character_set), rng.integers(space.min_length, space.max_length + 1)
        return "".join(chars[i] for i in rng.integers(len(chars), size=length))
    if isinstance(space, Discrete):
        return space.dtype.type(int(space.start) + int(rng.integers(int(space.n))))
    if isinstance(space, MultiDiscrete):
        return integers(rng, space.start, space.start + (space.nvec - 1))
    if isinstance(space, MultiBinary):
        return rng.integers(2, size=space.shape, dtype=np.int8)
    assert isinstance(space, Box)
    if space.dtype.kind == "f":
        return floats(rng, space)
    if space.low.size > 100:
        return rng.integers(256, size=space.shape, dtype=np.uint8)
    return integers(rng, space.low, space.high)


def integers(rng: np.random.Generator, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    pairs = [(int(a), int(b)) for a, b in zip(low.flat, high.flat, strict=True)]
    inner = [a + int(rng.integers(b - a, endpoint=True, dtype=np.uint64)) for a, b in pairs]
    values = [(a, b, x, x)[rng.integers(4)] for (a, b), x in zip(pairs, inner, strict=True)]
    return np.array(values, dtype=low.dtype).reshape(low.shape)


def floats(rng: np.random.Generator, space: Box) -> np.ndarray:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    far = np.minimum(rng.choice([1e-4, 1.0, 30.0, 1e3], size=low.shape), np.finfo(space.dtype).max)
    away = far * rng.random(low.shape)
    a = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0) - away)
    b = np.where(np.isfinite(high), high, np.where(np.isfinite(low), low, 0) + away)
    share = rng.choice([0.0, 1.0, 0.5, 2.0], size=low.shape)
    share = np.where(share == 2, rng.random(low.shape), share)
    limit = space.dtype.type(np.finfo(space.dtype).max)
    low, high = np.maximum(space.low, -limit), np.minimum(space.high, limit)
    return np.asarray(np.clip(np.clip(a * (1 - share) + b * share, low, high).astype(space.dtype), low, high))
