"""Experts from the Hugging Face hub: `hub:ORG/NAME`, or `hub:ORG/NAME/FILE.zip` if the zip has another name.

A repository of rl-baselines3-zoo is named like its zip, and also has VecNormalize statistics and training settings.
"""

from pathlib import Path
from typing import Any

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.tasks.packages import import_named
from gato_agent.rollouts.experts.sb3.vecnormalize import STATISTICS
from gato_agent.rollouts.experts.sb3.zoo_config import CONFIGS

PREFIX = "hub:"


def fetch(spec: str) -> tuple[Path, str]:
    """Download an SB3 zip with its statistics and settings into the hub's cache, unless they are cached.

    Args:
        spec: `hub:ORG/NAME` or `hub:ORG/NAME/FILE`.

    Returns:
        Path of the zip, and its full name on the hub.

    Raises:
        UsageError: no such repository or file, or the package is missing.
        GatoError: the hub cannot be reached.
    """
    hub = load_hub(f"--expert {spec}")
    parts = spec.removeprefix(PREFIX).split("/")
    if len(parts) < 2 or not all(parts):
        raise UsageError(f"--expert {spec}: write hub:ORG/NAME, or hub:ORG/NAME/FILE.zip")
    repo, file = "/".join(parts[:2]), "/".join(parts[2:]) or f"{parts[1]}.zip"
    path = download(hub, repo, file)
    if path is None:
        raise UsageError(f"--expert {spec}: {repo} has no file {file}; name its zip: hub:{repo}/FILE.zip")
    folder = file.rpartition("/")[0]
    for name in (*CONFIGS, *STATISTICS):  # `read_zip` finds them beside the zip
        download(hub, repo, f"{folder}/{name}" if folder else name)
    return path, f"{PREFIX}{repo}/{file}"


def load_hub(named: str) -> Any:
    """Import the package `huggingface_hub` and its module of errors.

    Args:
        named: option with which the user named the hub, for errors.

    Raises:
        UsageError: the package is missing; the message has the extra to install.
    """
    import_named("huggingface_hub.errors", named)
    return import_named("huggingface_hub", named)


def download(hub: Any, repo: str, file: str) -> Path | None:
    """Download a file into the hub's cache and return its path; None if the repository has no such file.

    Args:
        hub: result of `load_hub`.
        repo: `ORG/NAME`.
        file: path of the file in the repository.

    Raises:
        UsageError: no such repository.
        GatoError: the hub cannot be reached.
    """
    errors = hub.errors
    try:
        return Path(hub.hf_hub_download(repo, file))
    except errors.LocalEntryNotFoundError as error:  # the hub cannot be reached, and the file is not cached
        if hub.try_to_load_from_cache(repo, file) is hub._CACHED_NO_EXIST:
            return None
        raise GatoError(f"{PREFIX}{repo}/{file} cannot be reached ({one_line(error)}): is there a network?") from error
    except errors.EntryNotFoundError:
        return None
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UsageError(f"{PREFIX}{repo} is no repository that can be read ({one_line(error)})") from error
    except Exception as error:  # the types of transport errors differ between versions of the package
        raise GatoError(f"{PREFIX}{repo}/{file} cannot be downloaded ({one_line(error)})") from error
