"""BabyAI's own bot as an expert, which reads the environment's state and can act from any state of an episode.

The bot updates its plan by the executed action, which may be another than it chose (noise, a learner), so that action
is inferred from the environment. If a plan fails, the bot plans again with the cells seen so far. Without any plan
(some episodes lock a key into the room that it opens), it waits.
"""

import hashlib
import inspect
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import minigrid.utils.baby_ai_bot as babyai_bot
import numpy as np
from numpy.typing import NDArray

from gato_agent.envs.errors import one_line

MOST_LOOKS = 100  # reads of the plan before one action; planning without a cycle takes some ten
MOST_IDLE = 3  # steps without effect, after which the bot plans again
LOST = (AssertionError, AttributeError, LookupError, TypeError, RuntimeError, babyai_bot.DisappearedBoxError)
_log = logging.getLogger(__name__)


class State(NamedTuple):
    """The part of the environment's state that an action can change and the bot uses."""

    position: tuple[int, int]
    direction: int
    carrying: Any
    ahead: Any
    open: bool


class BabyAIExpert:
    """Expert with one bot per environment and episode; its actions are a function of the mission."""

    def __init__(self, env_id: str, envs: Sequence[gym.Env[Any, Any]]) -> None:
        code = inspect.getsource(babyai_bot).encode()
        self.provenance = {
            "kind": "scripted",
            "source": "minigrid BabyAIBot",
            "sha256": hashlib.sha256(code).hexdigest(),
        }
        self._bots = [EpisodeBot(env_id, env) for env in envs]

    def seed(self, seed: int) -> None:
        """Nothing to do: the bot draws no random numbers."""

    def reset(self, num_envs: int) -> None:
        """Check the number of environments; raises ValueError for another number than at construction."""
        if num_envs != len(self._bots):
            raise ValueError(f"the bot has {len(self._bots)} environments, not {num_envs}")

    def act(self, observation: Any, start: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Actions [num_envs]; the bots read the environments and ignore the observations."""
        return np.array([bot.next(bool(new)) for bot, new in zip(self._bots, start, strict=True)])

    @property
    def lost(self) -> bool:
        """True if a bot has no plan and waits."""
        return any(bot.waits for bot in self._bots)


class EpisodeBot:
    """Bot of one environment, replaced in each episode.

    Attributes:
        waits: true if there was no plan, and the latest action does nothing.
    """

    def __init__(self, env_id: str, env: gym.Env[Any, Any]) -> None:
        self._env_id = env_id
        self._wrapped = env
        self._env: Any = env.unwrapped
        self._bot: Any = None
        self._before: State | None = None
        self._idle = 0
        self._lost: State | None = None  # the state without a plan
        self._reported = False
        self.waits = False

    def next(self, start: bool) -> int:
        """Action for the environment's current state; `start` is true in a new episode."""
        self._env = self._wrapped.unwrapped
        state = observe(self._env)
        if start or self._before is None:
            self._bot, self._idle, self._lost, taken = Bot(self._env), 0, None, None
        else:
            taken = executed(self._before, state, self._env.actions)
            self._idle = self._idle + 1 if taken == self._env.actions.done else 0
        self._before = state
        self.waits = state == self._lost
        if self.waits:
            return int(self._env.actions.done)
        if self._idle <= MOST_IDLE:
            try:
                action = self._bot.replan(taken)
                if self._bot.stack:
                    return int(action)
            except LOST:
                pass  # usually because another action than the bot's was executed
        return self._replan(state)

    def _replan(self, state: State) -> int:
        """Plan again with the cells seen so far; without a plan return `done`, which does nothing."""
        try:
            self._bot, self._idle = Bot(self._env, self._bot.vis_mask), 0
            return int(self._bot.replan())
        except LOST as error:
            if not self._reported:
                why = one_line(error)
                _log.warning("%s: the bot has no plan in some episodes (%s): there it only waits", self._env_id, why)
            self._lost, self.waits, self._reported = state, True, True
            return int(self._env.actions.done)


class Bot(babyai_bot.BabyAIBot):
    """The package's bot, which can also start in the middle of an episode and stops planning in cycles."""

    def __init__(self, env: Any, seen: NDArray[np.bool_] | None = None) -> None:
        """Plan the rest of the mission of `env`; `seen` is the mask of known cells."""
        super().__init__(env)  # type: ignore[no-untyped-call]
        self.stack: Plan = Plan(self.stack)
        if seen is not None:
            self.vis_mask = seen
            if env.carrying is not None:  # the package's plans begin with empty hands
                place = self._find_drop_pos()  # type: ignore[no-untyped-call]
                self.stack.append(babyai_bot.DropSubgoal(self))
                self.stack.append(babyai_bot.GoNextToSubgoal(self, place))

    def replan(self, action_taken: int | None = None) -> int:
        """Next action of the plan, as in the package; raises RuntimeError for a cycle."""
        self.stack.looks = 0
        action: int = super().replan(action_taken)  # type: ignore[no-untyped-call]
        return action

    def _process_instr(self, instr: Any) -> None:
        """Plan an instruction; of a compound one, only the part that is not done."""
        done = [getattr(instr, name, False) == "success" for name in ("a_done", "b_done")]
        if any(done):
            self._process_instr(instr.instr_b if done[0] else instr.instr_a)
        else:
            super()._process_instr(instr)  # type: ignore[no-untyped-call]


class Plan(list[Any]):
    """The bot's stack of goals, which counts its reads to detect cycles."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        """Read a goal; raises RuntimeError after MOST_LOOKS reads."""
        self.looks += 1
        if self.looks > MOST_LOOKS:
            raise RuntimeError("it plans in a cycle")
        return super().__getitem__(index)


def observe(env: Any) -> State:
    """Read the part of an environment's state that an action can change."""
    ahead = env.grid.get(*env.front_pos)
    position = int(env.agent_pos[0]), int(env.agent_pos[1])
    return State(position, int(env.agent_dir), env.carrying, ahead, bool(getattr(ahead, "is_open", False)))


def executed(before: State, after: State, actions: Any) -> int:
    """Action that leads from one state to the other; `done`, which does nothing, if they are equal."""
    if before.direction != after.direction:
        action = actions.right if (before.direction + 1) % 4 == after.direction else actions.left
    elif before.position != after.position:
        action = actions.forward
    elif before.carrying is not after.carrying:
        action = actions.drop if after.carrying is None else actions.pickup
    elif before.ahead is not after.ahead or before.open != after.open:
        action = actions.toggle
    else:
        action = actions.done
    return int(action)
