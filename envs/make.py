"""Making environments from their ids; an error says in one line what is missing."""

import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from ctypes.util import find_library
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, find_highest_version

from gato_agent.envs.checked_env import CheckedEnv
from gato_agent.envs.errors import CannotRender, EnvironmentFault, GatoError, UsageError, one_line
from gato_agent.envs.io.strict_json import parse
from gato_agent.envs.recreate import RecreateOnReset
from gato_agent.envs.tasks.packages import (
    import_named,
    missing_install_hint,
    register_suite,
    suite_install_hint,
    suite_of,
    suppress_output,
)
from gato_agent.envs.tasks.task import find, install_hint
from gato_agent.envs.vector import SeparateInfos

WITHOUT = "play it with --render none"
_log = logging.getLogger(__name__)
_MODULES: dict[str, str] = {}  # by plain id, as the user named them


def make(
    env_id: str, *, render_mode: str | None = None, env_kwargs: Mapping[str, Any] | None = None
) -> gym.Env[Any, Any]:
    """Make the environment as `gymnasium.make(env_id)` does, inside a `CheckedEnv`.

    Args:
        env_id: a registered id, or `module:Env-v0` to import `module`, which registers it.
        render_mode: one of the environment's render modes.
        env_kwargs: arguments of the constructor; `max_episode_steps` changes the time limit.

    Raises:
        UsageError: unknown id, missing package, unsuitable `env_kwargs`; CannotRender for an unsuitable render mode.
        GatoError: `module` raised.
        EnvironmentFault: the constructor raised, or a space is missing.
    """
    return _make(find_spec(env_id), render_mode, env_kwargs or {})


def make_vector(
    env_id: str, n: int, *, env_kwargs: Mapping[str, Any] | None = None, render_mode: str | None = None
) -> SeparateInfos:
    """Make `n` environments without autoreset, for `steps()`; only environment 0 is rendered.

    Raises:
        UsageError: as `make` does, or fewer than one environment.
        EnvironmentFault: as `make` does, or the environments differ in their spaces.
    """
    if n < 1:
        raise UsageError(f"{env_id}: {n} environments: at least 1 is needed")
    spec = find_spec(env_id)
    # Gymnasium's vector environment stores observations until all environments have stepped, so these are copies.
    makers = [
        partial(_make, spec, render_mode if env_index == 0 else None, env_kwargs or {}, n > 1) for env_index in range(n)
    ]
    try:
        return SeparateInfos(makers)
    except RuntimeError as error:
        raise EnvironmentFault(
            f"{env_id}: its spaces differ from one instance to the next; use one environment"
        ) from error


