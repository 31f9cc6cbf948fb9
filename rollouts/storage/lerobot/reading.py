"""Episodes of a LeRobot data set: the features of their columns, and their ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray
from PIL import Image

from gato_agent.envs.errors import GatoError
from gato_agent.envs.spaces.flatten import Columns, leaves
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.rollouts.storage.lerobot.dataset import PREFIX, LeRobotFiles
from gato_agent.rollouts.storage.lerobot.features import ACTION, IMAGES, LABEL, OBSERVATION, TEXT, Feature, features_of

REWARD, DONE, SUCCESS = "next.reward", "next.done", "next.success"
ENDS = ("next.terminated", "next.truncated")


@dataclass(frozen=True)
class EpisodeReader:
    """Reader of the episodes of a data set as values of two spaces.

    Attributes:
        files: of the data set.
        spaces: of observations and actions.
        observed: leaf path -> feature.
        acted: leaf path -> feature.
        labels: leaf path -> feature; empty for data sets without the expert's actions.
        instruction: path of the leaf that holds the text of the task; None if there is none.
        provenance: of each episode.
    """

    files: LeRobotFiles
    spaces: tuple[Space[Any], Space[Any]]
    observed: Mapping[str, Feature]
    acted: Mapping[str, Feature]
    labels: Mapping[str, Feature] = field(default_factory=dict)
    instruction: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def read(self, number: int) -> Episode:
        """Read an episode; raises GatoError as `LeRobotFiles`."""
        files = self.files
        labelled = bool(files.about(number, f"{PREFIX}/labels"))
        ends = [files.features[name] for name in (REWARD, DONE, SUCCESS, *ENDS) if name in files.features]
        labels = self.labels if labelled else {}
        wanted = [*self.observed.values(), *self.acted.values(), *labels.values(), *ends]
        columns = files.columns(number, wanted)
        observations, repeated = self._observations(number, columns)
        flags = {each.name: columns[each.name].reshape(-1) for each in ends}
        terminated, truncated = self._end(number, flags)
        seed, noise = files.about(number, f"{PREFIX}/seed"), files.about(number, f"{PREFIX}/noise")
        known: dict[str, Any] = {"lerobot_episode": number}
        known |= {"final_observation": "a copy of the last one"} if repeated else {}
        known |= {} if REWARD in flags else {"rewards": "unknown"}
        known |= {"lost": True} if files.about(number, f"{PREFIX}/lost") else {}
        return Episode(
            observations=observations,
            actions=self._columns(self.spaces[1], self.acted, columns),
            labels=self._columns(self.spaces[1], labels, columns) if labels else None,
            rewards=flags.get(REWARD, np.zeros(files.episodes[number].length)),
            terminated=terminated,
            truncated=truncated,
            success=self._success(number, flags),
            seed=number if seed is None else int(seed),
            provenance={**self.provenance, **known, **({} if noise is None else {"noise": float(noise)})},
        )

    def _observations(self, number: int, columns: Mapping[str, NDArray[Any]]) -> tuple[Columns, bool]:
        """T + 1 observations; and true if the last one is a copy, because the data set lacks it."""
        values = self._columns(self.spaces[0], self.observed, columns)
        if self.instruction is not None:
            values[self.instruction] = self.files.instructions(number)
        last = {each.name: self.files.final(number, each) for each in self.observed.values()}
        repeated = any(each is None for each in last.values()) or self.instruction is not None
        final = {} if repeated else self._columns(self.spaces[0], self.observed, last)
        return {
            path: np.concatenate([column, column[-1:] if repeated else final[path]]) for path, column in values.items()
        }, repeated

    def _columns(self, space: Space[Any], features: Mapping[str, Feature], columns: Mapping[str, Any]) -> Columns:
        """Columns by leaf, in the shape of the leaf; images are resized to it."""
        shapes = {leaf.path: leaf.shape for leaf in leaves(space)}
        result: Columns = {}
        for path, feature in features.items():
            column = columns[feature.name]
            if feature.dtype in IMAGES and column.shape[1:] != shapes[path]:
                column = resized(column, shapes[path])
            if feature.dtype != TEXT:
                column = column.reshape(len(column), *shapes[path])
            result[path] = column
        return result

    def _end(self, number: int, flags: Mapping[str, NDArray[Any]]) -> tuple[bool, bool]:
        """Flags of the last step; an episode without a terminal step is truncated by the end of the recording."""
        own = [self.files.about(number, f"{PREFIX}/{name}") for name in ("terminated", "truncated")]
        if None not in own:
            return bool(own[0]), bool(own[1])
        truncated = bool(flags[ENDS[1]][-1]) if ENDS[1] in flags else False
        ended = flags.get(ENDS[0], flags.get(DONE))
        terminated = ended is not None and bool(ended[-1]) and (ENDS[0] in flags or not truncated)
        return terminated, truncated or not terminated

    def _success(self, number: int, flags: Mapping[str, NDArray[Any]]) -> bool | None:
        own = self.files.about(number, f"{PREFIX}/success")
        if own is not None:
            return bool(own)
        return bool(flags[SUCCESS].any()) if SUCCESS in flags else None


def resized(images: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Images [B, height, width, channels] in another size, by Pillow's BILINEAR, which is smooth where it shrinks.

    Raises:
        GatoError: another number of channels, or no size of an image.
    """
    if len(shape) != 3 or images.shape[3] != shape[2]:
        raise GatoError(f"images of shape {images.shape[1:]} cannot become {shape}")
    size, plain = (shape[1], shape[0]), images[..., 0] if shape[2] == 1 else images
    small = [Image.fromarray(image).resize(size, Image.Resampling.BILINEAR) for image in plain]
    return np.stack([np.asarray(image, np.uint8).reshape(shape) for image in small])


def own_features(
    spaces: tuple[Space[Any], Space[Any]], *, video: bool = False
) -> tuple[dict[str, Feature], dict[str, Feature], dict[str, Feature]]:
    """Features of observations, actions and labels of two spaces, by leaf; raises GatoError as `features_of`."""
    observed = features_of(spaces[0], OBSERVATION, video=video)
    return observed, features_of(spaces[1], ACTION), features_of(spaces[1], LABEL)
