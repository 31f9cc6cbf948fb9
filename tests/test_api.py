"""Verbs as functions and environments by id: the face of the package in Python."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import gato_agent
from gato_agent import api
from gato_agent.commands.collect import CollectConfig
from gato_agent.commands.evaluate import EvaluateConfig
from gato_agent.commands.play import PlayConfig
from gato_agent.envs.errors import UsageError
from gato_agent.envs.tasks.packages import ids_of, register_own, suites
from gato_agent.envs.tasks.task import catalogue, families
from gato_agent.training.config import TrainConfig
from tests.helpers.paths import ROOT

CONFIGS = {"collect": CollectConfig, "train": TrainConfig, "evaluate": EvaluateConfig, "play": PlayConfig}
OWN = ("Meta-World/", "BabyAI-RGB/")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Configs that verbs are called with, in place of running them."""
    configs: list[Any] = []
    for name, config in CONFIGS.items():
        make = api._train_config if name == "train" else None
        monkeypatch.setattr(api, name, api._verb(name, config, configs.append, make))  # type: ignore[arg-type]
    return configs


@pytest.mark.parametrize("name", CONFIGS)
def test_a_verb_takes_the_options_of_its_config(name: str, taken: list[Any]) -> None:
    verb, config = getattr(gato_agent, name), CONFIGS[name]
    parameters = inspect.signature(verb).parameters.values()
    assert [each.name for each in parameters] == [field.name for field in fields(config)]
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in parameters)
    assert verb.__name__ == name and verb.__doc__
    required = {"env": "CartPole-v1"} if name == "play" else {}
    getattr(api, name)(**required)
    assert taken == [config(**required)]


def test_options_are_cast_to_their_types(taken: list[Any]) -> None:
    api.collect(env="CartPole-v1", out="data", env_kwargs={"g": 9}, suite=["box2d", "classic"])  # type: ignore[arg-type]
    assert taken.pop() == CollectConfig(("CartPole-v1",), ("box2d", "classic"), out=Path("data"), env_kwargs='{"g": 9}')
    api.train(data=["a", Path("b")], eval_env="CartPole-v1", shape={"layers": 2}, logger="wandb")  # type: ignore[arg-type]
    wanted = TrainConfig((Path("a"), Path("b")), shape='{"layers": 2}', eval_env=("CartPole-v1",), logger=("wandb",))
    assert taken.pop() == wanted
    api.evaluate(checkpoint=Path("runs/x"), json="results.json")  # type: ignore[arg-type]
    assert taken.pop() == EvaluateConfig(checkpoint="runs/x", json=Path("results.json"))
    api.train(init="shipped", steps=7)
    assert (taken[0].steps, taken[0].schedule) == (7, "wsd")  # the defaults of fine-tuning


def test_wrong_options_are_named(taken: list[Any]) -> None:
    with pytest.raises(UsageError, match=r"^collect\(\) has no option episods: did you mean episodes\?$"):
        api.collect(episods=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"^play\(\) has no option qwertyuiop: there are env, episodes"):
        api.play(env="CartPole-v1", qwertyuiop=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"evaluate\(\) takes keyword arguments only, such as evaluate\(env=\.\.\.\)"):
        api.evaluate("CartPole-v1")  # type: ignore[arg-type]
    assert taken == []


@pytest.mark.parametrize(("option", "value"), [
    ("expert", lambda observation: 1), ("expert", None), ("env", gym.make("CartPole-v1")), ("env", (1,)),
    ("episodes", "3"), ("episodes", 1.5), ("episodes", True), ("noise", "yes"), ("timeout", "3"), ("out", 3),
    ("env_kwargs", {"expert": object()}), ("env_kwargs", 3),
])  # fmt: skip
def test_a_value_of_another_type_is_named(taken: list[Any], option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"takes {option} as |is no JSON"):
        api.collect(**{option: value})  # type: ignore[arg-type]
    assert not taken


def test_numbers_of_numpy_are_plain(taken: list[Any]) -> None:
    api.collect(env="CartPole-v1", episodes=np.int64(3), timeout=3, env_kwargs={"x": np.float32(0.5)})
    config = taken[0]
    assert (type(config.episodes), config.timeout, config.env_kwargs) == (int, 3, '{"x": 0.5}')


