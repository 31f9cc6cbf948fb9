"""Import of episodes from a LeRobot data set, of our export or of others.

Other data sets do not name spaces. They are derived, or those of a folder that `gato-agent collect` wrote:

    observation.state        Dict leaf `state`, with the least and largest value of each element as bounds
    observation.images.top   Dict leaf `top`
    text of the task         Dict leaf `instruction`
    action                   Box with the least and largest values as bounds; Discrete for a single whole number
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space, Text

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.io import plain
from gato_agent.envs.spaces.flatten import space_from_json
from gato_agent.envs.spaces.leaf_kind import CHOICES
from gato_agent.envs.spaces.paths import pointer
from gato_agent.rollouts.storage.episode_store import EpisodeStore
from gato_agent.rollouts.storage.imported import ImportedEpisodes, folder_sha256, header_of
from gato_agent.rollouts.storage.lerobot.dataset import INFO, PREFIX, LeRobotFiles
from gato_agent.rollouts.storage.lerobot.features import ACTION, IMAGES, OBSERVATION, TEXT, Feature
from gato_agent.rollouts.storage.lerobot.reading import EpisodeReader, own_features
from gato_agent.rollouts.storage.task_folder import HEADER, SPACES, read_header, space_of
from gato_agent.tokens.prompt import INSTRUCTION

LONGEST = 256  # characters of a text, or more where one is longer
Spaces = tuple[Space[Any], Space[Any]]
_log = logging.getLogger(__name__)
_warn = _log.warning


def import_(
    folder: Path, out: Path, env_id: str | None = None, *, spaces: Path | None = None,
    image_size: tuple[int, int] | None = None, clip_actions: bool = False, say: Callable[[str], None] = _warn,
) -> EpisodeStore:  # fmt: skip
    """Store the episodes of a data set; episodes that the folder already has are not read.

    Invalid episodes are left out (see `EpisodeValidator`).

    Args:
        folder: of the data set.
        out: folder of the task folders.
        env_id: id of the environment, if the data set does not name it.
        spaces: a task.json with the spaces of the episodes; by default those of our export, or derived.
        image_size: height and width of images in derived spaces, in pixels.
        clip_actions: true to clip actions to the bounds of a Box; otherwise their episodes are left out.
        say: called with a line for each episode that is left out.

    Returns:
        The store, open for writing.

    Raises:
        UsageError: no such data set, no name of an environment, or spaces that cannot be tokenized.
        GatoError: the data set is damaged, or none of its episodes is valid; then nothing is stored.
        OSError: an episode could not be written.
    """
    files = LeRobotFiles(folder)
    try:
        if not files.episodes:
            raise GatoError(f"{folder}: the data set holds no episodes")
        reader = _reader(files, spaces, image_size)
        env_id = env_id or _env_id(files)
        expert = {"kind": "lerobot", "source": folder.resolve().name, "sha256": folder_sha256(folder)}
        header = header_of(env_id, reader.spaces, expert, {"lerobot": str(files.info["codebase_version"])})
        provenance = {key: header[key] for key in ("env_id", "env_kwargs", "expert", "versions")}
        reader = replace(reader, provenance=provenance)
        episodes = ImportedEpisodes(str(folder), reader.read, reader.spaces, clip_actions=clip_actions, say=say)
        return episodes.store(out, header, _numbers(files))
    finally:
        files.close()


def _numbers(files: LeRobotFiles) -> dict[int, int]:
    """Index in the store -> number of the episode: the seeds, if all episodes have different ones."""
    seeds = {files.about(number, f"{PREFIX}/seed"): number for number in files.episodes}
    if len(seeds) == len(files.episodes) and all(type(seed) is int and seed >= 0 for seed in seeds):
        return seeds
    return {number: number for number in files.episodes}


def _env_id(files: LeRobotFiles) -> str:
    """Environment id that our export wrote."""
    env_id = (files.own or {}).get("env_id")
    if not plain.is_env_id(env_id):
        raise UsageError(f"{files.folder} names no environment that could be used: give an id with --env")
    return str(env_id)


def _reader(files: LeRobotFiles, spaces: Path | None, image_size: tuple[int, int] | None) -> EpisodeReader:
    """Reader with the spaces of a task.json, of our export, or derived."""
    if image_size and min(image_size) < 1:
        raise UsageError(f"--image-size {image_size[0]} {image_size[1]}: sides are at least 1")
    if spaces is not None:
        path = spaces / HEADER if spaces.is_dir() else spaces
        header = read_header(path)
        return _declared(files, (space_of(path, header, SPACES[0]), space_of(path, header, SPACES[1])))
    if files.own is not None and image_size is None:
        try:
            own = space_from_json(files.own[SPACES[0]]), space_from_json(files.own[SPACES[1]])
        except (GatoError, LookupError) as error:
            raise GatoError(f"{files.folder / INFO}: its spaces are not those of an export ({error})") from error
        return _declared(files, own)
    return _derived(files, image_size)


def _declared(files: LeRobotFiles, spaces: Spaces) -> EpisodeReader:
    """Reader with declared spaces, whose leaves have features of their names; a text without one is the task's."""
    wanted = own_features(spaces)
    observed, acted, labels = ({path: _matching(files, each) for path, each in group.items()} for group in wanted)
    texts = [path for path, each in wanted[0].items() if each.dtype == TEXT and observed[path] is None]
    instruction = texts[0] if len(texts) == 1 else None
    for group, features in zip(wanted[:2], (observed, acted), strict=True):
        for path in group:
            if features[path] is None and not (group is wanted[0] and path == instruction):
                raise UsageError(
                    f"{files.folder} has no feature {group[path].name} for the leaf {path!r}, and it has "
                    f"{', '.join(sorted(files.features))}: give spaces whose leaves have such names"
                )
    groups = [{path: each for path, each in features.items() if each} for features in (observed, acted, labels)]
    return EpisodeReader(files, spaces, groups[0], groups[1], groups[2], instruction)


