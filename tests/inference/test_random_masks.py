"""10,000 random nested spaces: the ids that are chosen among the allowed ones decode to an action in space and mask."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

from gato_agent.envs.spaces.flatten import row
from gato_agent.inference.action_mask import ActionMasks
from gato_agent.inference.decoders.sampling import choose
from gato_agent.tokens.space_tokenizer import SpaceTokenizer, Vocabulary
from tests.helpers.random_spaces import random_space

MASKABLE = 10_000  # values of a masked leaf, so that the test is quick
SPACES, CHUNKS, FEW = 10_000, 20, 1  # all chunks with `-m slow` too
VOCABULARY = Vocabulary(300)


def encode_text(text: str) -> list[int]:
    return list(text.encode())


def random_mask(rng: np.random.Generator, space: Space[Any]) -> Any:
    """A mask in the form of Gymnasium; None for leaves that have none, and for half of the others."""
    if isinstance(space, Dict):
        return {key: random_mask(rng, child) for key, child in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(random_mask(rng, child) for child in space.spaces)
    if rng.random() < 0.5 or not isinstance(space, Discrete | MultiDiscrete | MultiBinary):
        return None
    if isinstance(space, MultiBinary):
        return rng.integers(0, 3, int(np.prod(space.shape)))
    sizes = [int(space.n)] if isinstance(space, Discrete) else [int(n) for n in space.nvec.ravel()]
    if sum(sizes) > MASKABLE:
        return None
    masks = [some(rng, n) for n in sizes]
    return masks[0] if isinstance(space, Discrete) else tuple(masks)


def some(rng: np.random.Generator, n: int) -> np.ndarray:
    mask = (rng.random(n) < 0.3).astype(np.int8)
    mask[rng.integers(n)] = 1
    return mask


def allows(space: Space[Any], mask: Any, value: Any) -> bool:
    """True if a value is one that the mask allows."""
    if mask is None:
        return True
    if isinstance(space, Dict):
        return all(allows(child, mask[key], value[key]) for key, child in space.spaces.items())
    if isinstance(space, Tuple):
        return all(allows(*each) for each in zip(space.spaces, mask, value, strict=True))
    if isinstance(space, MultiBinary):
        return all(m in (2, v) for m, v in zip(mask, np.ravel(value), strict=True))
    if isinstance(space, Discrete):
        return bool(mask[int(value) - int(space.start)])
    places = np.ravel(value).astype(int) - np.ravel(space.start).astype(int)
    return all(part[place] for part, place in zip(mask, places, strict=True))


def check(rng: np.random.Generator, space: Space[Any]) -> None:
    tokenizer = SpaceTokenizer(space, space, VOCABULARY, encode_text)
    masks = [random_mask(rng, space), None, random_mask(rng, space)]
    action_masks = ActionMasks(space, tokenizer)
    allowed = action_masks.allowed(masks)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    for greedy in (True, False):
        chosen: list[torch.Tensor] = []
        for at, (low, high) in enumerate(tokenizer.legal.tolist()):
            part = None
            if allowed is not None:
                part = action_masks.blocks.row(torch.from_numpy(allowed), chosen, at)
            logits = torch.randn(len(masks), high - low, generator=generator)
            uniform = None if greedy else torch.rand(len(masks), generator=generator, dtype=torch.float64)
            ordered = VOCABULARY.ordered(low)
            chosen.append(choose(logits, ordered=ordered, uniform=uniform, allowed=part))
        decoded = tokenizer.decode_actions(tokenizer.legal[:, 0] + torch.stack(chosen, 1).numpy())
        for index, mask in enumerate(masks):
            action = row(space, decoded, index)
            assert space.contains(action), action
            assert allows(space, mask, action), (mask, action)


@pytest.mark.parametrize(
    "chunk", [pytest.param(chunk, marks=[pytest.mark.slow] * (chunk >= FEW)) for chunk in range(CHUNKS)]
)
def test_chosen_actions_are_in_space_and_mask(chunk: int) -> None:
    for seed in range(chunk, SPACES, CHUNKS):
        rng = np.random.default_rng(seed)
        space = random_space(rng)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                check(rng, space)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {space!r:.2000}") from error
