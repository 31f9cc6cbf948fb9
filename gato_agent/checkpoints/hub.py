"""Upload of a checkpoint to the Hugging Face hub: its file, and a model card with its scores."""

import re
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import read_named
from gato_agent.envs.io.strict_json import checked_digest
from gato_agent.envs.suggested_commands import suggest
from gato_agent.rollouts.experts.hub import PREFIX, load_hub

CARD = """# {name}

An agent of {parameters:,} parameters for `gato-agent`, trained on {count} task(s). The repository
holds one safetensors file, which cannot run code.

```python
import gymnasium as gym
from gato_agent import Agent

env = gym.make("{task}")
agent = Agent.from_pretrained("{repo}", env)
```

or `{play}`.
"""
SCORES = """
## Scores

Means over whole episodes with unseen seeds; the score is 0 for a random player and 1 for the expert.

| environment | episodes | mean return | 95% interval | score |
|---|---:|---:|---:|---:|
"""


def load_checkpoint(reference: str | Path | None, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a checkpoint of a path, or of the repository `ORG/NAME` on the hub where no folder `ORG` is.

    Args:
        reference: as `Checkpoint.load`, or `ORG/NAME`.
        device: where to put the weights.

    Raises:
        UsageError: there is neither such a path nor such a repository; the message has the nearest path.
        GatoError: the hub cannot be reached, or the file is damaged.
    """
    if not isinstance(reference, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", reference) or Path(reference).exists():
        return Checkpoint.load(reference, device)
    path = Path(reference)
    if path.parent.is_dir():  # a mistyped path, which needs no network
        raise UsageError(f"no folder {reference}{_nearest(path)}; a repository on the hub is {PREFIX}{reference}")
    try:
        return Checkpoint.load(f"{PREFIX}{reference}", device)
    except GatoError as error:
        raise type(error)(f"no folder {reference}, and on the hub: {error}") from error


def _nearest(path: Path) -> str:
    """Hint at an entry of the path's folder with a similar name; empty if there is none."""
    close = get_close_matches(path.name, [each.name for each in path.parent.iterdir()], n=1)
    return f" (did you mean {path.parent / close[0]}?)" if close else ""


def push(
    checkpoint: Checkpoint,
    repo: str,
    evaluation: Path | None = None,
    *,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a checkpoint, and a card with the scores of its evaluation; returns the repository's address.

    Args:
        checkpoint: to upload.
        repo: `ORG/NAME`, created if it does not exist.
        evaluation: JSON of `gato-agent evaluate`, or the folder that holds it.
        private: True to hide a new repository.
        token: of the hub; by default the one of `hf auth login`.

    Raises:
        UsageError: the package is missing, or the hub refuses the name or the token.
        GatoError: the evaluation is damaged, or the hub cannot be reached.
    """
    hub = load_hub(f"push_to_hub {repo}")
    text = card(checkpoint, repo, evaluation)
    with TemporaryDirectory() as folder:
        checkpoint.save(Path(folder))
        text.save(Path(folder) / "README.md")
        api = hub.HfApi(token=token)
        try:
            url = api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a gato-agent checkpoint")
        except (hub.errors.HFValidationError, hub.errors.LocalTokenNotFoundError) as error:
            raise UsageError(f"push_to_hub {repo}: {one_line(error)}") from error
        except Exception as error:  # any error of the hub or of the network
            raise GatoError(f"push_to_hub {repo}: {one_line(error)}: is there a network, and a token?") from error
    return str(url)


def card(checkpoint: Checkpoint, repo: str, evaluation: Path | None = None) -> Any:
    """The model card, a `huggingface_hub.ModelCard`, with scores in its text and in its metadata."""
    hub = load_hub(f"push_to_hub {repo}")
    scores = [] if evaluation is None else read_scores(evaluation)
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    name, task = repo.partition("/")[2], next(iter(checkpoint.tasks), "CartPole-v1")
    text = CARD.format(
        name=name,
        repo=repo,
        task=task,
        parameters=parameters,
        count=len(checkpoint.tasks),
        play=suggest("play", env=task, checkpoint=f"hub:{repo}"),
    )
    results = [
        hub.EvalResult(
            task_type="reinforcement-learning", task_name="reinforcement-learning", dataset_type=score["task"],
            dataset_name=score["task"], metric_type="mean_reward",
            metric_value=f"{score['mean']:.2f} +/- {score['std']:.2f}",
        )
        for score in scores
    ]  # fmt: skip
    tags = ["reinforcement-learning", "imitation-learning", "gymnasium", "generalist-agent"]
    about = hub.ModelCardData(library_name="gato-agent", tags=tags, model_name=name, eval_results=results or None)
    return hub.ModelCard(f"---\n{about}\n---\n\n{text}{SCORES if scores else ''}{''.join(map(_row, scores))}")


def read_scores(evaluation: Path) -> list[dict[str, Any]]:
    """Scores of each task; raises GatoError for a file that `gato-agent evaluate` did not write."""
    path = evaluation / "results.json" if evaluation.is_dir() else evaluation
    try:
        scores = [dict(task) for task in checked_digest(read_named(path))["tasks"]]
        any(f"{_row(score)} {score['std']:.2f}" for score in scores)  # raises for values that the card cannot show
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise GatoError(f"{path} is not JSON of `gato-agent evaluate` ({one_line(error)})") from error
    return scores


def _row(score: dict[str, Any]) -> str:
    low, high = score["ci95"]
    normalized = "-" if score["normalized"] is None else f"{score['normalized']:.3f}"
    return f"| {score['task']} | {score['episodes']} | {score['mean']:.1f} | {low:.1f} to {high:.1f} | {normalized} |\n"
