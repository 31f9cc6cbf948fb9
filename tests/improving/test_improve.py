"""An improvement goes on after a kill at any moment, ends well, and says in one line what stands in its way."""

import dataclasses
import errno
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gato_agent
from gato_agent.checkpoints.checkpoint import FILE as MODEL
from gato_agent.cli import main
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.improving import choice, stages
from gato_agent.improving import improve as module
from gato_agent.improving.config import ImproveConfig
from gato_agent.improving.improve import improve
from gato_agent.improving.progress import Progress
from gato_agent.rollouts.storage.episode_store import open_stores
from tests.helpers.improving import CARTPOLE, collected, trained
from tests.helpers.interrupts import interrupted


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with demonstrations in `demos` and an agent in `first`."""
    folder = tmp_path_factory.mktemp("start")
    collected(folder / "demos", episodes=3)
    trained(folder / "first", folder / "demos")
    return folder


def asked(start: Path, out: Path, **more: Any) -> ImproveConfig:
    config = ImproveConfig(
        CARTPOLE, data=(start / "demos",), init=str(start / "first"), rounds=2, patience=3, episodes=3, tries=2,
        steps=2, batch_size=1, eval_episodes=3, workers=0, out=out, stretch=0,
    )  # fmt: skip
    return dataclasses.replace(config, **more)


def timeless(progress: Progress) -> Progress:
    """Progress without its times."""
    rounds = tuple(dataclasses.replace(each, seconds={}) for each in progress.rounds)
    return dataclasses.replace(progress, rounds=rounds, test_seconds=0.0)


class Killer:
    """Interrupt after some calls of the stages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        for name in ("collect", "train", "evaluate", "copy_selected"):
            monkeypatch.setattr(stages, name, self._counting(getattr(stages, name)))
        monkeypatch.setattr(module, "write_files", self._counting(module.write_files))
        monkeypatch.setattr(module, "write_curve", self._counting(module.write_curve))

    def _counting(self, function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return result

        return counted


@pytest.mark.parametrize("stretch", [0, 5])
def test_a_kill_after_any_stage_loses_nothing(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    whole = improve(asked(start, tmp_path / "whole", stretch=stretch))
    killer, kills = Killer(monkeypatch), 0
    while True:
        killer.left = kills + 1
        try:
            parts = improve(asked(start, tmp_path / "parts", stretch=stretch))
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills > 5
    assert timeless(parts) == timeless(whole)
    best = [(tmp_path / name / "best" / MODEL).read_bytes() for name in ("parts", "whole")]
    assert best[0] == best[1]


def test_all_is_written_and_a_finished_improvement_only_shows_it(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = improve(asked(start, tmp_path / "out"))
    out = capsys.readouterr().out
    for words in (
        "round 0: mean return",
        "round 2: ",
        "end: 2 rounds played",
        "best: round",
        "on new seeds",
        "cost: 12 ep",
    ):
        assert words in out
    assert "episodes in " not in out and "score: (mean" not in out  # tables of each try and evaluation
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "improve.json", "curve.png", "curve.svg", "best", "round-1", "round-2",
    }  # fmt: skip
    assert [each.episodes for each in progress.rounds] == [0, 6, 6]
    assert all(each.selected >= 2 and len(each.scores) == 3 for each in progress.rounds[1:])
    for number in (1, 2):
        (store,) = open_stores(tmp_path / "out" / f"round-{number}" / "selected")
        totals = [store.stats(seed).total for seed in store.indices()]
        assert len(totals) == progress.rounds[number].selected and min(totals) >= progress.rounds[number].bar
    monkeypatch.setattr(stages, "collect", None)
    monkeypatch.setattr(stages, "train", None)
    assert timeless(improve(asked(start, tmp_path / "out"))) == timeless(progress)


@pytest.mark.parametrize(("same", "temperatures"), [(True, [0.0, 0.5, 1.0, 2.0]), (False, [0.0, 0.5, 0.5, 0.5])])
def test_an_agent_that_is_too_sure_is_sampled_at_higher_temperatures(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool, temperatures: list[float]
) -> None:
    played: list[float | None] = []
    collect = stages.collect
    monkeypatch.setattr(stages, "alike", lambda greedy, sampled: same)
    monkeypatch.setattr(
        stages, "collect", lambda config, **options: (played.append(config.temperature), collect(config, **options))
    )
    improve(asked(start, tmp_path, rounds=1, tries=4, temperature=0.5))
    assert played == temperatures


def test_more_rounds_go_on(start: Path, tmp_path: Path) -> None:
    few = improve(asked(start, tmp_path / "out", rounds=1))
    more = improve(asked(start, tmp_path / "out", rounds=2))
    assert [len(few.rounds), len(more.rounds)] == [2, 3]
    assert timeless(more).rounds[:2] == timeless(few).rounds


def test_without_an_agent_the_first_is_trained_on_the_demonstrations(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks: list[Any] = []

    def train(config: Any) -> Path:
        asks.append(config)
        return trained(config.out, start / "demos")

    monkeypatch.setattr(stages, "train", train)
    gato_agent.improve(env=CARTPOLE, data=start / "demos", first_steps=7, rounds=1, episodes=2, tries=2, steps=3,
                       eval_episodes=2, workers=0, out=tmp_path / "out")  # fmt: skip
    assert [(each.init is None, each.steps, each.data[0].name) for each in asks] == [
        (True, 7, CARTPOLE), (False, 3, "selected")
    ]  # fmt: skip


def test_no_success_in_the_first_round_is_an_error_with_a_way_out(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "best_tries", lambda tries, first=0: [])
    with pytest.raises(GatoError, match=r"none of the 6 episodes of round 1 is a success.*better or more --data"):
        improve(asked(start, tmp_path / "out"))


def test_equal_returns_end_the_improvement(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "all_equal", lambda tries: True)
    progress = improve(asked(start, tmp_path / "out"))
    assert len(progress.rounds) == 1 and "the same return" in str(progress.end)
    assert (tmp_path / "out" / "best" / MODEL).exists()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "the disk")

    with monkeypatch.context() as patched:
        patched.setattr(stages, "copy_selected", full)
        with pytest.raises(GatoError, match="the disk: No space left on device: finished rounds and episodes"):
            improve(asked(start, tmp_path / "out", rounds=1))
    assert len(improve(asked(start, tmp_path / "out", rounds=1)).rounds) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"env": "MountainCar-v0"}, "no episodes of MountainCar-v0 in .*: collect some with `gato-agent collect"),
        ({"env": "MountainCar-v0", "data": ()}, "does not know MountainCar-v0: add --data"),
        ({"init": "nowhere"}, "no checkpoint at"),
        ({"data": (Path("nowhere"),)}, "no episodes in nowhere"),
        ({"env": "Nothing-v0"}, "Nothing"),
        ({"env_kwargs": '{"sutton_barto_reward": true}'}, "not those of --data or --init"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    start: Path, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        improve(asked(start, tmp_path / "out", **wrong))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".lock"}