def _matching(files: LeRobotFiles, wanted: Feature) -> Feature | None:
    """Feature of a data set with the name and kind of another, or its image under the other usual name."""
    names = (wanted.name, wanted.name.replace(f"{OBSERVATION}.images.", f"{OBSERVATION}."))
    features = [files.features[name] for name in names if name in files.features]
    return next((each for each in features if _kind(each) == _kind(wanted)), None)


def _kind(feature: Feature) -> str:
    return "image" if feature.dtype in IMAGES else feature.dtype if feature.dtype == TEXT else "number"


def _derived(files: LeRobotFiles, image_size: tuple[int, int] | None) -> EpisodeReader:
    """Reader with spaces derived from features and values."""
    features = files.features
    observed = {_key(name, features): name for name in features if name.startswith(f"{OBSERVATION}.")}
    acted = {name.removeprefix(f"{ACTION}."): name for name in features if name.startswith(f"{ACTION}.")}
    acted = {"": ACTION} if ACTION in features else acted
    if not observed or not acted:
        raise UsageError(
            f"{files.folder} has no feature that begins with {OBSERVATION if not observed else ACTION}, and it has "
            f"{', '.join(sorted(features))}: rename columns in data/ and their entries in {INFO}"
        )
    bounds = _bounds(files, [features[name] for name in (*observed.values(), *acted.values())])
    longest = max(LONGEST, *map(len, files.tasks.values()))
    seen: dict[str, Space[Any]] = {INSTRUCTION: Text(longest, min_length=0)} if INSTRUCTION not in observed else {}
    seen |= {key: _space(features[name], bounds, image_size) for key, name in observed.items()}
    actions = {key: _space(features[name], bounds, None, acted=True) for key, name in acted.items()}
    action = actions[""] if "" in actions else Dict(actions)
    spaces = Dict(dict(sorted(seen.items()))), action
    return EpisodeReader(
        files, spaces, {pointer((key,)): features[name] for key, name in observed.items()},
        {pointer((key,)): features[name] for key, name in acted.items()}, {},
        INSTRUCTION if INSTRUCTION not in observed else None, {},
    )  # fmt: skip


def _key(name: str, features: Mapping[str, Feature]) -> str:
    """Key of an observed feature: its name without `observation.`, and without `images.` if no other is so called."""
    key = name.removeprefix(f"{OBSERVATION}.")
    short = key.removeprefix("images.")
    taken = short in features or (short != key and f"{OBSERVATION}.{short}" in features) or short == INSTRUCTION
    return key if taken else short


def _bounds(files: LeRobotFiles, features: list[Feature]) -> dict[str, tuple[Any, Any]]:
    """Least and largest value of each element of the features that hold numbers; of texts, lengths in characters.

    Raises:
        GatoError: no episode can be read.
    """
    bounded = [each for each in features if each.dtype not in IMAGES]
    bounds: dict[str, tuple[Any, Any]] = {}
    damage: GatoError | None = None
    for number in files.episodes:
        try:
            columns = files.columns(number, bounded)
        except GatoError as error:  # its episode is left out, by name
            damage = damage or error
            continue
        for name, column in columns.items():
            if column.dtype == object:
                column = np.array([len(text) for text in column])
            if column.dtype.kind == "f" and not np.isfinite(column).all():
                continue  # likewise
            low, high = column.min(axis=0), column.max(axis=0)
            if name in bounds:
                low, high = np.minimum(low, bounds[name][0]), np.maximum(high, bounds[name][1])
            bounds[name] = low, high
    if damage and not bounds:
        raise damage
    return bounds


def _space(
    feature: Feature, bounds: Mapping[str, tuple[Any, Any]], image_size: tuple[int, int] | None, *, acted: bool = False
) -> Space[Any]:
    """Space of a feature's values."""
    if feature.dtype == TEXT:
        return Text(max(LONGEST, int(bounds[feature.name][1])), min_length=0)
    if feature.dtype in IMAGES:
        return Box(0, 255, (*(image_size or feature.shape[:2]), feature.shape[2]), np.uint8)
    dtype = np.dtype(feature.dtype)
    if feature.name not in bounds:
        raise GatoError(f"{feature.name} has no finite value in any episode")
    low, high = (np.asarray(bound, dtype).reshape(feature.shape) for bound in bounds[feature.name])
    if acted and dtype.kind in "iu" and feature.shape == (1,) and int(low.min()) >= 0 and int(high.max()) < CHOICES:
        return Discrete(int(high.max()) + 1)
    return Box(low, high, feature.shape, dtype.type)
