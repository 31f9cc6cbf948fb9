"""The report's page: one HTML file with its style, script and charts inside. It says everything without the script."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from gato_agent.evaluation.aggregate import ALL, GROUPS, Summary, by_group, compare, of_states
from gato_agent.evaluation.metrics import Sample
from gato_agent.evaluation.progress_table import number, percent
from gato_agent.evaluation.report.charts import bars, profiles
from gato_agent.evaluation.results import Results, TaskScore, family_of

MANY = 24  # tasks whose chart takes the whole width
Films = dict[str, dict[str, Any]]  # task -> file, poster, return, steps and seconds


def page(
    results: Sequence[Results],
    samples: Sequence[tuple[str, list[Sample]]],
    videos: Films,
    published: Mapping[str, Any],
) -> str:
    """The whole page, about the first of `results`, with the others beside it."""
    first, groups = results[0], [by_group(each) for each in results]
    parts = {
        "title": escape(first.actor),
        "about": _about(first),
        "tiles": "".join(_tiles(first, groups[0])),
        "families": _families(results, groups, published),
        "bars": "".join(_strips(first)),
        "profile": profiles(samples) + _legend([name for name, _ in samples]),
        "improvement": _improvement(results),
        "options": "".join(f"<option>{escape(name)}</option>" for name in _group_names(first)),
        "head": _head(results),
        "rows": "".join(_rows(results, videos)),
        "cards": "".join(_cards(first, videos)),
        "n_cards": str(len(videos)),
        "notes": _notes(first, published),
    }
    parts |= {"style": _template("page.css"), "script": _template("page.js")}
    return Template(_template("page.html")).substitute(parts)


def _template(name: str) -> str:
    return (files("gato_agent.evaluation.report") / "template" / name).read_text(encoding="utf-8")


def _about(results: Results) -> str:
    how = results.settings
    digest = f" · weights {results.sha256[:12]}" if results.sha256 else ""
    warm = how.get("temperature")
    if isinstance(warm, dict):
        counts = Counter(warm[task] for task in sorted(results.tasks) if task in warm).items()
        warm = ", ".join(f"{each:g} in {count} {'task' if count == 1 else 'tasks'}" for each, count in sorted(counts))
    chosen = f"temperature {warm}" if warm else "greedy"
    played = f"{how.get('episodes')} episodes a task, seeds from {how.get('seed', 0):,}"
    return escape(f"{played} · {chosen}, {how.get('precision')}{digest}")


def _tiles(results: Results, groups: Mapping[str, Summary]) -> Iterator[str]:
    every = groups[ALL]
    left = every.wanted - every.tasks
    yield _tile(f"{every.tasks}", f"of {every.wanted}" if left else "", "tasks evaluated")
    if every.iqm is not None and every.iqm_ci95 is not None:
        yield _tile(f"{every.iqm:.2f}", "{:.2f}–{:.2f}".format(*every.iqm_ci95), "IQM of score, all tasks")
        share = every.above_half / every.defined
        yield _tile(f"{share:.0%}", f"{every.above_half} of {every.defined}", "above half of expert")
    states = of_states(groups)
    if states is not None and len(groups) > 2:
        yield _tile(f"{states:.2f}", "", "mean of families seen as states")
    if every.success is not None:
        yield _tile(f"{every.success:.0%}", "", "success, where a task has it")
    episodes = sum(task.episodes for task in results.scores())
    yield _tile(f"{episodes:,}", f"{sum(task.steps for task in results.scores()):,} steps", "episodes played")


def _tile(figure: str, beside: str, below: str) -> str:
    return f'<div class="tile"><b>{figure}</b> <i>{beside}</i><span>{below}</span></div>'


def _families(results: Sequence[Results], groups: Sequence[Mapping[str, Summary]], published: Mapping[str, Any]) -> str:
    others = [name for name, each in published.items() if any("iqm" in known for known in each["groups"].values())]
    names = [*(escape(each.actor) for each in results), *map(escape, others)]
    heads = "".join(f"<th>{name}</th>" for name in ["family", *names, "of tasks", "above half", "success", "tasks"])
    rows = []
    for name, mine in groups[0].items():
        cells = [_meter(each.get(name)) for each in groups]
        cells += [_published(published[other]["groups"].get(name)) for other in others]
        cells += [
            number(mine.iqm_of_tasks, 3), f"{mine.above_half} of {mine.defined}", percent(mine.success),
            f"{mine.tasks} of {mine.wanted}",
        ]  # fmt: skip
        kind = ' class="all"' if name == ALL else ""
        rows.append(f"<tr{kind}><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<table class="families"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _meter(summary: Summary | None) -> str:
    """A figure with its interval, as a bar."""
    if summary is None or summary.iqm is None or summary.iqm_ci95 is None:
        return '<span class="none">–</span>'
    low, high = (min(max(bound, 0.0), 1.2) / 1.2 for bound in summary.iqm_ci95)
    filled = min(max(summary.iqm, 0.0), 1.2) / 1.2
    return (
        f"<b>{summary.iqm:.3f}</b> <small>{summary.iqm_ci95[0]:.3f}–{summary.iqm_ci95[1]:.3f}</small>"
        f'<span class="meter"><span style="width:{filled:.1%}"></span>'
        f'<em style="left:{low:.1%};width:{high - low:.1%}"></em></span>'
    )


def _published(known: Mapping[str, Any] | None) -> str:
    if not known or "iqm" not in known:
        return '<span class="none">–</span>'
    return f'{known["iqm"]:.2f} <small class="where">{escape(known["environments"])}</small>'


def _group_names(results: Results) -> list[str]:
    there = {family_of(task) for task in (*results.tasks, *results.failed, *results.not_evaluated)}
    return [name for name, suites in GROUPS.items() if there.intersection(suites)]


def _group_of(task: str) -> str:
    family = family_of(task)
    return next(name for name, suites in GROUPS.items() if family in suites)


def _strips(results: Results) -> Iterator[str]:
    for name in _group_names(results):
        tasks = [task for task in results.scores() if task.family in GROUPS[name]]
        if drawn := bars(tasks):
            many = " many" if len(tasks) > MANY else ""
            yield (
                f'<figure class="strip{many}"><figcaption><b>{escape(name)}</b> <output></output></figcaption>'
                f'<div class="scale"><span>1</span><span>½</span><span>0</span>{drawn}</div></figure>'
            )


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    return (
        '<p class="legend">'
        + "".join(f'<span class="p{i % 6}">{escape(n)}</span>' for i, n in enumerate(names))
        + "</p>"
    )


def _improvement(results: Sequence[Results]) -> str:
    lines = []
    for other in results[1:]:
        found = compare(results[0], other)
        cells = "".join(
            f"<tr><th>{escape(name)}</th><td>{each.probability:.3f}</td>"
            f"<td>{each.ci95[0]:.3f}–{each.ci95[1]:.3f}</td><td>{each.tasks}</td></tr>"
            for name, each in found.items()
        )
        lines.append(
            f"<h3>Probability that an episode beats one of {escape(other.actor)}</h3>"
            '<div class="scroll"><table class="families"><thead><tr><th>family</th><th>probability</th>'
            f"<th>95% interval</th><th>tasks</th></tr></thead>{cells}</table></div>"
        )
    return "".join(lines)


HEADS = (  # what is said at the top of a column, whether it sorts as a number, and whether a phone shows it
    ("task", "text", True), ("family", "text", False), ("score", "number", True), ("95% interval", "number", False),
    ("return", "number", False), ("success", "number", False), ("random", "number", False),
    ("expert", "number", False), ("steps/s", "number", False),
)  # fmt: skip


def _head(results: Sequence[Results]) -> str:
    others = [(each.actor, "number", True) for each in results[1:]]
    cells = [
        f'<th class="{"" if phone else "wide"}" data-kind="{kind}" aria-sort="none">'
        f'<button type="button">{escape(name)}</button></th>'
        for name, kind, phone in (*HEADS, *others)
    ]
    return "".join(cells)


def _rows(results: Sequence[Results], videos: Films) -> Iterator[str]:
    first = results[0]
    for task in sorted(first.scores(), key=lambda each: (_order(each.task), each.task)):
        yield _row(task, [each.tasks.get(task.task) for each in results[1:]], videos.get(task.task))
    for kind, reasons in (("failed", first.failed), ("not evaluated", first.not_evaluated)):
        for task_id, reason in sorted(reasons.items()):
            family = escape(family_of(task_id))
            rest = f'<td data-value="" colspan="{len(HEADS) + len(results) - 3}">{kind}: {escape(reason)}</td>'
            yield (
                f'<tr class="missing" data-task="{escape(task_id)}" data-group="{escape(_group_of(task_id))}" '
                f'data-state="{kind}"><td data-value="{escape(task_id)}">{escape(task_id)}</td>'
                f'<td class="wide" data-value="{family}">{family}</td>{rest}</tr>'
            )


def _order(task: str) -> int:
    return list(GROUPS).index(_group_of(task))


def _row(task: TaskScore, others: Sequence[TaskScore | None], video: Mapping[str, Any] | None) -> str:
    score, bounds = task.normalized, task.normalized_ci95
    state = "undefined" if score is None else "above half" if score > 0.5 else "below half"
    spread = "–" if bounds is None else f"{bounds[0]:.2f}–{bounds[1]:.2f}"
    references = [percent(each) if task.by_success else number(each) for each in (task.random, task.expert)]
    cells = [
        (task.task, _name(task, video), False), (task.family, escape(task.family), True),
        (score, _score(score), False), (bounds[0] if bounds else None, spread, True),
        (task.mean, f"{task.mean:,.1f} <small>{task.ci95[0]:,.1f} to {task.ci95[1]:,.1f}</small>", True),
        (task.success, percent(task.success), True), (task.random, references[0], True),
        (task.expert, references[1], True), (task.steps_per_second, f"{task.steps_per_second:,.0f}", True),
        *((score, _score(score), False) for score in (each.normalized if each else None for each in others)),
    ]  # fmt: skip
    drawn = "".join(
        f'<td{" class=wide" if wide else ""} data-value="{escape(str("" if value is None else value))}">{text}</td>'
        for value, text, wide in cells
    )
    group = escape(_group_of(task.task))
    return f'<tr data-task="{escape(task.task)}" data-group="{group}" data-state="{state}">{drawn}</tr>'


def _name(task: TaskScore, video: Mapping[str, Any] | None) -> str:
    button = f'<button type="button" class="watch" data-watch="{escape(task.task)}" aria-label="watch">▶</button>'
    return f"{button if video else '<span class=watch></span>'}{escape(task.task)}"


def _score(value: float | None) -> str:
    if value is None:
        return '<span class="none">undefined</span>'
    filled = min(max(value, 0.0), 1.2) / 1.2
    kind = "good" if value > 0.9 else "fair" if value > 0.5 else "poor"
    return f'<span class="chip {kind}"><span style="width:{filled:.1%}"></span><b>{value:.2f}</b></span>'


def _cards(results: Results, videos: Films) -> Iterator[str]:
    for task in sorted(results.scores(), key=lambda each: (_order(each.task), each.task)):
        video = videos.get(task.task)
        if video is None:
            continue
        score = "undefined" if task.normalized is None else f"{task.normalized:.2f}"
        yield (
            f'<figure class="card" data-task="{escape(task.task)}" data-group="{escape(_group_of(task.task))}">'
            f'<video preload="none" loop muted playsinline src="videos/{escape(video["file"])}"></video>'
            f'<img loading="lazy" alt="" src="videos/{escape(video["poster"])}">'
            f'<button type="button" class="play" aria-label="play {escape(task.task)}"></button>'
            f"<figcaption><b>{escape(task.task)}</b><span>score {score} · this episode {video['return']:,.1f} in "
            f"{video['steps']:,} steps</span></figcaption></figure>"
        )


def _notes(results: Results, published: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    others = "".join(
        f"<li><b>{escape(each['who'])}</b>: {escape(each['how'])}. "
        + escape("; ".join(f"{name}: {known.get('said') or known['iqm']} ({known['environments']})"
                           for name, known in each["groups"].items()))
        + ".</li>"
        for each in published.values()
    )  # fmt: skip
    return f"<ul>{others}</ul><p>Measured with {escape(versions)}.</p>"
