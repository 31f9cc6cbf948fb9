"""Making environments: every task is reproducible, and each failure is one line."""

import logging
import sys
from contextlib import closing
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode

from gato_agent.envs.errors import CannotRender, EnvironmentFault, GatoError, UsageError
from gato_agent.envs.make import find_spec, make, make_vector
from gato_agent.envs.tasks.packages import suite_of
from tests.helpers.testing_env import TestingEnv


def test_a_module_may_register_the_environment() -> None:
    assert isinstance(make("tests.helpers.testing_env:Testing-v0").unwrapped, TestingEnv)
    assert find_spec("tests.helpers.testing_env:Testing-v0").id == "Testing-v0"


def test_arguments_reach_the_constructor_and_the_time_limit() -> None:
    assert make("Pendulum-v1", env_kwargs={"g": 1.62}).get_wrapper_attr("g") == 1.62
    env = make("CartPole-v1", env_kwargs={"max_episode_steps": 1})
    env.reset(seed=0)
    assert env.step(0)[3] is True


def test_only_environment_0_is_rendered(recwarn: pytest.WarningsRecorder) -> None:
    envs = make_vector("CartPole-v1", 3, render_mode="rgb_array")
    envs.reset(seed=0)
    frames: tuple[Any, ...] = envs.render()
    assert (frames[0].shape, frames[0].dtype, frames[1:]) == ((400, 600, 3), np.uint8, (None, None))
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert not recwarn.list


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("CartPol-v1", {}, r"unknown environment CartPol-v1: did you mean CartPole-v1"),
        ("CartPole", {}, r"did you mean CartPole-v1"),
        ("LunarLander-v2", {}, r"did you mean LunarLander-v3"),
        (
            "Qwertyuiop-v7",
            {},
            r"unknown environment Qwertyuiop-v7: --env MODULE:Qwertyuiop-v7 imports the module that registers it",
        ),
        ("", {}, r"unknown environment"),
        ("no_such.module:X-v0", {}, r"no_such\.module:X-v0: no module named no_such; install it or add .*PYTHONPATH"),
        ("tests.helpers.testing_env:Testin-v0", {}, r"did you mean Testing-v0"),
        (
            "CartPole-v1",
            {"render_mode": "hologram"},
            r"cannot render 'hologram'; it can render: human, rgb_array; .*none",
        ),
        ("CartPole-v1", {"env_kwargs": {"gravitas": 1}}, r"does not take these arguments: .*'gravitas'"),
    ],
)
def test_what_cannot_be_made_is_a_usage_error(env_id: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make(env_id, **kwargs)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=message):
        make_vector(env_id, 2, **kwargs)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("Box2D", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)  # importing it fails
    with pytest.raises(UsageError, match=r"LunarLander-v3 needs .*: pip install 'gato-agent\[box2d\]'$"):
        make("LunarLander-v3")


@pytest.mark.parametrize(("extra", "package"), [("mujoco", "gato-agent"), ("jax", "gymnasium")])
def test_an_extra_is_ours_where_we_have_one(monkeypatch: pytest.MonkeyPatch, extra: str, package: str) -> None:
    def needy() -> TestingEnv:
        raise gym.error.DependencyNotInstalled(f'not installed, run `pip install "gymnasium[{extra}]"`')

    register(monkeypatch, "Needy-v0", needy)
    with pytest.raises(UsageError, match=rf"^Needy-v0 needs .*: pip install '{package}\[{extra}\]'$"):
        make("Needy-v0")


@pytest.mark.parametrize(
    ("env_id", "module", "extra"),
    [
        ("ALE/Pong-v5", "ale_py", "atari"),
        ("MiniGrid-Empty-8x8-v0", "minigrid", "minigrid"),
        ("BabyAI-GoToObj-v0", "minigrid", "minigrid"),
        ("BabyAI-RGB/GoToObj-v0", "minigrid", "minigrid"),
        ("Meta-World/reach-v9", "metaworld", "metaworld"),
        ("MinAtar/Pong-v1", "minatar", "minatar"),
        ("HopperBulletEnv-v0", "pybullet_envs_gymnasium", "bullet"),
        ("PandaReach-v3", "panda_gym", "panda"),
        ("FetchReach-v4", "gymnasium_robotics", "robotics"),
    ],
)
def test_a_suite_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, env_id: str, module: str, extra: str
) -> None:
    monkeypatch.delitem(gym.registry, env_id, raising=False)
    monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    way_out = rf"pip install 'gato-agent\[{extra}\]'$"
    with pytest.raises(UsageError, match=f"^{env_id} is not installed: {way_out}"):
        make(env_id)
    with pytest.raises(UsageError, match=f"^{module}:{env_id}: no module named {module}; {way_out}"):
        make(f"{module}:{env_id}")
    suite = suite_of(env_id)
    assert suite is not None
    if suite.register is not None or suite.packages != (module,):
        return  # registering needs more than an empty module
    installed = ModuleType(module)
    installed.__spec__ = ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, module, installed)
    with pytest.raises(UsageError, match=f"^unknown environment {env_id}: (did you mean|--env MODULE:)"):
        make(env_id)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "Gone-v0", "no_such_module:Env")
    with pytest.raises(UsageError, match=r"Gone-v0 needs a package that is missing: .*'no_such_module'; install it"):
        make("Gone-v0")


