"""Experts for three Atari games: recurrent networks from baby-a3c, with its preprocessing.

`python -m gato_agent.rollouts.experts.atari_a3c model.80.tar ALE%2FPong-v5.safetensors` converts a checkpoint, of which
it reads only the weights. The weights of the GRU cell, nearly all of them, are stored in 12 bits with a scale per row;
with 8 bits the networks play worse.
"""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import write_files
from gato_agent.rollouts.experts.sb3.policy import Policy
from gato_agent.rollouts.experts.sb3.zip_model import read_weights

KIND = "baby-a3c"  # Policy.policy of such a file
ROWS = slice(35, 195)  # of the frame: the field, without the score
SIDE = 80
HIDDEN = 256
SCALE, LOW = ".scale", ".low"  # suffixes of the names of a rounded matrix's scales and lower four bits
STREAM = 0xA3C  # separates these random numbers from others with the same episode seed


class Net(nn.Module):
    """Four convolutions, a GRU cell and a linear actor; the names are those of the checkpoints."""

    def __init__(self, actions: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            nn.Conv2d(channels, 32, 3, stride=2, padding=1) for channels in (1, 32, 32, 32)
        )
        self.gru = nn.GRUCell(32 * 5 * 5, HIDDEN)
        self.actor_linear = nn.Linear(HIDDEN, actions)

    def forward(self, frames: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, actions] and the next memory [B, 256] from frames [B, 1, 80, 80] in 0..1 and a memory."""
        x = frames
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = nn.functional.elu(convolution(x))
        memory = self.gru(x.flatten(1), memory)
        return self.actor_linear(memory), memory


class AtariExpert:
    """A network as an Actor: greedy, or sampled with random numbers of the episode's seed."""

    def __init__(
        self,
        policy: Policy,
        observation_space: gym.Space[Any],
        action_space: gym.Space[Any],
        provenance: dict[str, str],
    ) -> None:
        """Build the network; raises GatoError if it was trained for other frames or actions."""
        name, bias = provenance["source"], policy.weights.get("actor_linear.bias")
        actions = 0 if bias is None else len(bias)
        fits = isinstance(action_space, gym.spaces.Discrete) and action_space.n == actions
        if not fits or observation_space.shape != (210, 160, 3):
            raise GatoError(f"expert {name} needs frames of 210 x 160 x 3 and {actions} actions, unlike this task")
        self.provenance = provenance
        self._net = Net(actions)
        try:
            weights = _whole(policy.weights)
            self._net.load_state_dict({key: torch.tensor(array) for key, array in weights.items()})
        except (RuntimeError, KeyError, ValueError) as error:
            raise GatoError(f"expert {name} is damaged: {str(error).splitlines()[-1].strip()}") from error
        self._sampled = bool(policy.kwargs.get("sampled"))
        self._memory = torch.zeros(0, HIDDEN)
        self._rng = np.random.default_rng(STREAM)

    def seed(self, seed: int) -> None:
        """Seed the random numbers of sampled actions."""
        self._rng = np.random.default_rng([STREAM, seed])

    def reset(self, num_envs: int) -> None:
        """Clear the recurrent state."""
        self._memory = torch.zeros(num_envs, HIDDEN)

    @torch.inference_mode()
    def act(self, observation: NDArray[np.uint8], start: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Actions [num_envs] for frames [num_envs, 210, 160, 3]."""
        frames = torch.from_numpy(np.stack([preprocess(frame) for frame in observation])[:, None])
        memory = self._memory * torch.from_numpy(~start)[:, None]
        logits, self._memory = self._net(frames, memory)
        if self._sampled:  # the argmax of logits with Gumbel noise is a sample
            logits = logits + torch.from_numpy(self._rng.gumbel(size=logits.shape))
        actions: NDArray[np.int64] = logits.argmax(1).numpy()
        return actions


def preprocess(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Preprocess a frame [210, 160, 3] to [80, 80] in 0..1: mean of the colours, stretched to 0..255, and resized.

    It equals `scipy.misc.imresize` of a float array, with which the networks were trained.
    """
    field = frame[ROWS].sum(2, dtype=np.int64) / 3
    low, high = field.min(), field.max()
    stretched = ((field - low) * (255 / ((high - low) or 1)) + 0.5).astype(np.uint8)
    small = Image.fromarray(stretched).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) / np.float32(255)


def convert(checkpoint: Path, notes: dict[str, str], sampled: bool = False) -> Policy:
    """Convert a checkpoint's weights to a policy, without its critic.

    Raises:
        GatoError: the checkpoint is damaged, or contains more than weights.
    """
    try:
        state = read_weights(checkpoint.read_bytes())
    except Exception as error:  # from unpickling, which can fail in nearly any way
        raise GatoError(f"{checkpoint} is damaged, or more than weights ({one_line(error)})") from error
    weights = {key: array for key, array in state.items() if not key.startswith("critic")}
    return Policy(KIND, {"sampled": True} if sampled else {}, _rounded(weights), notes=notes)


def _rounded(weights: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Round the GRU's matrices to 12 bits: the upper eight, and the lower four of two columns in one byte."""
    out: dict[str, NDArray[Any]] = dict(weights)
    for key in ("gru.weight_ih", "gru.weight_hh"):
        scale = np.abs(weights[key]).max(1, keepdims=True) / 2047
        bits = np.rint(weights[key] / scale).astype(np.int16)
        low = (bits & 15).astype(np.uint8)
        out[key], out[key + LOW], out[key + SCALE] = (bits >> 4).astype(np.int8), low[:, ::2] | low[:, 1::2] << 4, scale
    return out


def _whole(weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """Inverse of `_rounded`."""
    out = {key: array for key, array in weights.items() if not key.endswith((SCALE, LOW))}
    for key in [key for key in out if key + SCALE in weights]:
        pairs = weights[key + LOW]
        low = np.stack([pairs & 15, pairs >> 4], -1).reshape(out[key].shape)
        out[key] = (out[key].astype(np.float32) * 16 + low) * weights[key + SCALE]
    return out


def main(arguments: list[str]) -> None:
    """Convert CHECKPOINT to OUT; KEY=VALUE arguments are stored as notes, and sampled=yes samples actions."""
    if len(arguments) < 2 or not all("=" in note for note in arguments[2:]):
        raise UsageError(
            "usage: python -m gato_agent.rollouts.experts.atari_a3c CHECKPOINT OUT [source=... sampled=yes]"
        )
    notes = dict(note.split("=", 1) for note in arguments[2:])
    sampled = notes.pop("sampled", "no") == "yes"
    write_files({Path(arguments[1]): convert(Path(arguments[0]), notes, sampled).to_bytes()})


if __name__ == "__main__":
    main(sys.argv[1:])
