"""Files beside an SB3 zip: VecNormalize statistics, which are not in the zip, and the settings of its training.

    model.zip                    vecnormalize.pkl, vec_normalize.pkl, obs_norm.npz       SB3's examples, the hub, ours
    model.zip                    model_vecnormalize.pkl, vec_normalize_model.pkl, ...    named after the zip
    rl_model_10000_steps.zip     rl_model_vecnormalize_10000_steps.pkl                   SB3's checkpoints
    ENV.zip, best_model.zip,     ENV/vecnormalize.pkl, ENV/config.yml, ENV/args.yml      rl-baselines3-zoo
    rl_model_10000_steps.zip
    model.zip                    any other file, if it is the only one and so is the zip

A zip usually shows whether it was trained with VecNormalize. Files that contradict it, missing files and files that may
belong to another zip are errors: an expert with missing or wrong statistics acts like random.
"""

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.experts.sb3.vecnormalize import MAX_BYTES, STATISTICS, Normalizer, read_npz, read_pickle
from gato_agent.rollouts.experts.sb3.zoo_config import CONFIGS, check_arguments, read_config

NONE = "none"
LEGACY = "obs_rms.pkl"  # of Stable Baselines 2, without VecNormalize's clipping bounds
TRAINING_FILE = "training.json"  # marks a zip of `--expert train`, whose statistics are always beside it
STEPS = re.compile(r"(?P<prefix>.*?)_?(?P<steps>\d+)_steps")
WORDS = re.compile(r"vec[_-]?norm(ali[sz]ed?|ali[sz]ation)?|obs[_-]?(norm|rms)|norm(ali[sz]e)?|stat(istic)?s")
MARKS = (b"VecNormalize", b"RunningMeanStd", b"obs_rms")  # in the first bytes of files of statistics
BEGINNING = 2**16  # bytes that are searched for MARKS
OPTION = "--expert-statistics PATH, or none"


class RunFiles(NamedTuple):
    """Statistics of a zip's training, if observations were normalised, and its wrappers, if they are named."""

    normalize: Normalizer | None = None
    wrappers: Wrappers = {}  # noqa: RUF012  # never changed


def look_beside(
    model: Path, env_id: str, behind: bool | None, *,
    option: str | None = None, horizon: int | None = None, env_kwargs: Mapping[str, Any] | None = None,
) -> RunFiles:  # fmt: skip
    """Find the statistics and wrappers of a zip.

    Args:
        model: path of the zip.
        env_id: environment in which it will act.
        behind: true if the zip shows that it was trained with VecNormalize, false if without; None if unknown.
        option: file of statistics, or `none`, that the user names; other files are then ignored.
        horizon: maximal steps of an episode, if the environment has a limit.
        env_kwargs: arguments of the environment; None to skip their check.

    Raises:
        UsageError: statistics are missing, ambiguous, or contradict the zip; or a setting is not supported.
        GatoError: a file is damaged.
    """
    if option is not None:
        return RunFiles(given_statistics(option))
    if (model.parent / TRAINING_FILE).is_file():
        return RunFiles(_common_statistics(model, [path for path in _standard([model.parent]) if path.is_file()]))
    folders = _folders(model, env_id)
    config = read_config(folders, horizon)
    if env_kwargs is not None:
        check_arguments(config, env_kwargs, str(model))
    chosen = _choose(model, folders, behind)
    if chosen and behind is False:
        raise UsageError(
            f"{model} was trained without VecNormalize, and {_listed(chosen)} lies beside it: name the right "
            f"statistics with {OPTION}"
        )
    if not chosen and (behind or (behind is None and config.normalized)):
        near = [path for path in _files(model.parent.parent) if _looks_so(path)]
        hint = f" (perhaps {_listed(near)})" if near else ""
        raise UsageError(
            f"{model} was trained with VecNormalize, and its statistics are not beside it: name them with {OPTION}"
            f"{hint}"
        )
    return RunFiles(_common_statistics(model, chosen), config.wrappers)


def given_statistics(option: str) -> Normalizer | None:
    """Read the statistics that the user names; None for `none`, or if only rewards were normalised.

    Raises:
        UsageError: there is no such file.
        GatoError: the file is damaged, or no file of statistics.
    """
    if option == NONE:
        return None
    path = Path(option)
    if path.is_dir():
        path = next((file for file in _standard([path]) if file.is_file()), path)
    if not path.is_file():
        raise UsageError(f"--expert-statistics {option}: there is no such file; use none if there are no statistics")
    return _read(path)


