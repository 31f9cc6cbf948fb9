"""What every test gets: one thread a process, no window, no network, no deadlines on a busy machine."""

import os

# Before torch, NumPy and SDL are imported; spawned processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import settings

settings.register_profile("gato-agent", deadline=None, print_blob=True)
settings.load_profile("gato-agent")
