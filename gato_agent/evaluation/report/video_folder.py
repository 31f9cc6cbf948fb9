"""The videos of a report: those that exist, and those that are missing and recorded."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console

from gato_agent.envs.errors import GatoError
from gato_agent.envs.files import below, read_own, write_files
from gato_agent.envs.io import plain
from gato_agent.envs.io.console import plural
from gato_agent.envs.io.progress import progress
from gato_agent.envs.io.strict_json import checked_digest, with_digest
from gato_agent.evaluation.recorded import ReplayOptions, replay_settings
from gato_agent.evaluation.report.html_page import Videos
from gato_agent.evaluation.report.videos import VideoJob, VideoRecorder, poster, video_jobs
from gato_agent.evaluation.results import Results
from gato_agent.inference.options import resolve_device
from gato_agent.rollouts.collection.episode_worker import Failed
from gato_agent.rollouts.collection.process_pool import play_in_processes

VIDEOS, MANIFEST = "videos", "videos.json"
TIMEOUT = 300.0  # seconds of a step, rendering included, after which it counts as hanging


def _identity(results: Results) -> str:
    """Key of the evaluation whose videos may be reused: weights and settings, as JSON."""
    return json.dumps([results.actor if results.sha256 is None else results.sha256, results.settings], sort_keys=True)


def existing_videos(results: Results, out: Path) -> Videos:
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


def missing_videos(
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


def record_videos(
    results: Results, out: Path, console: Console, jobs: Sequence[VideoJob], existing: Videos, workers: int | None
) -> Videos:
    """Record missing videos and save each as it completes; prints an error for each task that failed."""
    existing = dict(existing)
    if not jobs:
        return existing
    playing = play_in_processes(
        jobs,
        [[job.settings.seed] for job in jobs],
        workers or os.cpu_count() or 1,
        TIMEOUT,
        players=VideoRecorder,
        ahead=1,
    )
    start = f"recording videos of {plural(len(jobs), 'task')}"
    with progress(console, "recording videos", len(jobs), "tasks", start=start) as update, closing(playing):
        done = 0
        for group in playing:
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
