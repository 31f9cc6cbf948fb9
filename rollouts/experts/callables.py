"""Experts that users write in Python, `--expert module:callable`, as Actors.

The name is that of a function `(observation_space, action_space)` or `()` that makes the expert, of a class with such a
constructor, or of the expert itself; forms.py has the forms of an expert. It comes from the command line, never from a
file.
"""

import hashlib
import inspect
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, one_line
from gato_agent.envs.tasks.packages import import_named
from gato_agent.rollouts.experts.forms import ACCEPTED, Misfit, Spaces, actions_of, form_of, method, parameters, takes
from gato_agent.rollouts.experts.sb3.loaded_model import is_sb3, masks_of, preprocess_of
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.experts.sb3.preprocess import Preprocess

COUNTS = {"lanes", "n_lanes", "n", "n_envs", "num_envs", "batch_size"}  # arguments of `reset` that count environments
OBSERVED = {"obs", "observation", "observations"}  # first arguments of what acts, and makes nothing
ELSEWHERE = {"env", "environment", "env_id", *OBSERVED}  # arguments that cannot be given


class CallableExpert:
    """What a user's `module:callable` makes or is, as an Actor."""

    def __init__(
        self, spec: str, spaces: Spaces, seed: int = 0, *, envs: VectorEnv[Any, Any, Any] | None = None,
        statistics: str | None = None, wrappers: Wrappers | None = None,
    ) -> None:  # fmt: skip
        """Import it and find its form.

        Args:
            spec: `module:callable`.
            spaces: of the environment.
            seed: of its random numbers until `seed` is called.
            envs: the environments; an SB3 model that masks actions asks them.
            statistics: those of an SB3 model's VecNormalize, a file or `none`; by default the model's own.
            wrappers: what an SB3 model was trained behind.

        Raises:
            UsageError: no such module or attribute, or something of no accepted form.
            GatoError: it raised.
        """
        self._name, self._spaces, self._seed = f"--expert {spec}", spaces, seed
        module_name, _, name = spec.partition(":")
        module = import_named(module_name, self._name)
        if not hasattr(module, name):
            raise Misfit(f"{self._name}: module {module_name} has no attribute {name!r}")
        try:
            self._expert = made(getattr(module, name), spaces)
        except Misfit as error:
            raise Misfit(f"{self._name}: {error}; {ACCEPTED}") from None
        except Exception as error:
            raise GatoError(f"{self._name} raised {one_line(error)}") from error
        form = form_of(self._expert, spaces)
        if form is None:
            raise Misfit(f"{self._name}: {described(self._expert)} has none of the accepted forms; {ACCEPTED}")
        self._preprocess: Preprocess | None = None
        if is_sb3(self._expert):
            self._preprocess = preprocess_of(self._expert, spaces, statistics, wrappers, self._name)
            form.mask(masks_of(envs))
        elif statistics is not None or wrappers is not None:
            raise Misfit(f"{self._name}: --expert-statistics and --expert-wrappers are for SB3's models and zips alone")
        self._form, self._reset, self._set_seed = form, self._resetter(), method(self._expert, "seed")
        if self._set_seed is not None and not takes(self._set_seed, 0):
            self._set_seed = None
        path = getattr(module, "__file__", None)
        code = Path(path).read_bytes() if path else b""
        self.provenance = {"kind": "callable", "source": spec, "sha256": hashlib.sha256(code).hexdigest()}
        self._ready = False  # nothing was played since the last reset

    def _resetter(self) -> Callable[[int], object]:
        """Build the call of its `reset`; raises Misfit where that needs what cannot be given."""
        reset = method(self._expert, "reset")
        if reset is None:
            return lambda n: None
        sources = {name: _source(each) for name, each in parameters(reset).items()}
        needed = {name: source for name, source in sources.items() if source != "default"}
        if "nothing" in needed.values() or list(needed.values()).count("n") > 1:
            raise Misfit(f"{self._name}: its reset({', '.join(sources)}) takes what cannot be given; {ACCEPTED}")
        by_place = [name for name in needed if parameters(reset)[name].kind is inspect.Parameter.POSITIONAL_ONLY]

        def call(n: int) -> object:
            values = {"n": n, "seed": self._seed, "options": None}
            place = [values[needed[name]] for name in by_place]
            return reset(*place, **{name: values[of] for name, of in needed.items() if name not in by_place})

        return call

    @property
    def lost(self) -> bool:
        """True if the expert, where it says such a thing, knew no way on in the latest step."""
        said = getattr(self._expert, "lost", False)
        return bool(said) if isinstance(said, bool | np.bool_) else False

    def seed(self, seed: int) -> None:
        """Pass the seed of an episode on, if the expert takes one."""
        self._seed = seed
        if self._set_seed is not None:
            self._guarded(self._set_seed, seed)

    def reset(self, num_envs: int) -> None:
        """Pass the reset on, if the expert takes one."""
        self._form.reset()
        if self._preprocess is not None:
            self._preprocess.reset(num_envs)
        self._guarded(self._reset, num_envs)
        self._ready = True

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """One action for each environment; an expert whose only environment begins an episode is reset.

        Raises:
            GatoError: it raised, or its answer is no action for each environment.
        """
        if start.all() and not self._ready:
            self.reset(len(start))
        self._ready = False
        return self._guarded(self._answer, observation, start)

    def _answer(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        if self._preprocess is not None:
            observation = self._preprocess.observe(observation, start)
        answer = actions_of(self._spaces.action, self._form(observation, start), len(start))
        return answer if self._preprocess is None else self._preprocess.action(answer)

    def _guarded(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Misfit as error:
            raise Misfit(f"{self._name} answered {error}; {ACCEPTED}") from None
        except Exception as error:
            raise GatoError(f"{self._name} raised {one_line(error)}") from error


def check_answer(expert: CallableExpert, envs: VectorEnv[Any, Any, Any], seed: int) -> None:
    """Ask for one action, so that what is none is told before anything is played.

    Whatever else goes wrong is told with its seed when that is played.

    Raises:
        Misfit: the answer to the first observation is no action.
    """
    try:
        observation, _ = envs.reset(seed=[seed])  # type: ignore[arg-type]  # its declared type lacks the list of seeds
        expert.seed(seed)
        expert.reset(1)
        expert.act(observation, np.ones(1, np.bool_))
    except Misfit:
        raise
    except GatoError:
        return


def _source(parameter: inspect.Parameter) -> str:
    """What an argument of `reset` is given: `n`, `seed`, `options`, its `default`, or `nothing` that there is."""
    if parameter.name == "seed":
        return "seed"
    if parameter.name in COUNTS:
        return "n"
    if parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return "default"
    if parameter.name == "options":
        return "options"
    return "nothing" if parameter.name in ELSEWHERE else "n"


def made(target: Any, spaces: Spaces) -> Any:
    """The expert that a name stands for: itself, or what the function or class of that name makes.

    Raises:
        Misfit: it takes other arguments.
        Exception: whatever the function raises.
    """
    makes, known = inspect.isclass(target), parameters(target)
    first, spaces = next(iter(known), ""), deepcopy(spaces)  # they are the maker's own
    if not callable(target) or (not makes and (method(target, "predict") or method(target, "act"))):
        return target
    if not makes and first in OBSERVED:
        return target
    if takes(target, observation_space=None, action_space=None):
        return target(observation_space=spaces.observation, action_space=spaces.action)
    if takes(target) and not any("space" in name or each.kind is each.VAR_POSITIONAL for name, each in known.items()):
        return target()
    if takes(target, None, None):
        return target(*spaces)
    if makes or first in ELSEWHERE or not takes(target, None):
        raise Misfit(f"{described(target)} takes ({', '.join(known)})")
    return target


def described(value: Any) -> str:
    """A value of the user's in a few words."""
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', 'of no name')}({', '.join(parameters(value))})"
    return f"the {type(value).__name__}"
