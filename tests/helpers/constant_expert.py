"""An expert whose action never changes, and masks of episode starts for one environment."""

from typing import Any

import numpy as np

START, NEXT = np.array([True]), np.array([False])


class ConstantExpert:
    """Returns `action` at each step and keeps the seeds that it was given."""

    def __init__(self, action: Any) -> None:
        self.provenance = {"kind": "callable", "source": "Constant", "sha256": ""}
        self.action = action
        self.seeds: list[int] = []

    def seed(self, seed: int) -> None:
        self.seeds.append(seed)

    def reset(self, num_envs: int) -> None:
        assert num_envs == 1

    def act(self, observation: Any, start: Any) -> Any:
        return self.action
