"""The usual loop goes on where files name only what is there, and where the user repeats what they may not name."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gato_agent.cli import main
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.io.plain import NotPlain
from gato_agent.evaluation.recorded import ReplayOptions, replay_settings
from gato_agent.evaluation.results import Results

OWN = """
import gymnasium as gym, numpy as np, pathlib

class Own(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(2)
    def __init__(self, render_mode=None, model="word"):
        self.render_mode, self.reward = render_mode, 2.0 if model == "./own.txt" else 1.0
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed); self.t = 0
        return np.zeros(2, np.float32), {}
    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), self.reward, self.t == 5, False, {}
    def render(self):
        return np.zeros((32, 32, 3), np.uint8)

gym.register("Own-v0", "own:Own")

class Expert:
    def predict(self, observation, **_):
        return np.ones(len(observation), np.int64), None

def expert(observation_space, action_space):
    return Expert()
"""
SETTINGS = {"expert": None, "episodes": 2, "seed": 0, "temperature": 0.0, "precision": "float32", "prompt": None,
            "env_kwargs": {}, "demo": None}  # fmt: skip


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module of the user's own."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(line))
    assert stopped.value.code == code, line


def asked_for(output: str, option: str) -> str:
    """The option that a message asks for, with its value, as it is to be typed."""
    names = re.search(rf"give ({option} '[^']*')", output)
    assert names, output
    return names[1]


def videos(page: str) -> list[str]:
    path = Path(page, "videos", "videos.json")
    return sorted(json.loads(path.read_text())["videos"]) if path.exists() else []


def test_the_loop_of_an_environment_of_ones_own(local: Path, capsys: Any) -> None:
    run("collect --env own:Own-v0 --expert own:expert --episodes 3 --workers 0 --out data")
    run("collect --env own:Own-v0 --expert own:expert --episodes 4 --workers 0 --out data")  # resumes
    run(
        "train --data data --out runs/own --steps 2 --batch-size 2 --num-threads 1 --eval-every 2 --eval-env own:Own-v0"
    )
    assert "not played" not in capsys.readouterr().out
    for _ in range(2):  # the second time it resumes
        run("evaluate --checkpoint runs/own --env own:Own-v0 --episodes 2 --out results")
    run("report results --env own:Own-v0 --out page")  # runs/own needs nothing from the user
    assert videos("page") == ["Own-v0"]
    capsys.readouterr()
    run("report results --out again")
    message = capsys.readouterr().out
    assert "no video: unknown environment Own-v0: " in message and "MODULE:Own-v0 imports the module" in message
    assert (local / "again" / "index.html").exists() and videos("again") == []


def test_a_user_expert_is_named_again_for_a_video(local: Path, capsys: Any) -> None:
    for _ in range(2):
        run("evaluate --expert own:expert --env own:Own-v0 --episodes 2 --out results")
    run("report results --env own:Own-v0 --out page")
    message = capsys.readouterr().out
    assert "no more videos: the evaluation of own:expert has the expert 'own:expert'" in message
    assert "name it with --expert" in message and (local / "page" / "index.html").exists() and videos("page") == []
    run("report results --env own:Own-v0 --expert own:expert --out page")
    assert videos("page") == ["Own-v0"]
    capsys.readouterr()
    run("report results --out page")  # all videos are there
    assert "no more videos" not in capsys.readouterr().out
    run("report results --env own:Own-v0 --expert own:other --out other", 2)
    assert "--expert own:other: the evaluation of own:expert is of the expert 'own:expert'" in capsys.readouterr().err
    run("evaluate --expert own:expert --env own:Own-v0 --episodes 2 --report page2")  # it was named in this command
    assert videos("page2") == ["Own-v0"]


@pytest.mark.slow
def test_arguments_that_are_more_than_words_are_named_again(local: Path, capsys: Any) -> None:
    kwargs = shlex.quote('{"model": "./own.txt"}')
    run(f"collect --env own:Own-v0 --env-kwargs {kwargs} --expert random --episodes 3 --workers 0 --out data")
    training = "train --data data --steps 2 --batch-size 2 --num-threads 1 --eval-every 2 --eval-env own:Own-v0 --out"
    run(f"{training} runs/one")
    option = asked_for(" ".join(capsys.readouterr().out.split()), "--eval-env-kwargs")
    run(f"{training} runs/own {option}")
    assert "not played" not in capsys.readouterr().out
    last = json.loads((local / "runs" / "own" / "log.jsonl").read_text().splitlines()[-1])
    assert last["returns"] == {"Own-v0": 10.0}
    run("evaluate --checkpoint runs/own --env own:Own-v0 --episodes 2 --out results", 2)
    option = asked_for(capsys.readouterr().err, "--env-kwargs")
    run(f"evaluate --checkpoint runs/own --env own:Own-v0 --episodes 2 --out results2 {option}")
    assert Results.load(local / "results2").tasks["Own-v0"].mean == 10.0
    run("play --checkpoint runs/own --env own:Own-v0 --render none", 2)
    option = asked_for(capsys.readouterr().err, "--env-kwargs")
    run(f"play --checkpoint runs/own --env own:Own-v0 --render none {option}")
    run("report results2 --env own:Own-v0 --out page")
    assert "give them with --env-kwargs" in capsys.readouterr().out and videos("page") == []
    run(f"report results2 --env own:Own-v0 --env-kwargs {kwargs} --out page")
    assert videos("page") == ["Own-v0"]


def made(**settings: Any) -> Results:
    return Results("someone", None, None, {**SETTINGS, **settings})


def test_what_needs_nothing_is_taken_as_it_is() -> None:
    settings = replay_settings(
        replace(made(demo="data/demos", env_kwargs={"a": 1}), checkpoint="runs/x", sha256="0"), ReplayOptions()
    )
    assert (settings.checkpoint, settings.sha256, settings.demo, settings.env_kwargs) == (
        "runs/x",
        "0",
        Path("data/demos"),
        {"a": 1},
    )
    assert replay_settings(made(expert="random"), ReplayOptions()).expert == "random"
    assert replay_settings(made(temperature={"A-v0": 0.5}, n_envs=3), ReplayOptions()).n_envs == 3


@pytest.mark.parametrize(
    ("results", "option"),
    [
        (made(expert="m:f"), "--expert"),
        (made(expert="hub:o/n"), "--expert"),
        (made(expert="train"), "--expert"),
        (made(expert="../x.zip"), "--expert"),
        (made(expert="/x.zip"), "--expert"),
        (made(expert=["m:f"]), "--expert"),
        (replace(made(), checkpoint="hub:o/n"), "--checkpoint"),
        (replace(made(), checkpoint="../runs/x"), "--checkpoint"),
        (replace(made(), checkpoint="/runs/x"), "--checkpoint"),
        (made(demo="/data"), "--demo"),
        (made(demo="../data"), "--demo"),
        (made(expert="x.zip", statistics="/x.pkl"), "--expert-statistics"),
        (made(expert="x.zip", statistics="../x.pkl"), "--expert-statistics"),
        (made(expert="x.zip", statistics=["x.pkl"]), "--expert-statistics"),
        (made(env_kwargs={"x": "m:f"}), "--env-kwargs"),
    ],
)
def test_what_a_file_may_not_name_is_asked_of_the_user(results: Results, option: str) -> None:
    with pytest.raises(NotPlain, match=rf"the evaluation of someone has .*which no file may name: .*{option}"):
        replay_settings(results, ReplayOptions())
    settings = results.settings
    if not isinstance(settings["expert"], list):
        options = ReplayOptions("runs/x", settings["expert"], settings["env_kwargs"], Path("d"), "none")
        assert replay_settings(results, options).demo == Path("d")


def test_what_an_expert_was_trained_behind_is_played_again() -> None:
    wrappers = {"frame_stack": {"n": 4}}
    settings = replay_settings(
        made(expert="x.zip", statistics="x/vecnormalize.pkl", wrappers=wrappers), ReplayOptions()
    )
    assert (settings.statistics, settings.wrappers) == ("x/vecnormalize.pkl", wrappers)
    assert replay_settings(made(expert="x.zip", statistics="none"), ReplayOptions()).statistics == "none"
    with pytest.raises(UsageError, match=r'--expert-wrappers: the evaluation of someone is with \{"frame_stack"'):
        replay_settings(made(expert="x.zip", wrappers=wrappers), ReplayOptions(wrappers={"frame_stack": {"n": 3}}))
    for wrong in ({"zero_padding": {"keep": 1, "zeros": 10**12}}, {"time_feature": {"horizon": 0}}, {"m:f": {}}, [1]):
        with pytest.raises(UsageError, match=r"the evaluation of someone has wrappers .*: write a JSON object of some"):
            replay_settings(made(expert="x.zip", wrappers=wrong), ReplayOptions())


def test_another_than_was_recorded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--expert n:g: the evaluation of someone is of the expert 'm:f'"):
        replay_settings(made(expert="m:f"), ReplayOptions(expert="n:g"))
    with pytest.raises(UsageError, match=r'--env-kwargs: the evaluation of someone is with \{"a": 1\}'):
        replay_settings(made(env_kwargs={"a": 1}), ReplayOptions(env_kwargs={"a": 2}))
    (tmp_path / "moved.zip").write_bytes(b"")
    digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    moved = replace(made(expert="/elsewhere/x.zip"), sha256=digest)
    assert replay_settings(moved, ReplayOptions(expert=str(tmp_path / "moved.zip"))).expert == str(
        tmp_path / "moved.zip"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"episodes": "2"}, {"seed": None}, {"seed": -1}, {"n_envs": 1.5}, {"temperature": "hot"}, {"temperature": -1},
        {"temperature": {"A-v0": "m:f"}}, {"temperature": float("nan")}, {"precision": "m:f"}, {"prompt": "../x"},
        {"prompt": []}, {"precision": {}},
    ],
)  # fmt: skip
def test_settings_that_no_evaluation_has_are_named(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(GatoError, match=f"the evaluation of someone has {name} .*, which no evaluation has"):
        replay_settings(made(**settings), ReplayOptions())