def _folders(model: Path, env_id: str) -> list[Path]:
    """Folders in which a zip's files may be: its own, and those named like the zip or the environment.

    If none of these has such files, folders of other names are searched, such as of another environment version.
    """
    named = [model.with_suffix(""), model.parent / env_id.replace("/", "-"), model.parent / env_id]
    folders = [folder for folder in named if folder.is_dir()]
    if not any(_of_a_run(folder) for folder in folders):
        others = [folder for folder in _children(model.parent) if folder.is_dir() and _of_a_run(folder)]
        folders += [folder for folder in others if not any(folder.glob("*.zip"))]
    return list(dict.fromkeys([model.parent, *folders]))


def _of_a_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (*STATISTICS, LEGACY, *CONFIGS))


def _choose(model: Path, folders: Sequence[Path], behind: bool | None) -> list[Path]:
    """Files of statistics of a zip, perhaps none; raises UsageError if that is ambiguous."""
    files = [path for folder in folders for path in _files(folder)]
    own = [path for path in files if _is_of(path, model) and _looks_so(path)]
    if own:
        return own
    if at := STEPS.fullmatch(model.stem):
        of_others = [path for path in files if (other := STEPS.fullmatch(path.stem)) and _looks_so(path)
                     and WORDS.sub("", other["prefix"]).strip("_-") == at["prefix"].strip("_-")]  # fmt: skip
        if of_others:
            raise UsageError(
                f"{model} has no statistics of its own step beside it, and other checkpoints have "
                f"({_listed(of_others)}): name the right ones with {OPTION}"
            )
    if standard := [path for path in _standard(folders) if path.is_file()]:
        return standard
    others = [path for path in files if _looks_so(path)]
    if not others or behind is False:
        return []
    if len(others) == 1 and others[0].name != LEGACY and all(path == model for path in _models(model.parent)):
        return others
    raise UsageError(f"{model} may have been trained with the statistics {_listed(others)}: confirm with {OPTION}")


def _is_of(path: Path, model: Path) -> bool:
    """True if a file of statistics is named after the zip, or after its step: equal names without WORDS."""
    name, stem, at = path.stem.lower(), model.stem.lower(), STEPS.fullmatch(model.stem)
    left = re.sub(r"([_-])[_-]+", r"\1", WORDS.sub("", name)).strip("_-. ")
    return path.name not in STATISTICS and left in (stem, f"{at['steps']}_steps" if at else stem)


def _models(folder: Path) -> Iterator[Path]:
    """SB3 zips of a folder."""
    for path in folder.glob("*.zip"):
        try:
            with zipfile.ZipFile(path) as file:
                if "policy.pth" in file.namelist():
                    yield path
        except (OSError, zipfile.BadZipFile, ValueError):
            continue


def _standard(folders: Iterable[Path]) -> list[Path]:
    return [folder / name for folder in folders for name in STATISTICS]


def _files(folder: Path) -> list[Path]:
    return [path for path in _children(folder) if path.is_file()]


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # the folder is not readable
        return []


def _looks_so(path: Path) -> bool:
    """True if a file seems to contain observation statistics, by its name or its first bytes."""
    if path.name in (*STATISTICS, LEGACY):
        return True
    try:
        if path.suffix == ".zip" or not 0 < path.stat().st_size <= MAX_BYTES:
            return False
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
    except OSError:
        return False
    return beginning[:1] == b"\x80" and any(mark in beginning for mark in MARKS)


def _common_statistics(model: Path, paths: Sequence[Path]) -> Normalizer | None:
    """Statistics in all files; raises UsageError if they differ."""
    read = [_read(path) for path in paths]
    if any((each and each.to_json()) != (read[0] and read[0].to_json()) for each in read):
        raise UsageError(f"{model} has different statistics beside it, {_listed(paths)}: choose with {OPTION}")
    return read[0] if read else None


def _read(path: Path) -> Normalizer | None:
    if path.name == LEGACY:
        raise GatoError(
            f"{path} has statistics without VecNormalize's bounds, which cannot be used: name others with {OPTION}"
        )
    return (read_npz if path.suffix == ".npz" else read_pickle)(path)


def _listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(map(str, paths[:3]))
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown
