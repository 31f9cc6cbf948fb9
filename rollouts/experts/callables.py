"""Experts that users write in Python, `--expert module:callable`, as Actors.

The callable is a function `(observation_space, action_space)` or `()` that makes the expert, a class with such a
constructor, or the expert itself; forms.py lists the forms of an expert. Its name comes from the command line, never
from a file.
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
from gato_agent.rollouts.experts.action_batches import Misfit, actions_of
from gato_agent.rollouts.experts.forms import ACCEPTED, Spaces, form_of, method, parameters, takes
from gato_agent.rollouts.experts.sb3.loaded_model import is_sb3, masks_of, preprocess_of
from gato_agent.rollouts.experts.sb3.obs_wrappers import Wrappers
from gato_agent.rollouts.experts.sb3.preprocess import Preprocess

COUNTS = {"lanes", "n_lanes", "n", "n_envs", "num_envs", "batch_size"}  # arguments of `reset` that count environments
OBSERVED = {"obs", "observation", "observations"}  # first arguments of functions that act
ELSEWHERE = {"env", "environment", "env_id", *OBSERVED}  # arguments that are not available


class CallableExpert:
    """Actor for a user's `module:callable`."""

    def __init__(
        self, spec: str, spaces: Spaces, seed: int = 0, *, envs: VectorEnv[Any, Any, Any] | None = None,
        statistics: str | None = None, wrappers: Wrappers | None = None,
    ) -> None:  # fmt: skip
        """Import the callable and find its form.

        Args:
            spec: `module:callable`.
            spaces: spaces of the environment.
            seed: seed of its random numbers until `seed` is called.
            envs: environments, which give an SB3 model its action masks.
            statistics: VecNormalize statistics of an SB3 model, a file or `none`; by default the model's own.
            wrappers: wrappers of an SB3 model's training.

        Raises:
            UsageError: no such module or attribute, or an object of no accepted form.
            GatoError: the module or callable raised.
        """
        self._name, self._spaces, self._seed = f"--expert {spec}", spaces, seed
        module_name, _, name = spec.partition(":")
        module = import_named(module_name, self._name)
        if not hasattr(module, name):
            raise Misfit(f"{self._name}: module {module_name} has no attribute {name!r}")
        try:
            self._expert = make_expert(getattr(module, name), spaces)
        except KeyboardInterrupt:
            raise
        except Misfit as error:
            raise Misfit(f"{self._name}: {error}; {ACCEPTED}") from None
        except BaseException as error:  # a constructor may call sys.exit
            raise GatoError(f"{self._name} raised {one_line(error)}") from error
        form = form_of(self._expert, spaces)
        if form is None:
            raise Misfit(f"{self._name}: {described(self._expert)} has none of the accepted forms; {ACCEPTED}")
        self._preprocess: Preprocess | None = None
        if is_sb3(self._expert):
            self._preprocess = preprocess_of(self._expert, spaces, statistics, wrappers, self._name)
            form.mask(masks_of(envs))
        elif statistics is not None or wrappers is not None:
            raise Misfit(f"{self._name}: --expert-statistics and --expert-wrappers are for SB3 models and zips only")
        self._form, self._reset, self._set_seed = form, self._resetter(), method(self._expert, "seed")
        if self._set_seed is not None and not takes(self._set_seed, 0):
            self._set_seed = None
        path = getattr(module, "__file__", None)
        code = Path(path).read_bytes() if path else b""
        self.provenance = {"kind": "callable", "source": spec, "sha256": hashlib.sha256(code).hexdigest()}
        self._ready = False  # true if no action was taken since the last reset

    def _resetter(self) -> Callable[[int], object]:
        """Build the call of the expert's `reset`; raises Misfit if an argument is not available."""
        reset = method(self._expert, "reset")
        if reset is None:
            return lambda n: None
        sources = {name: _source(each) for name, each in parameters(reset).items()}
        needed = {name: source for name, source in sources.items() if source != "default"}
        if "nothing" in needed.values() or list(needed.values()).count("n") > 1:
            raise Misfit(f"{self._name}: its reset({', '.join(sources)}) has an unknown argument; {ACCEPTED}")
        by_place = [name for name in needed if parameters(reset)[name].kind is inspect.Parameter.POSITIONAL_ONLY]

        def call(n: int) -> object:
            values = {"n": n, "seed": self._seed, "options": None}
            place = [values[needed[name]] for name in by_place]
            return reset(*place, **{name: values[of] for name, of in needed.items() if name not in by_place})

        return call

    @property
    def lost(self) -> bool:
        """True if the expert has a bool attribute `lost` that is true: it had no plan in the latest step."""
        lost = getattr(self._expert, "lost", False)
        return bool(lost) if isinstance(lost, bool | np.bool_) else False

    def seed(self, seed: int) -> None:
        """Call the expert's `seed`, if it has one."""
        self._seed = seed
        if self._set_seed is not None:
            self._call(self._set_seed, seed)

    def reset(self, num_envs: int) -> None:
        """Call the expert's `reset`, if it has one."""
        self._form.reset()
        if self._preprocess is not None:
            self._preprocess.reset(num_envs)
        self._call(self._reset, num_envs)
        self._ready = True

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """One action for each environment; the expert is reset if all environments begin an episode.

        Raises:
            GatoError: the expert raised, or did not return an action for each environment.
        """
        if start.all() and not self._ready:
            self.reset(len(start))
        self._ready = False
        return self._call(self._answer, observation, start)

    def _answer(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        if self._preprocess is not None:
            observation = self._preprocess.observe(observation, start)
        answer = actions_of(self._spaces.action, self._form(observation, start), len(start))
        return answer if self._preprocess is None else self._preprocess.action(answer)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except KeyboardInterrupt:
            raise
        except Misfit as error:
            raise Misfit(f"{self._name} returned {error}; {ACCEPTED}") from None
        except BaseException as error:  # an expert may call sys.exit
            raise GatoError(f"{self._name} raised {one_line(error)}") from error


def check_answer(expert: CallableExpert, envs: VectorEnv[Any, Any, Any], seed: int) -> None:
    """Compute one action, to refuse an expert of the wrong form before any episode is played.

    Other errors are ignored here; they are raised again when the episode is played.

    Raises:
        Misfit: the result for the first observation is no action.
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
    """Source of an argument of `reset`: `n`, `seed`, `options`, its `default`, or `nothing` if not available."""
    if parameter.name == "seed":
        return "seed"
    if parameter.name in COUNTS:
        return "n"
    if parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return "default"
    if parameter.name == "options":
        return "options"
    return "nothing" if parameter.name in ELSEWHERE else "n"


def make_expert(target: Any, spaces: Spaces) -> Any:
    """Make the expert by calling a function or class, or return `target` if it is the expert itself.

    Raises:
        Misfit: the function takes other arguments.
        Exception: the function raised.
    """
    makes, known = inspect.isclass(target), parameters(target)
    first, spaces = next(iter(known), ""), deepcopy(spaces)  # the function may change them
    if not callable(target) or (not makes and (method(target, "predict") or method(target, "act"))):
        return target
    if not makes and first in OBSERVED:
        return target
    if takes(target, observation_space=None, action_space=None):
        return target(observation_space=spaces.observation, action_space=spaces.action)
    if takes(target) and not any("space" in name or each.kind is each.VAR_POSITIONAL for name, each in known.items()):
        return target()
    if first not in ELSEWHERE and takes(target, None, None):
        return target(*spaces)
    if makes or first in ELSEWHERE or not takes(target, None):
        raise Misfit(f"{described(target)} takes ({', '.join(known)})")
    return target


def described(value: Any) -> str:
    """Short description of a user's object, for messages."""
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', 'of no name')}({', '.join(parameters(value))})"
    return f"the {type(value).__name__}"
