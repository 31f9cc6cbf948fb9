"""The verb `report`: comparison of evaluations as tables, one HTML page, plots for papers, and short videos."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import tyro
from rich import box
from rich.console import Console
from rich.table import Column, Table

from gato_agent.envs.errors import GatoError, UsageError, at_least
from gato_agent.envs.files import below, lock_folder, read_own, write_files
from gato_agent.envs.io import plain
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.io.progress import progress
from gato_agent.envs.io.strict_json import checked_digest, with_digest
from gato_agent.envs.make import find_spec, parse_kwargs
from gato_agent.envs.suggested_commands import suggest
from gato_agent.evaluation.aggregate import by_group, compare, shared, shared_note
from gato_agent.evaluation.metrics import Interval, Sample
from gato_agent.evaluation.progress_table import number
from gato_agent.evaluation.recorded import ReplayOptions, replay_settings
from gato_agent.evaluation.report.html_page import Videos, page
from gato_agent.evaluation.report.markdown import markdown
from gato_agent.evaluation.report.plots import plots
from gato_agent.evaluation.report.videos import VideoJob, VideoRecorder, poster, video_jobs
from gato_agent.evaluation.results import Results, to_csv
from gato_agent.inference.options import resolve_device
from gato_agent.rollouts.collection.episode_worker import Failed
from gato_agent.rollouts.collection.process_pool import play_in_processes
from gato_agent.rollouts.experts.sb3.obs_wrappers import parse_wrappers

PAGE, TABLES, VIDEOS, MANIFEST = "index.html", "tables.md", "videos", "videos.json"
NO_OPTIONS = ReplayOptions()
TIMEOUT = 300.0  # seconds of a step, rendering included, after which it counts as hanging


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


def published() -> dict[str, Any]:
    """Published results of other generalists: description, and by group the IQM and its environments."""
    data: dict[str, Any] = json.loads(
        (files("gato_agent.evaluation.report") / "template" / "published.json").read_text(encoding="utf-8")
    )
    return data


def comparison(results: Sequence[Results]) -> Table:
    """Table of interquartile means by family, of each evaluation and of published generalists."""
    shown = Table(Column("family", no_wrap=True), title="IQM of expert-normalised score", box=box.SIMPLE, padding=0)
    summaries = [by_group(each) for each in shared(results)]
    others = {name: each["groups"] for name, each in published().items()}
    rows = {name: None for groups in summaries for name in groups}
    numeric = [name for name, groups in others.items() if any("iqm" in groups.get(row, {}) for row in rows)]
    for name in [*(each.actor for each in results), *numeric]:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [_cell(groups[row].iqm, groups[row].iqm_ci95) if row in groups else "-" for groups in summaries]
        known = [others[name].get(row, {}) for name in numeric]
        shown.add_row(row, *cells, *(number(each.get("iqm"), 3) for each in known))
    notes = [
        f"{name}, {row}: {each.get('said', 'IQM')} ({each['environments']})"
        for name, groups in others.items() for row, each in groups.items() if row in rows
    ]  # fmt: skip
    captions = [shared_note(results), f"published: {'; '.join(notes)}" if notes else ""]
    shown.caption = "\n".join(filter(None, captions)) or None
    return shown


def _cell(value: float | None, bounds: Interval | None) -> str:
    return number(value, 3) if not bounds else "{} ({:.3f} to {:.3f})".format(number(value, 3), *bounds)


def improvements(results: Sequence[Results]) -> Table:
    """Table of the probability of improvement of the first evaluation over each of the others."""
    first = results[0]
    shown = Table(Column("family", no_wrap=True), box=box.SIMPLE, padding=0)
    shown.title = f"probability that an episode of {first.actor} beats one of ..."
    comparisons = [compare(first, other) for other in results[1:]]
    for other in results[1:]:
        shown.add_column(other.actor, justify="right")
    for name in {name: None for groups in comparisons for name in groups}:
        cells = [
            _cell(groups[name].probability, groups[name].ci95) if name in groups else "-" for groups in comparisons
        ]
        shown.add_row(name, *cells)
    return shown


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
        existing = _existing_videos(results[0], out)
        if videos:
            jobs = _video_jobs(results[0], existing, options, named or {}, console)
            existing |= _record_videos(results[0], out, console, jobs, existing, workers)
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


def _identity(results: Results) -> str:
    """Key of the evaluation whose videos may be reused: weights and settings, as JSON."""
    return json.dumps([results.actor if results.sha256 is None else results.sha256, results.settings], sort_keys=True)


def _existing_videos(results: Results, out: Path) -> Videos:
    """Existing videos of the same weights and settings, by task."""
    folder = below(out, VIDEOS)
    path, way_out = folder / MANIFEST, "delete it, and the report is made anew"
    try:
        manifest = checked_digest(read_own(path)) if path.exists() else {}
        entries = manifest[_videos_key(manifest)] if manifest.get("of") == _identity(results) else {}
        existing = {}
        for task, each in entries.items():
            names = {key: plain.name(each[key], path, way_out, [name]) for key, name in _file_names(task).items()}
            metrics = {key: float(each[key]) for key in ("return", "seconds")} | {"steps": int(each["steps"])}
            if (folder / names["file"]).is_file():
                existing[task] = names | metrics
        return existing
    except (LookupError, OverflowError, TypeError, ValueError, AttributeError) as error:
        raise GatoError(f"{path} is damaged ({error}): {way_out}") from error


def _videos_key(manifest: Mapping[str, Any]) -> str:
    return "videos" if "videos" in manifest else "films"  # the latter in version 0.1


def _video_jobs(
    results: Results, existing: Videos, options: ReplayOptions, named: Mapping[str, str], console: Console
) -> list[VideoJob]:
    """Jobs of tasks without a video; none, with a message, if the results need options from the user."""
    lengths = {each.task: each.lengths[0] for each in results.scores() if each.task not in existing}
    if not lengths:
        return []
    try:
        settings = replace(replay_settings(results, options), num_threads=1, device=resolve_device("cpu"))
    except plain.NotPlain as error:
        console.print(f"no more videos: {error}", highlight=False, markup=False, soft_wrap=True)
        return []
    return video_jobs(settings, lengths, dict(named))


def _record_videos(
    results: Results, out: Path, console: Console, jobs: Sequence[VideoJob], existing: Videos, workers: int | None
) -> Videos:
    """Record missing videos and save each as it completes; prints an error for each task that failed."""
    existing = dict(existing)
    playing = play_in_processes(
        jobs,
        [[job.settings.seed] for job in jobs],
        workers or os.cpu_count() or 1,
        TIMEOUT,
        players=VideoRecorder,
        ahead=1,
    )
    with progress(console, "recording videos", len(jobs), "tasks", every=10.0) as update, closing(playing):
        done = 0
        for group in playing if jobs else ():
            for result in group:
                done += 1
                task = jobs[result.job].env_id
                try:
                    if isinstance(result, Failed):
                        raise GatoError(result.reason)
                    entry = {"return": result.total, "steps": result.steps, "seconds": result.seconds}
                    existing[task] = _write_video(out / VIDEOS, task, result.episode) | entry
                except GatoError as error:  # the report is written without this video
                    console.print(f"no video: {error}", highlight=False, markup=False, soft_wrap=True)
            if group:
                manifest = {"of": _identity(results), "videos": dict(sorted(existing.items()))}
                write_files({out / VIDEOS / MANIFEST: with_digest(manifest, indent=1)})
                update(done, f"{len(existing)} recorded")
    return existing


def _write_video(folder: Path, task: str, data: bytes) -> dict[str, Any]:
    """Write a video and its poster image; returns their file names."""
    names = _file_names(task)
    write_files({folder / names["file"]: data})
    write_files({folder / names["poster"]: poster(folder / names["file"])})
    return dict(names)


def _file_names(task: str) -> dict[str, str]:
    """File names of a task's video and poster, without %, which a URL would need to escape."""
    name = quote(task, safe="").replace("%", "_")
    return {"file": f"{name}.mp4", "poster": f"{name}.jpg"}
