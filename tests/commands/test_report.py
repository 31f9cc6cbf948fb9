"""The report: its content, its independence of the network, and its behaviour in a browser."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from rich.console import Console

from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.commands.report import ReportConfig, report, write_report
from gato_agent.envs.errors import GatoError
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.io.strict_json import checked_digest, with_digest
from gato_agent.evaluation.aggregate import by_group
from gato_agent.evaluation.progress_table import families, number, percent, returns, table
from gato_agent.evaluation.report import video_folder
from gato_agent.evaluation.report.html_page import page
from gato_agent.evaluation.report.plots import COLORS, inline_profile, plots
from gato_agent.evaluation.report.videos import FRAMES, LARGEST, LONGEST, encode
from gato_agent.evaluation.results import Results
from gato_agent.evaluation.task_score import Outcome, score
from tests.helpers.paths import ROOT

TASKS = ("CartPole-v1", "Pendulum-v1", "FrozenLake-v1")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a random player, with videos, beside better results of the same tasks."""
    pytest.importorskip("pygame")
    folder = tmp_path_factory.mktemp("report")
    results = evaluate(EvaluateConfig(
        env=TASKS, expert="random", episodes=4, workers=0, out=folder / "random", report=folder / "page",
    ))  # fmt: skip
    better = Results("a better player", None, None, results.settings, results.versions)
    for name, task in results.tasks.items():
        outcomes = [Outcome(seed, total + 50, 9, None) for seed, total in enumerate(task.returns)]
        better.tasks[name] = score(name, outcomes)
    better.failed = {"Taxi-v4": "Taxi-v4: it <broke>"}
    better.save(folder / "better.json")
    report(ReportConfig((folder / "random", folder / "better.json"), folder / "two", videos=False))
    return folder


def test_the_page_needs_no_network_and_its_videos_are_small(folder: Path) -> None:
    page = (folder / "page" / "index.html").read_text()
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|url\((?!#)|@import", page)
    assert "$" not in re.sub(r"<script>.*</script>", "", page, flags=re.S)  # every part was filled in
    linked = set(re.findall(r'src="(videos/[^"]+)"', page))
    assert linked == {f"videos/{task}.{kind}" for task in TASKS for kind in ("mp4", "jpg")}
    assert all(0 < (folder / "page" / name).stat().st_size <= LARGEST for name in linked)
    assert {path.name for path in (folder / "page").iterdir()} >= {"families.png", "tasks.svg", "profile.png"}


def test_tables_in_markdown_have_every_family_and_task(folder: Path) -> None:
    families, tasks = (folder / "two" / "tables.md").read_text().split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in families.splitlines()]
    assert rows[0][5:8] == ["above 0.5", "above 0.8", "above 0.9"] and set(rows[1]) == {"---", "---:"}
    assert [(row[0], row[1]) for row in rows[2:]] == [("classic, Box2D, toy text", "3"), ("all", "3")]
    results = Results.load(folder / "random").tasks
    shown = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in tasks.splitlines()[2:]}
    assert shown == {name: f"{each.normalized:.3f}" for name, each in results.items()}


def test_a_video_shows_the_first_episode(folder: Path) -> None:
    manifest = json.loads((folder / "page" / "videos" / "videos.json").read_text())["videos"]
    results = Results.load(folder / "random")
    for task in TASKS:
        assert (manifest[task]["steps"], manifest[task]["return"]) == (
            results.tasks[task].lengths[0], pytest.approx(results.tasks[task].returns[0]),
        )  # fmt: skip
        _, seconds = imageio_ffmpeg.count_frames_and_secs(str(folder / "page" / "videos" / manifest[task]["file"]))
        assert 1.5 <= seconds <= LONGEST + 0.5


def test_existing_videos_are_reused_for_the_same_weights_only(folder: Path, monkeypatch: Any) -> None:
    results = Results.load(folder / "random")
    before = {path: path.stat().st_mtime_ns for path in (folder / "page" / "videos").glob("*.mp4")}
    write_report([results], folder / "page", Console())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = Results("someone else", None, "00", results.settings, results.versions, results.tasks)
    write_report([other], folder / "page", Console(), videos=False)
    assert "<video preload" not in (folder / "page" / "index.html").read_text()
    write_report([results], folder / "page", Console())
    assert (folder / "page" / "index.html").read_text().count("<video preload") == len(TASKS)


def test_an_environment_that_cannot_be_drawn_is_reported_and_has_no_video(tmp_path: Path, capsys: Any) -> None:
    results = evaluate(EvaluateConfig(env=("CartPole-v1",), expert="random", episodes=1, out=tmp_path / "r"))
    results.tasks["Gone-v0"] = score("Gone-v0", [Outcome(0, 1.0, 3, None)])
    write_report([results], tmp_path / "p", Console())
    assert "no video: unknown environment Gone-v0" in capsys.readouterr().out
    page = (tmp_path / "p" / "index.html").read_text()
    assert "Gone-v0" in page and "videos/Gone-v0.mp4" not in page and "videos/CartPole-v1.mp4" in page


