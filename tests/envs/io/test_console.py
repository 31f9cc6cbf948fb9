"""Consoles that cut nothing, tables with whole cells, and bars that keep what matters."""

import io

import pytest
from rich.table import Column

from gato_agent.commands.catalogue import OPTIONAL, table
from gato_agent.envs.io.console import fitted, loading, plain_console, plural, set_quiet
from gato_agent.envs.io.progress import bar_columns, progress
from gato_agent.envs.tasks.task import catalogue


def shown(width: int, rows: list[list[str]], optional: tuple[str, ...]) -> list[str]:
    file = io.StringIO()
    console = plain_console(force_terminal=True, width=width, file=file, color_system=None)
    console.print(fitted(console, [Column("a"), Column("b"), Column("c")], rows, optional))
    return [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]


def test_a_narrow_console_drops_columns_and_keeps_cells() -> None:
    rows = [["x" * 10, "y" * 10, "z" * 10]]
    assert shown(60, rows, ("b", "a"))[-1].split() == rows[0]
    assert shown(30, rows, ("b", "a"))[-1].split() == [rows[0][0], rows[0][2]]
    assert shown(14, rows, ("b", "a"))[-1].split() == [rows[0][2]]


@pytest.mark.parametrize("width", [60, 80, 100, 160, 200])
def test_the_catalogue_is_whole_at_any_width(width: int) -> None:
    file, tasks = io.StringIO(), list(catalogue().values())
    console = plain_console(force_terminal=True, width=width, file=file, color_system=None)
    console.print(table(tasks, console))
    text = file.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert all(task.id in text for task in tasks)


def test_nothing_is_cut_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    file, tasks = io.StringIO(), list(catalogue().values())
    console = plain_console(file=file)
    console.print(table(tasks, console))
    lines = file.getvalue().splitlines()
    assert all(heading in "".join(lines) for heading in OPTIONAL) and "…" not in "".join(lines)
    assert all(sum(line.split()[:1] == [task.id] for line in lines) == 1 for task in tasks)


@pytest.mark.parametrize(("width", "described"), [(60, False), (99, False), (100, True)])
def test_bars_keep_count_and_time_and_drop_the_rest(width: int, described: bool) -> None:
    file = io.StringIO()
    console = plain_console(force_terminal=True, file=file, width=width)
    assert len(bar_columns(console, "it", "steps")) == (6 if described else 4)
    with progress(console, "runs/it", 12, "steps") as update:
        update(7, "loss 1.25, 3.5e4 tokens/s")
        update(12, "loss 1.25, 3.5e4 tokens/s")
    assert "12/12" in file.getvalue() and ("loss 1.25" in file.getvalue()) is described


def test_quiet_consoles_print_nothing() -> None:
    set_quiet(True)
    try:
        assert plain_console().quiet and plain_console(quiet=False).quiet
    finally:
        set_quiet(False)
    assert not plain_console().quiet and plain_console(quiet=True).quiet


def test_packages_are_loaded_with_a_word_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with loading():
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with loading():
        pass
    assert "loading ..." in capsys.readouterr().err


def test_counts_have_a_plural() -> None:
    assert [plural(n, "task") for n in (0, 1, 2000)] == ["0 tasks", "1 task", "2,000 tasks"]
