"""One loop for every actor: playing, collecting and evaluating only consume its stream of steps.

    environment 0:  Step(seed=0, t=0) Step(seed=0, t=1, terminated) Step(seed=2, t=0) ...
    environment 1:  Step(seed=1, t=0) Step(seed=1, t=1)             Step(seed=1, t=2, truncated) ...

Every episode has a seed of its own; an environment that finishes takes the next seed while the others play on. The
loop is the border between environments, actors and receivers of steps: each gets copies of its own, see ownership.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.ownership import INFO_DEPTH, owned
from gato_agent.envs.spaces.batch_of_one import batch_of_one, each_one, only_one
from gato_agent.envs.vector import INFOS, SeparateInfos


class Actor(Protocol):
    """Whatever turns observations into actions: an expert, the agent, a random policy."""

    def reset(self, num_envs: int) -> None:
        """Forget everything and prepare for `environments` environments."""

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Choose one action per environment.

        Args:
            observation: batch in the form of `VectorEnv.observation_space`, leading size `num_envs`. It belongs to
                the actor, which may keep it or write into it.
            start: bool [num_envs], true where this is the first observation of an episode; likewise.

        Returns:
            Batch in the form of `VectorEnv.action_space`. It stays the actor's, which may use it again: the loop copies
            it before anything else runs.
        """


class Step(NamedTuple):
    """One transition of one environment; `t` counts from 0 within the episode. Its arrays belong to the receiver."""

    env_index: int
    seed: int
    t: int
    obs: Any
    action: Any
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    next_obs: Any

    @property
    def done(self) -> bool:
        """Whether the episode ends with this step."""
        return self.terminated or self.truncated


def steps(actor: Actor, envs: VectorEnv[Any, Any, Any], seeds: Iterable[int]) -> Iterator[Step]:
    """Play one episode per seed and yield every step, environments interleaved.

    Args:
        actor: reset once with the number of environments, then asked for one batch of actions per step.
        envs: vectorised environments as `make_vector` makes them.
        seeds: one environment seed per episode, taken in order as environments become free.

    Raises:
        GatoError: the actor or an environment failed; the message names environment, seed and step.
        ValueError: if `envs` resets its environments by itself, which would hide final observations, or batches infos.
    """
    if not isinstance(envs, SeparateInfos):
        raise ValueError("steps() resets environments itself, and takes their infos apart: make them with make_vector")
    if envs.num_envs == 1:
        yield from _one_env(actor, envs, seeds)
        return
    queue, num_envs = iter(seeds), envs.num_envs
    seed = [next(queue, None) for _ in range(num_envs)]  # None: the environment has nothing left to play
    if seed[0] is None:
        return
    # A vector environment steps every environment, so an environment without a seed replays the first one, unseen.
    spare, t, start = seed[0], [0] * num_envs, np.ones(num_envs, dtype=np.bool_)
    reset: Any = envs.reset  # its declared type lacks the list of seeds
    _begin(actor, envs, seed)
    observed = owned(reset(seed=[spare if s is None else s for s in seed])[0])
    while True:
        obs = each_one(envs.single_observation_space, owned(observed), num_envs)
        actions, acted = _asked(actor, envs, observed, start.copy(), seed, t)
        batch, rewards, terminated, truncated, infos = envs.step(owned(actions))
        observed = owned(batch)
        next_obs = each_one(envs.single_observation_space, owned(observed), num_envs)
        results = zip(acted, rewards.tolist(), terminated.tolist(), truncated.tolist(), strict=True)
        for env_index, (action, reward, terminal, cut) in enumerate(results):
            if (s := seed[env_index]) is not None:
                info = infos[INFOS][env_index]
                yield Step(
                    env_index, s, t[env_index], obs[env_index], action, reward, terminal, cut, info, next_obs[env_index]
                )
            t[env_index] += 1
            if terminal or cut:
                seed[env_index], t[env_index] = next(queue, None), 0
        start = np.logical_or(terminated, truncated)
        if start.any():
            if all(s is None for s in seed):
                return
            again = [spare if s is None else s for s in seed]
            observed = owned(reset(seed=again, options={"reset_mask": start.copy()})[0])


def _one_env(actor: Actor, envs: SeparateInfos, seeds: Iterable[int]) -> Iterator[Step]:
    """Play one environment past its vector environment: the same stream in a fraction of the time."""
    env = envs.envs[0]
    batch, one = batch_of_one(envs.single_observation_space), only_one(envs.single_observation_space, copy=True)
    acted = only_one(envs.single_action_space, copy=True)
    first, later = np.ones(1, dtype=np.bool_), np.zeros(1, dtype=np.bool_)
    ready = False
    for seed in seeds:
        if not ready:
            _begin(actor, envs, [seed])
            ready = True
        value, info = env.reset(seed=seed)
        envs.keep_mask(0, info)
        observed, start, t, done = batch(value), first, 0, False
        while not done:
            obs = one(observed)
            try:
                action = acted(actor.act(observed, start.copy()))
            except BaseException as error:
                raise _at(envs, [seed], [t], error) from error
            value, reward, terminated, truncated, info = env.step(owned(action))
            envs.keep_mask(0, info)
            observed, info = batch(value), owned(info, INFO_DEPTH)
            terminal, cut, next_obs = bool(terminated), bool(truncated), one(observed)
            yield Step(0, seed, t, obs, action, float(reward), terminal, cut, info, next_obs)
            start, t, done = later, t + 1, terminal or cut


def _begin(actor: Actor, envs: SeparateInfos, seeds: Sequence[int | None]) -> None:
    """Prepare the actor; raises GatoError naming the environment and the seeds."""
    try:
        actor.reset(len(seeds))
    except BaseException as error:
        raise _at(envs, seeds, [0] * len(seeds), error) from error


def _asked(
    actor: Actor, envs: SeparateInfos, batch: Any, start: NDArray[np.bool_],
    seeds: Sequence[int | None], t: Sequence[int],
) -> tuple[Any, list[Any]]:  # fmt: skip
    """The batch of actions, and each of them; raises GatoError naming the environment, the seeds and the steps."""
    try:
        actions = owned(actor.act(batch, start))
        return actions, each_one(envs.single_action_space, actions, envs.num_envs)
    except BaseException as error:
        raise _at(envs, seeds, t, error) from error


def _at(envs: SeparateInfos, seeds: Sequence[int | None], t: Sequence[int], error: BaseException) -> BaseException:
    """The error of an actor with the environment, the seeds and the steps that it was asked about; or an interrupt."""
    if isinstance(error, KeyboardInterrupt):
        return error
    name = envs.get_attr("spec")[0].id if envs.get_attr("spec")[0] else type(envs.envs[0].unwrapped).__name__
    asked = [f"step {step} of seed {seed}" for seed, step in zip(seeds, t, strict=True) if seed is not None]
    where = " and ".join(asked[:2]) + (f" and {len(asked) - 2} more" if len(asked) > 2 else "")
    if isinstance(error, GatoError):
        kind = UsageError if isinstance(error, UsageError) else GatoError
        return kind(f"{name}: {where}: {str(error).removeprefix(f'{name}: ')}")
    return GatoError(f"{name}: {where}: to choose an action raised {one_line(error)}")
