"""The verb `report`: comparison of evaluations as tables, one HTML page, plots for papers, and short videos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from gato_agent.envs.errors import UsageError, at_least
from gato_agent.envs.files import lock_folder, write_files
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.envs.suggested_commands import suggest
from gato_agent.evaluation.aggregate import shared
from gato_agent.evaluation.metrics import Sample
from gato_agent.evaluation.recorded import ReplayOptions
from gato_agent.evaluation.report.comparison import comparison, improvements, published
from gato_agent.evaluation.report.html_page import page
from gato_agent.evaluation.report.markdown import markdown
from gato_agent.evaluation.report.plots import plots
from gato_agent.evaluation.report.video_folder import existing_videos, missing_videos, record_videos
from gato_agent.evaluation.results import Results, to_csv
from gato_agent.rollouts.experts.sb3.obs_wrappers import parse_wrappers

PAGE, TABLES = "index.html", "tables.md"
NO_OPTIONS = ReplayOptions()


@dataclass(frozen=True)
class ReportConfig:
    """Compare evaluations with each other and with published generalists, and write a report of the first."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Results: folders or JSON files that `gato-agent evaluate --out` wrote; the report is of the first."""
    out: Path | None = None
    """Report folder: index.html, tables.md, plots, and videos/. By default only the comparison is printed."""
    videos: bool = True
    """Record a video of each task's first episode where there is none yet; this needs the checkpoint."""
    workers: int | None = None
    """Processes that record videos, at least 1; by default one for each core."""
    checkpoint: str | None = None
    """Checkpoint of the first results, unless these name it by a path below the current folder."""
    expert: str | None = None
    """Expert of the first results, if it is module:callable, hub:ORG/NAME, or a file elsewhere."""
    env: tuple[str, ...] = ()
    """Environments outside the catalogue, as module:Env-v0; the module is imported to record them."""
    env_kwargs: str | None = None
    """Environment arguments of the first results, as JSON, if they are not plain numbers and words."""
    expert_statistics: str | None = None
    """VecNormalize statistics of an SB3 --expert, if they are a file elsewhere."""
    expert_wrappers: str | None = None
    """Observation wrappers of an SB3 --expert, as JSON; by default those of its evaluation."""
    demo: Path | None = None
    """Demonstration folder of the first results, if it is elsewhere."""


def report(config: ReportConfig) -> None:
    """Print the comparison and write the report.

    Nothing is imported, downloaded or read because a results file names it, unless it is a plain name: everything else
    that recording videos needs comes from the options.

    Raises:
        UsageError: no results, results that do not exist, or options that do not match them.
        GatoError: a results file is damaged.
    """
    at_least(1, workers=config.workers)
    if not config.results:
        made, shown = suggest("evaluate", out="results"), suggest("report", results="results", out="report")
        raise UsageError(f"which results? `{made}` makes some, then: {shown}")
    results = [Results.load(path) for path in config.results]
    console = plain_console()
    console.print(comparison(results))
    if len(results) > 1:
        console.print(improvements(results))
    if config.out:
        named = {find_spec(env).id: env for env in config.env}
        kwargs = None if config.env_kwargs is None else parse_kwargs(config.env_kwargs)
        wrappers = parse_wrappers(config.expert_wrappers)
        options = ReplayOptions(
            config.checkpoint, config.expert, kwargs, config.demo, config.expert_statistics, wrappers
        )
        write_report(results, config.out, console, options, videos=config.videos, named=named, workers=config.workers)


def write_report(
    results: Sequence[Results], out: Path, console: Console, options: ReplayOptions = NO_OPTIONS, *,
    videos: bool = True, named: Mapping[str, str] | None = None, workers: int | None = None,
) -> Path:  # fmt: skip
    """Write a report of the first evaluation, beside the others.

    Args:
        results: at least one.
        out: folder, which is created.
        console: for progress.
        options: names from the user that a results file may not give.
        videos: True to record missing videos.
        named: environment ids with a module to import, by task.
        workers: processes that record videos.

    Returns:
        Path of the HTML page.

    Raises:
        UsageError: another process writes to `out`, its videos are a link, or `options` do not match the results.
    """
    with lock_folder(out, "report"):
        existing = existing_videos(results[0], out)
        if videos:
            jobs = missing_videos(results[0], existing, options, named or {}, console)
            existing |= record_videos(results[0], out, console, jobs, existing, workers)
        samples = [(each.actor, _samples(each)) for each in shared(results)]
        written = {
            out / PAGE: page(results, samples, existing, published()).encode(),
            out / "results.csv": to_csv(results[0]),
            out / TABLES: markdown(results[0]).encode(),
        }
        written |= {out / name: data for name, data in plots(results, samples).items()}
        write_files(written)
    console.print(f"report: {out / PAGE}", highlight=False, markup=False, soft_wrap=True)
    return out / PAGE


def _samples(results: Results) -> list[Sample]:
    return [sample for task in results.scores() if (sample := task.sample()) is not None]