def test_even_noise_becomes_a_small_video() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (210, 160, 3), dtype=np.uint8) for _ in range(FRAMES)]
    assert 10_000 < len(encode(noise, FRAMES / LONGEST)) <= LARGEST
    with pytest.raises(GatoError, match="no frame was written"):
        encode([], 10.0)


def test_what_users_may_name_is_escaped(folder: Path) -> None:
    page = (folder / "two" / "index.html").read_text()
    assert "a better player" in page
    report(ReportConfig((folder / "better.json",), folder / "escaped", videos=False))
    page = (folder / "escaped" / "index.html").read_text()
    assert "it &lt;broke&gt;" in page and "<broke>" not in page


def test_every_text_of_a_results_file_is_escaped_on_the_page() -> None:
    text = "<script>alert(1)</script>&'\""
    results = Results(text, None, None, {"precision": text, "temperature": text, "episodes": text}, {text: text})
    results.tasks[text] = score(text, [Outcome(0, 1.0, 3, None)])
    results.tasks["CartPole-v1"] = score("CartPole-v1", [Outcome(seed, 9.0 + seed, 3, None) for seed in range(3)])
    results.failed, results.not_evaluated = {f"{text}1": text}, {f"{text}2": text}
    video = {"file": text, "poster": text, "return": 1.0, "steps": 3, "seconds": 2.0}
    published = {text: {"who": text, "how": text, "groups": {"all": {"said": text, "iqm": 0.5, "environments": text}}}}
    samples = [task.sample() for task in results.scores()]
    shown = page([results] * 2, [(text, [each for each in samples if each is not None])] * 2, {text: video}, published)
    assert "<script>alert" not in shown and "alert(1)</script>" not in shown
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#39;&#34;") > 30


def test_names_in_plots_are_no_formulas() -> None:
    name = "a$\\no{formula$ & <b>"
    results = Results(name, None, None, {})
    results.tasks["CartPole-v1"] = score("CartPole-v1", [Outcome(0, 9.0, 3, None)])
    samples = [(name, [np.array([0.5, 0.7])])] * 2
    drawn = plots([results] * 2, samples)
    for file in ("families.svg", "profile.svg"):
        assert "a$\\no{formula$ &amp; &lt;b&gt;" in drawn[file].decode()
    inside = inline_profile(samples)
    style = (ROOT / "gato_agent" / "evaluation" / "report" / "template" / "page.css").read_text()
    assert all(f"--p{number}: {color};" in style for number, color in enumerate(COLORS))
    assert "var(--p1)" in inside and "currentColor" in inside and "#000000" not in inside and name not in inside


def test_videos_of_version_0_1_are_reused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "page" / "videos" / "videos.json"
    manifest = checked_digest(path.read_bytes())
    manifest["films"] = manifest.pop("videos")
    monkeypatch.setattr(video_folder, "read_own", lambda _: with_digest(manifest))
    assert video_folder.existing_videos(Results.load(folder / "random"), folder / "page").keys() == set(TASKS)


def test_a_comparison_names_published_figures_and_their_environments(folder: Path, capsys: Any) -> None:
    results = Results.load(folder / "random")
    results.tasks["Hopper-v5"] = score("Hopper-v5", [Outcome(0, 3000.0, 3, None), Outcome(1, 3100.0, 3, None)])
    results.save(folder / "hopper.json")
    report(ReportConfig((folder / "hopper.json",)))
    shown = " ".join(capsys.readouterr().out.split())
    assert "0.850" in shown and "11 tasks, *-v4" in shown
    report(ReportConfig((folder / "hopper.json", folder / "better.json")))
    shown = " ".join(capsys.readouterr().out.split())
    assert "probability that an episode of random beats one of" in shown


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def shown(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('.tasks tbody tr')].filter(r => !r.hidden).map(r => r.dataset.task)"
    return list(browser.execute_script(script))


def clean(browser: Any) -> bool:
    """True if the console is empty; reading it clears it for the next page."""
    return not browser.get_log("browser")