def test_a_constructor_that_raises_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> TestingEnv:
        raise OSError("no robot\nat /dev/robot")

    register(monkeypatch, "Broken-v0", broken)
    with pytest.raises(EnvironmentFault, match=r"^Broken-v0: making it raised OSError: no robot at /dev/robot$"):
        make("Broken-v0")


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), BaseException("gone")])
def test_a_constructor_or_module_that_ends_all_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def ending(*_: Any) -> TestingEnv:
        raise error

    register(monkeypatch, "Ending-v0", ending)
    with pytest.raises(EnvironmentFault, match=f"^Ending-v0: making it raised {type(error).__name__}"):
        make("Ending-v0")
    monkeypatch.setattr("gato_agent.envs.tasks.packages.importlib.import_module", ending)
    with pytest.raises(GatoError, match=f"^some:X-v0: importing some raised {type(error).__name__}"):
        make("some:X-v0")


def test_an_environment_without_spaces_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(gym.Env[Any, Any]):
        pass

    register(monkeypatch, "Bare-v0", Bare)
    with pytest.raises(EnvironmentFault, match=r"^Bare-v0: its observation_space is None, and must be a gymnasium"):
        make("Bare-v0")

    class Number(TestingEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = 4  # type: ignore[assignment]

    register(monkeypatch, "Number-v0", Number)
    with pytest.raises(EnvironmentFault, match=r"^Number-v0: its action_space is 4, and must be a gymnasium"):
        make_vector("Number-v0", 2)


@pytest.mark.parametrize("modes", [{"render_modes": None}, {"render_modes": []}, {}, {"render_modes": ("human",)}])
def test_a_mode_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch, modes: dict[str, Any]) -> None:
    class Blind(TestingEnv):
        metadata = modes

    register(monkeypatch, "Blind-v0", Blind)
    make("Blind-v0").close()
    able = "human" if modes.get("render_modes") else "nothing"
    with pytest.raises(CannotRender, match=f"'rgb_array'; it can render: {able}; play it with --render none$"):
        make("Blind-v0", render_mode="rgb_array")


def test_a_constructor_that_takes_no_mode_cannot_render(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(TestingEnv):
        def __init__(self) -> None:
            super().__init__()

    register(monkeypatch, "Plain-v0", Plain)
    with pytest.raises(CannotRender, match="Plain-v0 cannot render 'human'"):
        make("Plain-v0", render_mode="human")


def test_a_module_that_raises_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(GatoError, match=r"^broken_module:X-v0: importing broken_module raised ZeroDivisionError"):
        make("broken_module:X-v0")


def test_environments_with_other_spaces_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter(range(2, 9))
    register(monkeypatch, "Growing-v0", lambda: TestingEnv(action_space=Discrete(next(sizes))))
    with pytest.raises(EnvironmentFault, match=r"Growing-v0: its spaces differ from one instance to the next"):
        make_vector("Growing-v0", 2)


def test_zero_environments_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        make_vector("CartPole-v1", 0)


def test_an_old_version_is_noted_once(caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder) -> None:
    with caplog.at_level(logging.WARNING):
        make_vector("CartPole-v0", 2)
    assert caplog.messages == ["CartPole-v0: version 1 of this environment exists"]
    assert not recwarn.list


def register(monkeypatch: pytest.MonkeyPatch, env_id: str, entry_point: Any) -> None:
    """Register for the length of one test."""
    gym.register(env_id, entry_point=entry_point)
    monkeypatch.setitem(gym.registry, env_id, gym.registry.pop(env_id))


def test_a_video_follows_what_runs_away() -> None:
    pytest.importorskip("mujoco")
    with closing(make("HalfCheetah-v5", render_mode="rgb_array")) as env:
        assert env.unwrapped.mujoco_renderer.camera_id >= 0  # type: ignore[attr-defined]
    with closing(make("Reacher-v5", render_mode="rgb_array")) as env:  # whose model has no such camera
        assert env.unwrapped.mujoco_renderer.camera_id == -1  # type: ignore[attr-defined]