def test_the_loop_in_python(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    gato_agent.collect(env=("CartPole-v1",), episodes=2, out=data, workers=0)
    model = gato_agent.train(data=(data,), out=out, steps=1, batch_size=1, shape='{"layers": 1, "context": 64}')
    assert model == out / "model.safetensors"
    results = gato_agent.evaluate(checkpoint=str(out), env=("CartPole-v1",), episodes=1, workers=0)
    assert list(results.tasks) == ["CartPole-v1"]
    played = gato_agent.play(env="CartPole-v1", checkpoint=str(out), render="none", json=tmp_path / "played.json")
    assert json.loads((tmp_path / "played.json").read_text()) == played


SCRIPT = """
from pathlib import Path

import gymnasium as gym
import numpy as np

import gato_agent

{register}
{guard}
    gato_agent.collect(env=({env_id!r},), expert="random", episodes=2, out=Path("data"))
    assert __file__
    Path("done").write_text("1" + Path("done").read_text() if Path("done").exists() else "1")
"""
REGISTER = 'gym.register("Mine-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)'
GUARD = "if __name__ == '__main__':"
CASES = [("CartPole-v1", "if True:", ""), ("CartPole-v1", GUARD, ""), ("Mine-v0", GUARD, REGISTER)]


@pytest.mark.parametrize(("env_id", "guard", "register"), CASES)
def test_scripts_need_no_guard(env_id: str, guard: str, register: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(env_id=env_id, guard=guard, register=register))
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env={**os.environ, **paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").read_text() == "1"
    assert (tmp_path / "data" / env_id / "task.json").is_file()


def test_environments_take_their_arguments_as_keywords() -> None:
    env = gato_agent.make("Pendulum-v1", g=1.62, max_episode_steps=3)
    assert env.get_wrapper_attr("g") == 1.62
    assert env.spec is not None and env.spec.max_episode_steps == 3
    envs = gato_agent.make_vec("CartPole-v1", 3, max_episode_steps=3)
    assert envs.num_envs == 3 and envs.reset(seed=0)[0].shape == (3, 4)
    with pytest.raises(UsageError, match="CartPol-v1: did you mean CartPole-v1"):
        gato_agent.make("CartPol-v1")


@pytest.mark.parametrize("suite", families())
def test_ids_of_a_suite_are_those_of_its_table(suite: str) -> None:
    assert ids_of(suite) == [task.id for task in catalogue().values() if task.suite == suite]


def test_own_environments_are_those_of_their_packages() -> None:
    env_dict = pytest.importorskip("metaworld.env_dict")
    assert {f"Meta-World/{name}" for name in env_dict.ENV_CLS_MAP} == set(ids_of("metaworld"))
    from gato_agent.envs.adapters.babyai_rgb import LEVELS

    assert {f"BabyAI-RGB/{level}-v0" for level in LEVELS} == set(ids_of("babyai_rgb"))


def test_registering_again_changes_nothing(recwarn: pytest.WarningsRecorder) -> None:
    before = dict(gym.registry)
    register_own()
    assert gym.registry == before
    assert not recwarn.list


def in_a_process(program: str) -> list[str]:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Overriding" not in done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("order", ["gymnasium, gato_agent", "gato_agent, gymnasium"])
def test_importing_it_registers_its_own_ids_and_imports_no_package(order: str) -> None:
    installed = {suite.ids for suite in suites() if suite.own and suite.is_installed}
    packages = sorted({package for suite in suites() for package in suite.packages if package != "gymnasium"})
    program = (
        f"import sys, {order}\n"
        f"assert not {{*{packages!r}, 'torch', 'stable_baselines3'}} & set(sys.modules), set(sys.modules)\n"
        f"print(*sorted(name for name in gymnasium.registry if name.startswith({OWN!r})))"
    )
    wanted = {env_id for env_id in catalogue() if env_id.startswith(OWN) and env_id.split("/")[0] + "/" in installed}
    assert set(in_a_process(program)) == wanted


@pytest.mark.parametrize(
    ("env_id", "package"), [("Meta-World/reach-v3", "metaworld"), ("BabyAI-RGB/GoToLocal-v0", "minigrid")]
)
def test_gymnasium_makes_its_own_ids(env_id: str, package: str) -> None:
    pytest.importorskip(package)
    for imported, name in (("gato_agent", env_id), ("gymnasium", f"gato_agent:{env_id}")):
        program = f"import {imported}, gymnasium; e = gymnasium.make({name!r}); e.reset(seed=0); print(e.spec.id)"
        assert in_a_process(program)[-1] == env_id


def test_it_waits_for_gymnasium_to_be_imported() -> None:
    program = (
        "import sys, gato_agent, importlib.util; assert 'gymnasium' not in sys.modules; before = len(sys.meta_path)\n"
        "assert importlib.util.find_spec('gymnasium') and 'gymnasium' not in sys.modules\n"
        "from gymnasium.spaces import Box; import gymnasium; assert len(sys.meta_path) == before - 1; print('ok')"
    )
    assert in_a_process(program) == ["ok"]


@pytest.mark.parametrize("package", ["minigrid", "panda_gym", "metaworld", "ale_py", "gymnasium_robotics"])
def test_a_package_imported_later_overrides_nothing(package: str) -> None:
    pytest.importorskip(package)
    program = (
        "import gymnasium; others = set(gymnasium.registry); import gato_agent\n"
        "own = {name: spec for name, spec in gymnasium.registry.items() if name not in others}\n"
        f"import {package}; assert own.items() <= gymnasium.registry.items(); print('ok')"
    )
    assert in_a_process(program)[-1] == "ok"
