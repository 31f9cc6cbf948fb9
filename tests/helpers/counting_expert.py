"""An expert for workers, which import it by name, that records the number of torch threads."""

import os
from pathlib import Path
from typing import Any

import torch


class CountingExpert:
    """Expert that returns 0 and writes the number of threads to a file in the folder $THREADS_SEEN, one per process."""

    def predict(self, observation: Any, **_: Any) -> tuple[list[int], None]:
        (Path(os.environ["THREADS_SEEN"]) / str(os.getpid())).write_text(str(torch.get_num_threads()))
        return [0] * len(observation), None


def make(*_: Any) -> CountingExpert:
    return CountingExpert()