def test_the_table_sorts_and_filters(folder: Path, browser: Any) -> None:
    browser.get((folder / "page" / "index.html").as_uri())
    heads = {
        each.text.split()[0]: each for each in browser.find_elements("css selector", ".tasks thead th") if each.text
    }
    heads["task"].find_element("tag name", "button").click()
    assert shown(browser) == sorted(TASKS)
    assert heads["task"].get_attribute("aria-sort") == "ascending"
    heads["task"].find_element("tag name", "button").click()
    assert shown(browser) == sorted(TASKS, reverse=True)
    tasks = Results.load(folder / "random").tasks
    heads["return"].find_element("tag name", "button").click()
    assert shown(browser) == sorted(TASKS, key=lambda task: -tasks[task].mean)
    assert heads["task"].get_attribute("aria-sort") == "none"
    browser.find_element("id", "search").send_keys("cart")
    assert shown(browser) == ["CartPole-v1"]
    assert browser.find_element("id", "count").text == "1 of 3 tasks"
    cards = "return [...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.dataset.task)"
    assert browser.execute_script(cards) == ["CartPole-v1"]
    assert clean(browser)


def test_a_video_is_loaded_when_it_is_played(folder: Path, browser: Any) -> None:
    browser.get((folder / "page" / "index.html").as_uri())
    states = "return [...document.querySelectorAll('.card video')].map(v => [v.preload, v.networkState, v.currentTime])"
    assert all(state[0] == "none" and state[2] == 0 for state in browser.execute_script(states))
    browser.execute_script("document.querySelector('.card .play').click()")
    wait(browser, "return document.querySelector('.card video').currentTime > 0.2")
    assert [state[2] for state in browser.execute_script(states)][1:] == [0, 0]
    browser.execute_script("document.querySelector('.tasks .watch').click()")
    wait(browser, "return document.querySelector('#player video').currentTime > 0.2")
    assert clean(browser)


def wait(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(script))


@pytest.mark.parametrize("page", ["page", "two"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(folder: Path, browser: Any, width: int, page: str) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((folder / page / "index.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    before = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.find_element("id", "theme").click()
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") != before
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert clean(browser)


def test_on_a_phone_labels_are_whole_tables_say_that_they_scroll_and_posters_are_seen(
    folder: Path, browser: Any
) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get((folder / "two" / "index.html").as_uri())
        inside = """const box = document.querySelector('.profile').getBoundingClientRect();
            return [...document.querySelectorAll('.profile text')].map(each => {
                const own = each.getBoundingClientRect();
                return own.left >= box.left && own.right <= box.right && own.top >= box.top && own.bottom <= box.bottom;
            })"""
        labels = browser.execute_script(inside)
        assert len(labels) > 10 and all(labels)
        tables = """return [...document.querySelectorAll('.scroll')].map(
            each => [each.scrollWidth > each.clientWidth, each.nextElementSibling.offsetHeight > 0])"""
        scrolling = browser.execute_script(tables)
        assert any(wide for wide, _ in scrolling) and all(wide == said for wide, said in scrolling)
        browser.get((folder / "page" / "index.html").as_uri())
        browser.execute_script("document.querySelector('#videos').scrollIntoView()")
        posters = "[...document.querySelectorAll('.card img')]"
        wait(browser, f"return {posters}.every(each => each.complete && each.naturalWidth > 0)")
        assert browser.execute_script(f"return {posters}.every(each => getComputedStyle(each).opacity === '1')")
        assert clean(browser)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_result_has_the_same_figures_in_evaluate_and_in_the_report(folder: Path, capsys: Any) -> None:
    results = Results.load(folder / "random")
    console = plain_console(width=500)
    console.print(table(results.scores(), "random", console))
    console.print(families(by_group(results), console))
    narrow = plain_console(width=60, file=io.StringIO())
    narrow.print(families(by_group(results), narrow))
    assert "…" not in narrow.file.getvalue()  # type: ignore[attr-defined]
    terminal = capsys.readouterr().out
    page, tables = (folder / "page" / "index.html").read_text(), (folder / "page" / "tables.md").read_text()
    for task in results.scores():
        for text in (*returns(task), number(task.normalized, 3)):
            assert text in terminal and text in tables
        assert all(text in page for text in returns(task))
        assert percent(task.ended) in page
    for name, each in by_group(results).items():
        assert each.iqm_ci95 is not None
        low, high = each.iqm_ci95
        assert f"{low:.3f} to {high:.3f}" in terminal and f"{low:.3f} to {high:.3f}" in page
        assert name in terminal and f"| {name} |" in tables


def test_what_another_evaluation_did_not_play_is_said(folder: Path, tmp_path: Path, capsys: Any) -> None:
    fewer = Results.load(folder / "random")
    del fewer.tasks["Pendulum-v1"]
    fewer.save(tmp_path / "fewer.json")
    report(ReportConfig((folder / "random", tmp_path / "fewer.json"), tmp_path / "page", videos=False))
    said = "Compared on the 2 tasks that all evaluations have: of 3 of random, 2 of random."
    page = (tmp_path / "page" / "index.html").read_text()
    assert said in " ".join(capsys.readouterr().out.split()) and said in page
    assert page.count("not played") == 1
