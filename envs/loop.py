"""The loop that runs any actor: playing, collecting and evaluating consume its stream of steps.

    environment 0:  Step(seed=0, t=0) Step(seed=0, t=1, terminated) Step(seed=2, t=0) ...
    environment 1:  Step(seed=1, t=0) Step(seed=1, t=1)             Step(seed=1, t=2, truncated) ...

Every episode has its own seed. An environment that finishes takes the next seed while the others go on. Environments,
actors and consumers of steps each get their own copies of arrays, see ownership.py.
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
    """A policy in any form: an expert, the agent, or random actions."""

    def reset(self, num_envs: int) -> None:
        """Clear all state and prepare for `num_envs` environments."""

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Choose one action per environment.

        Args:
            observation: batch of `VectorEnv.observation_space`, leading size `num_envs`. It is the actor's own copy,
                which may be stored or written into.
            start: bool [num_envs], true at the first observation of an episode; also the actor's own copy.

        Returns:
            Batch of `VectorEnv.action_space`. The loop copies it at once, so the actor may reuse the arrays.
        """


class Step(NamedTuple):
    """One transition of one environment; `t` counts from 0 within the episode. Its arrays are the consumer's own."""

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
        """True if the episode ends with this step."""
        return self.terminated or self.truncated


def steps(actor: Actor, envs: VectorEnv[Any, Any, Any], seeds: Iterable[int]) -> Iterator[Step]:
    """Play one episode per seed and yield every step, environments interleaved.

    Args:
        actor: reset once with the number of environments, then called once per step for a batch of actions.
        envs: vectorised environments from `make_vector`.
        seeds: one environment seed per episode, taken in order as environments become free.

    Raises:
        GatoError: the actor or an environment failed; the message names environment, seed and step.
        ValueError: `envs` is not from `make_vector`: autoreset would hide final observations.
    """
    if not isinstance(envs, SeparateInfos):
        raise ValueError("steps() resets environments and separates their infos: make them with make_vector")
    queue, t = iter(seeds), [0] * envs.num_envs
    seed = [next(queue, None) for _ in t]  # None: no episode is left for this environment
    if seed[0] is None:
        return
    try:
        yield from (_one_env if envs.num_envs == 1 else _several_envs)(actor, envs, queue, seed, t)
    except (GatoError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # such as from copying an info
        raise GatoError(f"{_place(envs, seed, t)}: {one_line(error)}") from error


def _several_envs(
    actor: Actor, envs: SeparateInfos, queue: Iterator[int], seed: list[int | None], t: list[int]
) -> Iterator[Step]:
    """Play environments together; `seed` and `t` are kept at their latest steps."""
    num_envs = envs.num_envs
    # A vector environment steps every environment, so one without a seed replays the first, and is not yielded.
    spare, start = seed[0], np.ones(num_envs, dtype=np.bool_)
    reset: Any = envs.reset  # its declared type lacks the list of seeds
    _begin(actor, envs, seed)
    observed = owned(reset(seed=[spare if s is None else s for s in seed])[0])
    while True:
        obs = each_one(envs.single_observation_space, owned(observed), num_envs)
        actions, acted = _choose_actions(actor, envs, observed, start.copy(), seed, t)
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


def _one_env(
    actor: Actor, envs: SeparateInfos, queue: Iterator[int], seeds: list[int | None], t: list[int]
) -> Iterator[Step]:
    """Play one environment directly, without the vector environment's overhead; the same stream."""
    env = envs.envs[0]
    batch, one = batch_of_one(envs.single_observation_space), only_one(envs.single_observation_space, copy=True)
    acted = only_one(envs.single_action_space, copy=True)
    first, later = np.ones(1, dtype=np.bool_), np.zeros(1, dtype=np.bool_)
    _begin(actor, envs, seeds)
    while (seed := seeds[0]) is not None:
        value, info = env.reset(seed=seed)
        envs.keep_mask(0, info)
        observed, start, done = batch(value), first, False
        while not done:
            obs = one(observed)
            try:
                action = acted(actor.act(observed, start.copy()))
            except BaseException as error:
                raise _actor_error(envs, seeds, t, error) from error
            value, reward, terminated, truncated, info = env.step(owned(action))
            envs.keep_mask(0, info)
            observed, info = batch(value), owned(info, INFO_DEPTH)
            terminal, cut, next_obs = bool(terminated), bool(truncated), one(observed)
            yield Step(0, seed, t[0], obs, action, float(reward), terminal, cut, info, next_obs)
            start, t[0], done = later, t[0] + 1, terminal or cut
        seeds[0], t[0] = next(queue, None), 0


def _begin(actor: Actor, envs: SeparateInfos, seeds: Sequence[int | None]) -> None:
    """Reset the actor; raises GatoError naming the environment and the seeds."""
    try:
        actor.reset(len(seeds))
    except BaseException as error:
        raise _actor_error(envs, seeds, [0] * len(seeds), error) from error


def _choose_actions(
    actor: Actor, envs: SeparateInfos, batch: Any, start: NDArray[np.bool_],
    seeds: Sequence[int | None], t: Sequence[int],
) -> tuple[Any, list[Any]]:  # fmt: skip
    """A batch of actions and the list of its actions; raises GatoError naming the environment, seeds and steps."""
    try:
        actions = owned(actor.act(batch, start))
        return actions, each_one(envs.single_action_space, actions, envs.num_envs)
    except BaseException as error:
        raise _actor_error(envs, seeds, t, error) from error


def _actor_error(
    envs: SeparateInfos, seeds: Sequence[int | None], t: Sequence[int], error: BaseException
) -> BaseException:
    """An actor's exception as a GatoError that names environment, seeds and steps; KeyboardInterrupt as it is."""
    if isinstance(error, KeyboardInterrupt):
        return error
    place = _place(envs, seeds, t)
    if isinstance(error, GatoError):
        kind = UsageError if isinstance(error, UsageError) else GatoError
        return kind(f"{place}: {str(error).removeprefix(place.partition(': ')[0] + ': ')}")
    return GatoError(f"{place}: choosing an action raised {one_line(error)}")


def _place(envs: SeparateInfos, seeds: Sequence[int | None], t: Sequence[int]) -> str:
    """Environment, seeds and steps of an error."""
    name = envs.get_attr("spec")[0].id if envs.get_attr("spec")[0] else type(envs.envs[0].unwrapped).__name__
    episodes = [f"step {step} of seed {seed}" for seed, step in zip(seeds, t, strict=True) if seed is not None]
    where = " and ".join(episodes[:2]) + (f" and {len(episodes) - 2} more" if len(episodes) > 2 else "")
    return f"{name}: {where}"
