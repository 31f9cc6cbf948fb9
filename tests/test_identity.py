"""Every kind of space can be learned: the agent learns to copy its observation within seconds."""

from pathlib import Path

import pytest

from benchmarks.identity import SPACES, Config, learn


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_the_right_action_is_what_is_seen(name: str, tmp_path: Path) -> None:
    found = learn(name, Config(), tmp_path)
    assert found.solved, found
    assert found.cpu < 120, found  # of two cores, whose minute has as many