def find_spec(env_id: str) -> EnvSpec:
    """Find an id in Gymnasium's registry, after importing the module that registers it.

    After this call `find_spec(env_id).id` is enough to make the environment. Files store that id, and no module.

    Raises:
        UsageError: no such id or module; the message has the extra to install, or close matches.
        GatoError: the module raised.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_named(module, env_id)
    if name not in gym.registry:
        register_suite(name)
    spec = gym.registry.get(name)
    if spec is None:
        raise UsageError(_unknown(name))
    if module:
        _MODULES[name] = module
    latest = find_highest_version(spec.namespace, spec.name)
    if spec.version is not None and latest is not None and latest > spec.version:
        _log.warning("%s: version %d of this environment exists", name, latest)
    return spec


def named(env_id: str) -> str:
    """An id as a command takes it: with the module that the user named with it in this process, if any."""
    module = _MODULES.get(env_id)
    return f"{module}:{env_id}" if module else env_id


def _unknown(name: str) -> str:
    """Message for an id that is not registered."""
    if command := install_hint(name) or suite_install_hint(name):
        return f"{name} is not installed: {command}"
    close = difflib.get_close_matches(name, gym.registry, n=3)
    meant = f"did you mean {' or '.join(close)}? Else " if close else ""
    return f"unknown environment {name}: {meant}--env MODULE:{name or 'Env-v0'} imports the module that registers it"


def _make(
    spec: EnvSpec, render_mode: str | None, env_kwargs: Mapping[str, Any], copies: bool = True
) -> gym.Env[Any, Any]:
    if render_mode == "rgb_array":
        _draw_without_a_screen()
    env = _constructed(spec, render_mode, env_kwargs)
    for name in ("observation_space", "action_space"):
        try:
            space = getattr(env, name, None)
        except Exception as error:
            raise EnvironmentFault(f"{spec.id}: reading its {name} raised {one_line(error)}") from error
        if not isinstance(space, gym.Space):
            raise EnvironmentFault(f"{spec.id}: its {name} is {space!r:.80}, and must be a gymnasium.spaces.Space")
    checked = CheckedEnv(env, spec.id, copies)
    modes = list(env.metadata.get("render_modes") or [])
    if render_mode is not None and render_mode not in modes:
        checked.close()
        raise _cannot_render(spec.id, render_mode, modes)
    if render_mode == "rgb_array":
        _follow(env)
    return checked


def _constructed(spec: EnvSpec, render_mode: str | None, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Call the constructor; its exceptions become errors that name the environment."""
    kwargs = deepcopy(dict(env_kwargs))  # a constructor may change its arguments
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*render")  # `_make` raises an error instead
            return _adapted(spec, kwargs)
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise UsageError(f"{spec.id} needs a package that is missing: {missing_install_hint(error)}") from error
    except (TypeError, gym.error.Error) as error:
        if render_mode is not None and "render_mode" in str(error).partition(" was raised from ")[0]:
            raise _cannot_render(spec.id, render_mode, []) from error
        if not kwargs or not isinstance(error, TypeError):
            raise EnvironmentFault(f"{spec.id}: making it raised {one_line(error)}") from error
        raise UsageError(f"{spec.id} does not take these arguments: {one_line(error)}") from error
    except (GatoError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a constructor may call sys.exit, which would end the program silently
        raise EnvironmentFault(f"{spec.id}: making it raised {one_line(error)}") from error


def _cannot_render(env_id: str, render_mode: str, modes: Sequence[str]) -> CannotRender:
    able = ", ".join(map(str, modes)) or "nothing"
    return CannotRender(f"{env_id} cannot render {render_mode!r}; it can render: {able}; {WITHOUT}")


def _adapted(spec: EnvSpec, kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Make the environment as Gymnasium does, with the time limit and wrappers of its task and suite."""
    task = find(spec.id)
    if spec.max_episode_steps is None and task is not None and task.horizon is not None:
        kwargs = {"max_episode_steps": task.horizon, **kwargs}  # an agent that goes in circles would never end
    # Gymnasium's checker costs more than most steps; CheckedEnv checks what is needed.
    plain = partial(gym.make, spec, disable_env_checker=True, **kwargs)
    suite = suite_of(spec.id)
    if suite is None:
        return plain()
    stateful = suite.stateful_reset is not None and re.match(suite.stateful_reset, spec.id)
    with suppress_output() if suite.module else nullcontext():
        env = RecreateOnReset(plain) if stateful else plain()
    return suite.wrap(env) if suite.wrap else env


def _follow(env: gym.Env[Any, Any]) -> None:
    """Draw with MuJoCo's `track` camera if the model has one: the default camera does not follow the robot."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None and renderer.camera_id == -1:  # the user named no camera
        import mujoco

        renderer.camera_id = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")


def has_display() -> bool:
    """True if a window can be opened; always on macOS."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _draw_without_a_screen() -> None:
    """Set the environment variables with which MuJoCo and SDL render off screen, if there is no display."""
    if sys.platform != "linux" or has_display():
        return
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if "MUJOCO_GL" not in os.environ:
        for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
            if find_library(library):
                os.environ["MUJOCO_GL"] = name
                return


def parse_kwargs(text: str, option: str = "--env-kwargs") -> dict[str, Any]:
    """Read the JSON object of an option; raises UsageError for anything else."""
    try:
        kwargs = parse(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r:.80} is not JSON ({error}): write '{{\"name\": value}}'") from error
    if not isinstance(kwargs, dict):
        raise UsageError(f"{option} {text!r:.80} is not a JSON object: write '{{\"name\": value}}'")
    return kwargs
