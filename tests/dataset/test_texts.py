"""Lengths of the texts of a task's episodes."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Dict, Discrete, Text

from gato_agent.dataset.load import load_data
from gato_agent.envs.errors import GatoError
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.episode import Episode
from tests.helpers.episodes import stored, text

NANO = GatoConfig.named("nano")
SPACES = Dict({"instruction": Text(40), "note": Text(40)}), Discrete(2)


def episode(seed: int, notes: list[str], instruction: str = "go") -> Episode:
    """Two steps, in which notes are seen."""
    return Episode(
        {"instruction": text([instruction] * 3), "note": text(notes)}, {"": np.zeros(2, np.int64)}, None, np.ones(2),
        terminated=True, truncated=False, success=None, seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize("text_pieces", [None, 20])
def test_a_text_without_pieces_is_named(tmp_path: Path, text_pieces: int | None) -> None:
    """Half a surrogate pair can be stored, and has no UTF-8."""
    stored(tmp_path, episode(3, ["a", "b", "c"]), episode(4, ["a", "b\ud800", "c"]), spaces=SPACES).close()
    with pytest.raises(GatoError, match=r"Thing-v0: seed 4.*'note': 'b\\ud800' is not valid Unicode"):
        load_data(tmp_path, NANO, text_pieces)


def test_with_a_number_of_pieces_only_what_is_learned_is_read(tmp_path: Path) -> None:
    """The final observation has no tokens."""
    stored(tmp_path, episode(3, ["a", "b", "c\ud800"]), spaces=SPACES).close()
    assert load_data(tmp_path, NANO, 20).tokens
    with pytest.raises(GatoError, match=r"seed 3.*is not valid Unicode"):
        load_data(tmp_path, NANO, None)


def test_prompt_and_text_have_room_for_the_longest_of_all_episodes(tmp_path: Path) -> None:
    numbers = [
        "".join(np.random.default_rng(i).permutation(list("abcdefghijklmnopqrstuvwxyz0123456789"))) for i in (0, 1)
    ]
    stored(tmp_path, episode(3, ["a"] * 3, numbers[0]), episode(4, ["b", "c", numbers[1]]), spaces=SPACES).close()
    data = load_data(tmp_path, NANO, None, prompt="text", holdout=0.5)
    assert data.text is not None
    task = data.tasks["Thing-v0"]
    assert task.prompt.instruction == "instruction"
    longest = [len(data.text.encode(each)) for each in numbers]
    assert task.prompt.tokens == max(32, 3 * longest[0] // 2)
    assert task.text_pieces == (32 if longest[1] <= 32 else 3 * longest[1] // 2)
