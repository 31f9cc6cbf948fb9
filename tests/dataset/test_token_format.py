"""Tokens of the sample episodes: they change only with TOKEN_FORMAT, by which cached token files are told apart."""

import hashlib

import numpy as np
import pytest

from gato_agent.dataset.load import load_data
from gato_agent.dataset.task_tokens import TOKEN_FORMAT
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.task_folder import folder_of
from tests.helpers.paths import SEALED

DIGESTS = {  # by format, task and size
    (2, "CartPole-v1", "nano"): "ad7d6d25b057d2cd",
    (2, "InvertedPendulum-v5", "nano"): "6f6b63886a6cf441",
    (2, "Meta-World/reach-v3", "nano"): "62442d73696119dc",
    (2, "Taxi-v4", "nano"): "d444f13ddf95d5bf",
    (2, "CartPole-v1", "small"): "37e6ae94355f2fb6",
    (2, "InvertedPendulum-v5", "small"): "1e06ca8cebb3ce05",
    (2, "Meta-World/reach-v3", "small"): "2b552d355c8d4b03",
    (2, "Taxi-v4", "small"): "5ecc68a3211f4b89",
}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "InvertedPendulum-v5", "Meta-World/reach-v3", "Taxi-v4"])
@pytest.mark.parametrize("size", ["nano", "small"])
def test_tokens_change_with_the_format_alone(env_id: str, size: str) -> None:
    """A failure after a deliberate change of tokens: raise TOKEN_FORMAT and write the new digests here."""
    (task,) = load_data(folder_of(SEALED, env_id), GatoConfig.named(size), None).tokenized
    sha = hashlib.sha256()
    for array in (task.arrays.rows, task.arrays.labels, task.arrays.value_groups):
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    assert sha.hexdigest()[:16] == DIGESTS[TOKEN_FORMAT, env_id, size]
