"""Settings of all tests (one thread a process, no window, no network, no deadlines) and shared fixtures."""

import os

# Before torch, NumPy and SDL are imported; spawned processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("gato-agent", deadline=None, print_blob=True)
settings.load_profile("gato-agent")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four noisy expert episodes of CartPole-v1."""
    from gato_agent.rollouts.collection.collect import CollectConfig, collect

    folder = tmp_path_factory.mktemp("data")
    collect(CollectConfig(env=("CartPole-v1",), episodes=4, noise=True, workers=0, out=folder))
    return folder
