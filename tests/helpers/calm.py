"""An environment with the arguments of a faulty one but without faults; workers import it by name."""

import gymnasium as gym

from tests.helpers.faulty_env import WorkerEnv


class CalmEnv(WorkerEnv):
    """Environment that ends after 5 steps whatever its arguments."""

    def __init__(self, fault: str = "", seed: int = -1, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)


gym.register("Calm-v0", entry_point=CalmEnv)