def test_demonstrations_of_other_arguments_than_the_agent_are_refused(start: Path, tmp_path: Path) -> None:
    collected(tmp_path / "other", env_kwargs='{"sutton_barto_reward": true}')
    for data in ((tmp_path / "other",), (start / "demos", tmp_path / "other")):
        with pytest.raises(UsageError, match=r"has the arguments .*: leave one of them out"):
            improve(asked(start, tmp_path / "out", data=data))


def test_other_options_or_data_in_the_same_folder_are_refused(start: Path, tmp_path: Path) -> None:
    improve(asked(start, tmp_path / "out", rounds=1))
    collected(tmp_path / "other", seed=50)
    for other in ({"steps": 3}, {"data": (tmp_path / "other",)}, {"init": "shipped"}):
        with pytest.raises(UsageError, match=f"another --{next(iter(other))}.*choose another --out"):
            improve(asked(start, tmp_path / "out", **other))


def test_two_commands_in_one_folder_are_refused(start: Path, tmp_path: Path) -> None:
    with module.lock_folder(tmp_path / "out", "improve"), pytest.raises(UsageError, match="improve"):
        improve(asked(start, tmp_path / "out"))


@pytest.mark.slow
def test_an_agent_of_poor_demonstrations_comes_above_them(tmp_path: Path) -> None:
    """Random actions hold the pole for 23 steps."""
    shown = collected(tmp_path / "demos", episodes=20)
    shape = json.dumps({"layers": 2, "heads": 2, "width": 64, "feed_forward": 128, "context": 32})
    trained(tmp_path / "first", tmp_path / "demos", shape=shape, steps=40)
    progress = improve(
        ImproveConfig(
            CARTPOLE, data=(tmp_path / "demos",), init=str(tmp_path / "first"), rounds=5, patience=5, episodes=30,
            tries=4, steps=60, learning_rate=2e-3, eval_episodes=40, workers=0, out=tmp_path / "out",
        )
    )  # fmt: skip
    assert progress.test_gain is not None and progress.test_gain.low > 0
    assert progress.demonstrations == pytest.approx(np.mean([shown.stats(seed).total for seed in range(20)]))
    assert np.mean(progress.test["best"]) > 1.2 * progress.demonstrations


@pytest.mark.slow
def test_an_interrupted_command_goes_on(start: Path, tmp_path: Path) -> None:
    line = (
        f"improve --env {CARTPOLE} --data {start / 'demos'} --init {start / 'first'} --rounds 1 --episodes 3 --tries 2 "
        "--steps 2 --batch-size 1 --eval-episodes 3 --out out"
    )
    _, err = interrupted(line, "round 1: ", "group", tmp_path)
    assert "finished rounds and episodes are saved in out, and the same command goes on" in err
    assert len(Progress.load(tmp_path / "out", {}).rounds) == 1
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            main(shlex.split(line))
    assert end.value.code == 0
    assert len(Progress.load(tmp_path / "out", {}).rounds) == 2
