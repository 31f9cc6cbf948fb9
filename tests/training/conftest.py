"""Fixtures of the tests of training."""

import pytest

from gato_agent.training import loss as loss_module


@pytest.fixture
def every(monkeypatch: pytest.MonkeyPatch) -> None:
    """All timesteps train the conditional part, so that its losses in training are exact."""
    monkeypatch.setattr(loss_module, "CONDITIONAL_EVERY", 1, raising=False)
