"""BabyAI's own bot as an expert. It looks into the environment, and answers for any state that an episode comes to.

The bot keeps a plan and has to be told which action was executed. That may be another than it chose (noise, a learner),
so it is read off the environment itself. Where the bot gets lost, it plans afresh with what it has seen so far. Where
there is no plan at all (some episodes lock a key into the room that it opens), it waits.
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

MOST_LOOKS = 100  # at the plan before one action; honest planning takes some ten
MOST_IDLE = 3  # steps on which nothing happens, then the plan is taken for stuck
LOST = (AssertionError, AttributeError, LookupError, TypeError, RuntimeError, babyai_bot.DisappearedBoxError)
_log = logging.getLogger(__name__)


class Scene(NamedTuple):
    """All that an action can change, as far as the bot cares."""

    position: tuple[int, int]
    direction: int
    carrying: Any
    ahead: Any
    open: bool


class BabyAIExpert:
    """One bot per environment, a new one for each episode; the same mission gives the same actions."""

    def __init__(self, env_id: str, envs: Sequence[gym.Env[Any, Any]]) -> None:
        code = inspect.getsource(babyai_bot).encode()
        self.provenance = {
            "kind": "scripted",
            "source": "minigrid BabyAIBot",
            "sha256": hashlib.sha256(code).hexdigest(),
        }
        self._guides = [Guide(env_id, env) for env in envs]

    def seed(self, seed: int) -> None:
        """Nothing to do: the bot draws no random numbers."""

    def reset(self, num_envs: int) -> None:
        """Prepare for the environments that the environments were given for; raises ValueError for another number."""
        if num_envs != len(self._guides):
            raise ValueError(f"the bot looks into {len(self._guides)} environments, not into {num_envs}")

    def act(self, observation: Any, start: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The bots' actions [num_envs]; they look at the environments and at no observation."""
        return np.array([guide.next(bool(new)) for guide, new in zip(self._guides, start, strict=True)])

    @property
    def lost(self) -> bool:
        """Whether the latest actions are no more than waiting in an environment, for lack of a plan."""
        return any(guide.waits for guide in self._guides)


class Guide:
    """Follows one environment and says what to do next.

    Attributes:
        waits: whether it did not know, and said to do nothing.
    """

    def __init__(self, env_id: str, env: gym.Env[Any, Any]) -> None:
        self._env_id = env_id
        self._lane = env
        self._env: Any = env.unwrapped
        self._bot: Any = None
        self._before: Scene | None = None
        self._idle = 0
        self._lost: Scene | None = None  # where there was no plan
        self.waits = False

    def next(self, start: bool) -> int:
        """The action for the state that the environment is in."""
        self._env = self._lane.unwrapped
        scene = look(self._env)
        if start or self._before is None:
            self._bot, self._idle, self._lost, taken = Bot(self._env), 0, None, None
        else:
            taken = executed(self._before, scene, self._env.actions)
            self._idle = self._idle + 1 if taken == self._env.actions.done else 0
        self._before = scene
        self.waits = scene == self._lost
        if self.waits:
            return int(self._env.actions.done)
        if self._idle <= MOST_IDLE:
            try:
                action = self._bot.replan(taken)
                if self._bot.stack:
                    return int(action)
            except LOST:
                pass  # most often because an action was executed that it would not have chosen
        return self._afresh(scene)

    def _afresh(self, scene: Scene) -> int:
        """Begin a new plan with what was seen; `done`, which does nothing, where there is none."""
        try:
            self._bot, self._idle = Bot(self._env, self._bot.vis_mask), 0
            return int(self._bot.replan())
        except LOST as error:
            if self._lost is None:
                why = one_line(error)
                _log.warning("%s: the bot knows no way in this episode (%s): it waits for its end", self._env_id, why)
            self._lost, self.waits = scene, True
            return int(self._env.actions.done)


class Bot(babyai_bot.BabyAIBot):
    """The package's bot, able to begin in the middle of an episode, and never planning for ever."""

    def __init__(self, env: Any, seen: NDArray[np.bool_] | None = None) -> None:
        """Plan for what is left of the mission of `env`; `seen` marks the cells that are known already."""
        super().__init__(env)  # type: ignore[no-untyped-call]
        self.stack: Plan = Plan(self.stack)
        if seen is not None:
            self.vis_mask = seen
            if env.carrying is not None:  # its plans begin with empty hands
                place = self._find_drop_pos()  # type: ignore[no-untyped-call]
                self.stack.append(babyai_bot.DropSubgoal(self))
                self.stack.append(babyai_bot.GoNextToSubgoal(self, place))

    def replan(self, action_taken: int | None = None) -> int:
        """As in the package; raises RuntimeError where that would not end."""
        self.stack.looks = 0
        action: int = super().replan(action_taken)  # type: ignore[no-untyped-call]
        return action

    def _process_instr(self, instr: Any) -> None:
        """Plan an instruction; of two, only what is not done yet."""
        done = [getattr(instr, name, False) == "success" for name in ("a_done", "b_done")]
        if any(done):
            self._process_instr(instr.instr_b if done[0] else instr.instr_a)
        else:
            super()._process_instr(instr)  # type: ignore[no-untyped-call]


class Plan(list[Any]):
    """The bot's stack of goals, which it looks at in every round of its planning."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        """A goal; raises RuntimeError once it was looked at too often."""
        self.looks += 1
        if self.looks > MOST_LOOKS:
            raise RuntimeError("it plans in circles")
        return super().__getitem__(index)


def look(env: Any) -> Scene:
    """What can be seen of the last action's effect."""
    ahead = env.grid.get(*env.front_pos)
    position = int(env.agent_pos[0]), int(env.agent_pos[1])
    return Scene(position, int(env.agent_dir), env.carrying, ahead, bool(getattr(ahead, "is_open", False)))


def executed(before: Scene, after: Scene, actions: Any) -> int:
    """The action that leads from one scene to the other; `done`, which does nothing, if they are alike."""
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
