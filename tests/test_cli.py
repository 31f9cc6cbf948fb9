"""The verbs, as a person types them: what they print, write and answer to mistakes."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import gymnasium as gym
import imageio_ffmpeg
import pytest

from gato_agent.cli import VERBS, Verb, main, parse, run
from gato_agent.envs.io.console import plain_console, set_quiet
from gato_agent.envs.io.progress import progress
from tests.helpers.paths import ROOT

CHECKPOINT_BYTES = 1000


def cli(
    line: str, expect: int = 0, cwd: Path | None = None, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with `path` to import from."""
    command = [sys.executable, "-m", "gato_agent", *shlex.split(line)]
    variables = {**os.environ, "PYTHONPATH": str(path)} if path else None
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, env=variables)
    assert result.returncode == expect, result.stdout + result.stderr
    return result


def fails(capsys: pytest.CaptureFixture[str], line: str, code: int) -> str:
    """Run a command that must fail with one clear line; returns it."""
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line))
    captured = capsys.readouterr()
    assert stop.value.code == code, captured.err
    assert "Traceback" not in captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a run, made by the verbs."""
    folder = tmp_path_factory.mktemp("user")
    cli("collect --env CartPole-v1 --episodes 3 --out data", cwd=folder)
    cli("train --data data --out runs/cartpole --steps 2 --batch-size 1 --num-threads 1", cwd=folder)
    return folder


def test_a_bare_command_shows_its_verbs_and_imports_nothing_heavy() -> None:
    assert all(verb in cli("").stdout for verb in VERBS)
    heavy = "{'torch', 'gymnasium', 'stable_baselines3', 'tyro', 'rich'}"
    probe = f"import sys, gato_agent.cli as cli; cli.run([]); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.endswith("set()\n")


def test_a_module_and_a_row_add_a_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "greet.py").write_text(
        "from dataclasses import dataclass\n"
        '@dataclass\nclass Greet:\n    name: str = \'you\'\n    """Person to greet."""\n'
        "def greet(config): print('hello', config.name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(VERBS, "greet", Verb("greet", "Greet", "greet", "say hello"))
    run(["greet", "--name", "Ada"])
    run([])
    overview = capsys.readouterr().out
    assert overview.startswith("hello Ada\n") and re.search(r"    greet +say hello\n", overview)
    with pytest.raises(SystemExit) as stop:
        main(["greet", "--help"])
    assert stop.value.code == 0 and "Person to greet." in capsys.readouterr().out


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--version").stdout[0].isdigit()
    for verb in VERBS:
        with pytest.raises(SystemExit) as stop:
            main([*verb.split(), "--help"])
        assert stop.value.code == 0
        assert "--" in capsys.readouterr().out


def test_play_writes_a_video_and_json(trained: Path) -> None:
    line = "play --env CartPole-v1 --checkpoint runs/cartpole --render video --video v/cart.mp4"
    shown = cli(f"{line} --episodes 2 --seed 5 --json play.json", cwd=trained).stdout
    assert "v/cart.mp4" in shown
    result = json.loads((trained / "play.json").read_text())
    assert set(result) == {
        "env", "checkpoint", "expert", "device", "episodes", "mean_return", "success", "steps_per_second",
    }  # fmt: skip
    assert [e["seed"] for e in result["episodes"]] == [5, 6]
    assert all(e["return"] == e["length"] for e in result["episodes"])
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(trained / "v/cart.mp4"))
    assert frames == sum(1 + e["length"] + 49 for e in result["episodes"])  # the first state, and the last for a second


def test_evaluate_agrees_with_play_and_writes_json(trained: Path) -> None:
    common = "--checkpoint runs/cartpole --env CartPole-v1 --episodes 4"
    cli(f"evaluate {common} --n-envs 3 --out scores", cwd=trained)
    (task,) = json.loads((trained / "scores/results.json").read_text())["tasks"]
    assert {"task", "episodes", "mean", "std", "ci95", "random", "expert", "normalized", "success"} < set(task)
    cli(f"play {common} --render none --json p.json", cwd=trained)
    played = json.loads((trained / "p.json").read_text())
    assert [e["seed"] for e in played["episodes"]] == list(range(1_000_000, 1_000_004))  # never those of collection
    assert task["mean"] == played["mean_return"]
    assert task["returns"] == [e["return"] for e in played["episodes"]]
    assert task["steps"] == sum(task["lengths"]) == sum(e["length"] for e in played["episodes"])
    shown = cli(f"play {common} --render none --n-envs 3 --hz 5000 --json q.json", cwd=trained).stdout
    together = json.loads((trained / "q.json").read_text())
    by_seed = sorted(together["episodes"], key=lambda e: e["seed"])
    assert [e["return"] for e in by_seed] == [e["return"] for e in played["episodes"]]
    assert f"{together['missed_deadlines']} of {together['control_steps']} deadlines missed at 5000 Hz" in shown
    assert task["expert"] == 500.0
    assert task["normalized"] == pytest.approx((task["mean"] - task["random"]) / (task["expert"] - task["random"]))


def test_experts_are_evaluated_like_agents(tmp_path: Path) -> None:
    cli("evaluate --expert catalogue --env CartPole-v1 --episodes 3 --out s", cwd=tmp_path)
    (task,) = json.loads((tmp_path / "s/results.json").read_text())["tasks"]
    assert (task["mean"], task["normalized"]) == (500.0, 1.0)


def test_info(trained: Path) -> None:
    shown = cli("info size large").stdout
    assert "1,085,345,792" in shown
    assert "1,180,000,000" in shown
    shown = cli("info checkpoint runs/cartpole", cwd=trained).stdout
    assert "CartPole-v1" in shown
    assert re.search(r" 512 +0 *\n", shown)  # of a nano, with a context of 512
    shown = cli("info env CartPole-v1").stdout
    assert "1 token per timestep" in shown
    assert cli("info env --env CartPole-v1").stdout == shown
    assert cli("info size --size=large").stdout == cli("info size large").stdout
    assert "6 tokens per timestep" in shown and "256 steps" in shown  # of the paper's sizes, four of which stay


MISTAKES = [
    ("play --env CartPole-v1 --env Acrobot-v1", 2, "--env is given twice, and play takes one value of it"),
    ("train --steps 1 --steps 2", 2, "--steps is given twice, and train takes one value of it"),
    ("train --eval-env CartPole-v1 --eval-env Taxi-v3", 2, "write them after one --eval-env"),
    ("report", 2, "which results? `gato-agent evaluate --out results`"),
    (
        "play --env Blackjack-v1 --render none",
        2,
        "the shipped weights do not know Blackjack-v1. Train on it: gato-agent",
    ),
    ("evaluate --env Blackjack-v1 --workers 0", 2, "gato-agent collect --env Blackjack-v1 --expert train; gato-agent"),
    (
        "play --env Acrobot-v1 --checkpoint {run}",
        2,
        "does not know Acrobot-v1. Train on it: gato-agent collect --env Ac",
    ),
    ("play --env Acrobot-v1 --checkpoint {run}", 2, "Known tasks: CartPole-v1 (gato-agent info checkpoint "),
    (
        "play --env tests.helpers.testing_env:Testing-v0",
        2,
        "collect --env tests.helpers.testing_env:Testing-v0 --expert",
    ),
    (
        "play --env FrozenLake-v1 {lake} --render none",
        2,
        "of shipped weights: observations Discrete(64) instead of Discrete(16);",
    ),
    ("play --env CartPole-v9", 2, "did you mean CartPole-v1"),
    ("play --env Acrobot-v1 --checkpoint {run}", 2, "Acrobot-v1"),
    ("play --env CartPole-v1 --checkpoint nowhere", 2, "no checkpoint at nowhere"),
    ("play --env CartPole-v1 --checkpoint {truncated}", 1, "damaged"),
    ("play --env CartPole-v1 --checkpoint {run} --render none --env-kwargs nonsense", 2, "not JSON"),
    ("play --env CartPole-v1 --checkpoint {run} --render none --env-kwargs [1]", 2, "not a JSON object"),
    ("play --env CartPole-v1 --checkpoint {run} --render none --episodes 0", 2, "at least 1"),
    ("play --env CartPole-v1 --checkpoint {run} --render none --n-envs 0", 2, "--n-envs 0: at least 1"),
    ("play --env CartPole-v1 --checkpoint {run} --render none --hz -1", 2, "--hz -1.0: at least 0"),
    ("evaluate --checkpoint {run} --env Nothing-v0", 2, "unknown environment Nothing-v0"),
    ("evaluate --checkpoint {run} --episodes 0", 2, "at least 1"),
    ("evaluate --expert random", 2, "--env"),
    ("collect --env CartPole-v1 --expert nowhere.zip --out {out}", 2, "nowhere.zip"),
    ("collect --env CartPole-v1 --episodes 0 --out {out}", 2, "at least 1"),
    ("train --data {out}/empty --out {out}/run", 2, "gato-agent collect"),
    ("train --data {data} --out {out}/run --steps 0", 2, "--steps 0: at least 1"),
    ("train --data {data} --out {out}/run --save-every 0", 2, "--save-every 0: at least 1"),
    ("train --data {data} --out {out}/run --learning-rate 0", 2, "--learning-rate 0"),
    ("train --data {data} --out {out}/run --device gpu", 2, "--device gpu"),
    ("train --data {data} --out {out}/run --text-model {out}/no.model", 2, "no.model"),
    ("evaluate --checkpoint {run} --n-envs 0", 2, "--n-envs 0: at least 1"),
    ("evaluate --checkpoint {run} --seed -5", 2, "--seed -5: at least 0"),
    ("evaluate --expert train --env CartPole-v1", 2, "collect"),
    ("evaluate --checkpoint {run} --env CartPole-v1 Nothing-v0", 2, "Nothing-v0"),
    ("train --data {data} --out {run}", 2, "--resume"),
    ("info", 2, "info what? choose one of: info tasks, info env, info size, info checkpoint"),
    ("info sizes", 2, "no verb 'info sizes': did you mean info size?"),
    ("bench stp", 2, "no verb 'bench stp': did you mean bench step?"),
    ("bench", 2, "bench what? choose one of: bench step, bench train"),
    ("info --size nano --env CartPole-v1", 2, "info shows one thing at a time: gato-agent info size"),
    ("evaluate --checkpoint {run} --env CartPole-v1 --env Acrobot-v1", 2, "--env is given twice"),
    ("train --data {data} --out {out}/file/run --steps 1", 2, "/file is a file, and a folder of this name is needed"),
    ("collect --env CartPole-v1 --episodes 1 --out {out}/file", 2, "/file is a file, and a folder of this name"),
    ("evaluate --env CartPole-v1 --episodes 1 --out {out}/file", 2, "/file is a file, and a folder of this name"),
    ("report {run}/results.jsn", 2, "runs/cartpole/results.jsn: make some with `gato-agent evaluate --env CartPole-v1"),
    ("play --env CartPole-v1 --render video --env-kwargs '{{\"foo\": 1}}'", 2, "does not take these arguments: TypeE"),
    ("play", 2, "play needs --env: Environment id"),
    ("play CartPole-v1", 2, "play CartPole-v1: write play --env CartPole-v1"),
    ("play --evn CartPole-v1", 2, "play has no option --evn: did you mean --env?"),
    ("play --env CartPole-v1 --render nonee", 2, "--render nonee: choose one of auto, human, video, none"),
    ("play --env CartPole-v1 --episodes x", 2, "--episodes x: a whole number is needed"),
    ("play --env CartPole-v1 --hz=fast", 2, "--hz fast: a number is needed"),
    ("play --env", 2, "--env needs a value: see gato-agent play --help"),
    ("train --model.contxt 3", 2, "train has no option --model.contxt: did you mean --model.context?"),
    ("info size", 2, "info size needs a value: Model size: nano, tiny, small, baseline or large"),
    ("data", 2, "data what? choose one of show, verify, compact, filter, export, import"),
    ("data sho {data}", 2, "did you mean show?"),
    ("data show {out}/nothing", 2, "no episodes in "),
    ("trian", 2, "no verb 'trian': did you mean train?"),
    ("fly", 2, "no verb 'fly'"),
]


@pytest.mark.parametrize(
    ("command", "code", "message"), MISTAKES, ids=[m[0].split(" -")[0] + "-" + m[2] for m in MISTAKES]
)
def test_mistakes_are_answered_in_one_line(
    command: str, code: int, message: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (trained / "runs/cartpole/model.safetensors").read_bytes()
    (tmp_path / "truncated.safetensors").write_bytes(whole[:-CHECKPOINT_BYTES])
    (tmp_path / "file").write_bytes(b"")
    places = {
        "lake": """--env-kwargs '{"map_name": "8x8"}'""",
        "run": trained / "runs/cartpole",
        "data": trained / "data",
        "out": tmp_path,
        "truncated": tmp_path / "truncated.safetensors",
    }
    assert message in fails(capsys, command.format(**places), code)


@pytest.mark.parametrize("release", ["no module", "no hook", "other events"])
def test_boxes_stand_for_releases_of_tyro_with_other_hooks(
    release: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if release == "no module":
        monkeypatch.setitem(sys.modules, "tyro._errors", None)
        monkeypatch.delattr("tyro._errors")
    elif release == "no hook":
        monkeypatch.delattr("tyro._errors.on_parse_error")
    else:
        event = type("UnrecognizedArgs", (), {"__init__": lambda self, **values: None, "prog": "gato-agent play"})
        monkeypatch.setattr("tyro._errors.UnrecognizedArgs", event)
    with pytest.raises(SystemExit) as stop:
        main(["play", "--env", "CartPole-v1", "--no-such-option"])
    assert stop.value.code == 2 and "no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize(("fault", "message"), [("nan", "not a finite number"), ("raise", "raised")])
def test_a_failing_environment_is_named(
    fault: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(
        capsys,
        f"collect --env tests.helpers.testing_env:Burning-v0 --expert random --episodes 2 --out {tmp_path} "
        f"--env-kwargs '{json.dumps({'fault': fault, 'fault_step': 3})}'",
        code=1,
    )
    assert message in line and "Burning-v0" in line and "seed 0" in line and "step 3" in line


def test_one_failing_task_keeps_the_others(tmp_path: Path) -> None:
    line = "evaluate --expert random --env tests.helpers.testing_env:Burning-v0 CartPole-v1 --episodes 2 --out s"
    result = cli(line, expect=1, cwd=tmp_path, path=ROOT)
    assert "the motor is on fire" in result.stderr
    data = json.loads((tmp_path / "s/results.json").read_text())
    assert [task["task"] for task in data["tasks"]] == ["CartPole-v1"]
    assert list(data["failed"]) == ["Burning-v0"]


def test_a_fault_in_a_later_episode_keeps_the_earlier_ones(tmp_path: Path) -> None:
    collect = """collect --env tests.helpers.testing_env:Burning-v0 --expert random --episodes 2 --out d --env-kwargs"""
    cli(f"""{collect} '{{"fault": "none"}}'""", cwd=tmp_path, path=ROOT)
    cli("train --data d --out r --steps 1 --batch-size 1", cwd=tmp_path)
    line = "play --env tests.helpers.testing_env:Burning-v0 --checkpoint r --episodes 5 --seed 7 --json p.json"
    kwargs = """--env-kwargs '{"fault": "raise", "fault_seed": 9}'"""
    result = cli(f"{line} {kwargs}", expect=1, cwd=tmp_path, path=ROOT)
    assert "step 3 of seed 9" in result.stderr
    assert "video: videos/Burning-v0-partial.mp4" in result.stdout
    assert [e["seed"] for e in json.loads((tmp_path / "p.json").read_text())["episodes"]] == [7, 8]


def test_debug_shows_the_traceback() -> None:
    result = cli("play --env CartPole-v9 --debug", expect=1)
    assert "Traceback" in result.stderr


ODD = "[/x] [bold]{0} :smile:"  # what rich, str.format and a shell would each make something else of


def test_paths_and_ids_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / ODD)
    for arguments, shown in (
        (["collect", "--env", "CartPole-v1", "--expert", "random", "--episodes", "2", "--workers", "0"], "out"),
        (["train", "--data", out, "--steps", "1", "--batch-size", "1", "--num-threads", "1"], "out"),
        (["evaluate", "--env", "CartPole-v1", "--checkpoint", out, "--episodes", "1", "--workers", "0"], "checkpoint"),
        (["data", "verify", out], None),
        (["data", "compact", out], None),
        (["data", "show", out], None),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, *(["--out", out] if shown else [])])
        output = capsys.readouterr()
        assert stop.value.code == 0, output.err
        name = "CartPole-v1: 2 episodes" if arguments[:2] == ["data", "compact"] else ODD
        assert " ".join(name.split()) in " ".join(output.out.split()), output.out


def test_bars_on_a_terminal_take_any_title() -> None:
    console = plain_console(force_terminal=True, file=io.StringIO(), width=200)
    with progress(console, ODD, 2, "[/steps]") as update:
        update(2, ODD)
    assert console.file.getvalue().count(ODD) >= 2


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), BaseException("gone"), OSError(9, "Bad file desc")])
def test_nothing_ends_a_verb_in_silence(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gato_agent.commands.catalogue.envs", MagicMock(side_effect=error))
    line = fails(capsys, "info tasks", 1)
    assert ("sys.exit(0)" if isinstance(error, SystemExit) else "") in line
    assert ("--workers 1" in line) is isinstance(error, OSError)


def test_auto_plays_without_pictures_where_there_are_none(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env = gym.make("CartPole-v1").unwrapped
    blind = type("Blind", (type(env),), {"metadata": {"render_modes": None}})
    monkeypatch.setitem(gym.registry, "CartPole-v1", gym.envs.registration.EnvSpec("CartPole-v1", entry_point=blind))
    line = f"play --env CartPole-v1 --checkpoint {trained / 'runs/cartpole'}"
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line))
    assert stop.value.code == 0
    assert "played without rendering: CartPole-v1 cannot render" in capsys.readouterr().out
    assert "play it with --render none" in fails(capsys, f"{line} --render video", 2)


FOLLOWED = [
    (
        "collect --env CartPole-v1 --out d",
        "complete episodes are saved in d",
        "gato-agent train --data d --out runs/gato",
    ),
    ("train --out r", "last checkpoint is in r", "gato-agent evaluate --checkpoint r --out r/results"),
    ("evaluate --out e", "evaluated tasks are saved in e", "gato-agent report e --out e/report"),
    (
        "evaluate --env a:B-v0 CartPole-v1 c:D-v1 --out e",
        "evaluated tasks are saved in e",
        "gato-agent report e --out e/report --env a:B-v0 c:D-v1",
    ),
    ("evaluate", "nothing is saved: --out FOLDER", None),
    ("play --env a:B-v0", "begins anew", "gato-agent evaluate --env a:B-v0 --checkpoint shipped --out results"),
    ("report e", "begins anew", None),
]


@pytest.mark.parametrize(("line", "interrupted", "following"), FOLLOWED, ids=[line for line, *_ in FOLLOWED])
def test_a_verb_ends_with_the_next_command_and_an_interrupt_with_the_way_on(
    line: str,
    interrupted: str,
    following: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb = VERBS[line.split()[0]]
    function = MagicMock(return_value=None)
    monkeypatch.setattr(f"{verb.module}.{verb.function}", function)
    assert run(shlex.split(line)) == 0
    assert capsys.readouterr().out == (f"next: {following}\n" if following else "")
    if following:
        parse(shlex.split(following)[1:])
    try:
        assert run(shlex.split(line), quiet=True) == 0
    finally:
        set_quiet(False)
    assert capsys.readouterr().out == ""
    function.side_effect = KeyboardInterrupt
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line))
    assert stop.value.code == 130
    assert interrupted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("envs --suite classic", "info tasks --suite classic"),
        ("info --size nano", "info size nano"),
        ("info --checkpoint=shipped", "info checkpoint shipped"),
        ("info --env-kwargs {} --env CartPole-v1", "info env --env-kwargs {} CartPole-v1"),
        ("bench --size nano --lanes 2", "bench step --size nano --n-envs 2"),
    ],
)
def test_former_verbs_are_read_with_a_hint(
    former: str, present: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = VERBS[" ".join(present.split()[:2])]
    function = MagicMock(return_value=None)
    monkeypatch.setattr(f"{verb.module}.{verb.function}", function)
    for line in (former, present):
        assert run(shlex.split(line)) == 0
    first, second = function.call_args_list
    assert first == second
    hints = capsys.readouterr().err
    assert hints.count("gato-agent: write ") == 1 and " ".join(present.split()[:2]) in hints
