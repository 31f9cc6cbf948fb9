"""The trained model as an actor, and as a Stable-Baselines3 policy."""

from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from gato_agent import decode
from gato_agent.cache import Cache
from gato_agent.checkpoint import Checkpoint, TrainedTask
from gato_agent.envs.errors import GatoError, SpaceError, UsageError
from gato_agent.envs.structure import Columns, batch, columns, row, stack
from gato_agent.spaces import PAD


class Agent:
    """Plays one task, in any number of environments at once, each with a memory of its own episode.

        agent = Agent.from_pretrained("runs/cartpole", env)
        agent.reset(lanes=1)
        action = agent.act(observations)        # batched, as gymnasium.vector has them

    Args:
        checkpoint: the model and its tasks.
        task: which of them to play.
        device: `cpu`, `cuda`, ... where the model is.
        temperature: 0 for the likeliest action token; otherwise tokens are sampled from softmax(logits / temperature).
        seed: of the sampling; lane i has its own stream.
    """

    def __init__(
        self, checkpoint: Checkpoint, task: TrainedTask, *, device: str = "cpu", temperature: float = 0.0, seed: int = 0
    ) -> None:
        if temperature < 0:
            raise UsageError(f"temperature {temperature} is negative: use 0 for greedy actions, or a positive number")
        self.task = task
        self.model = checkpoint.model
        self.config = checkpoint.model.config
        self.device = torch.device(device)
        self.temperature = temperature
        self.seed = seed
        self.tokenizer = task.tokenizer(self.config, checkpoint.text)
        self._legal = [(int(low), int(high)) for low, high in self.tokenizer.legal]
        # The last action token comes first and the separator last; neither has a place in the observation.
        self._local = torch.tensor([[-1, *range(self.tokenizer.n_obs), -1]], device=self.device)
        self._intervals = torch.from_numpy(self.tokenizer.patch_intervals).to(self.device)
        self._separator = self.config.vocabulary.separator
        self.reset(1)

    @classmethod
    def from_pretrained(
        cls,
        reference: str | Path | None,
        env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any] | str,
        *,
        device: str = "auto",
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Self:
        """Load a checkpoint for an environment.

        Args:
            reference: run folder, checkpoint file, or None for the weights shipped with the package.
            env: the environment to play, or its id.
            device: `auto` takes CUDA where there is one.
            temperature: see `Agent`.
            seed: see `Agent`.

        Raises:
            UsageError: no such checkpoint, or it knows neither the environment's id nor its spaces.
        """
        device = resolve_device(device)
        checkpoint = Checkpoint.load(reference, device)
        return cls(checkpoint, find_task(checkpoint, env), device=device, temperature=temperature, seed=seed)

    def reset(self, lanes: int = 1) -> None:
        """Forget everything and prepare for `lanes` environments."""
        self.lanes = lanes
        self._cache = Cache(self.config, lanes, self.tokenizer.n_obs + 2, device=self.device)
        self._last = torch.full((lanes, 1), PAD, device=self.device)
        self._fresh = np.ones(lanes, dtype=np.bool_)
        self._steps = np.zeros(lanes, dtype=np.int64)
        generators = [torch.Generator().manual_seed(self.seed + lane) for lane in range(lanes)]
        self._choose = decode.sampler(self.temperature, generators) if self.temperature else decode.greedy

    def act(self, observation: Any, start: NDArray[np.bool_] | None = None) -> Any:
        """Choose one action per lane.

        Args:
            observation: batch in the form of `VectorEnv.observation_space`.
            start: bool [lanes], where an episode begins; by default all lanes begin at the first call after `reset`.

        Returns:
            Batch in the form of `VectorEnv.action_space`.

        Raises:
            GatoError: an observation does not belong to the space; names environment, key, lane and step.
        """
        return batch(self.task.action_space, self._act(columns(self.task.observation_space, observation), start))

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """Stable-Baselines3's policy protocol, so that its `evaluate_policy(agent, env)` runs unchanged.

        Args:
            observation: one observation of the space, or a batch of them.
            state: None to begin; afterwards what the last call returned. The memory itself stays in the agent.
            episode_start: bool [n], where an episode begins.
            deterministic: greedy for this call; a temperature of 0 is greedy either way.

        Returns:
            Action (or batch of actions, as the observation was), and the state for the next call.
        """
        space, action_space = self.task.observation_space, self.task.action_space
        single = space.contains(observation)
        given = stack(space, [observation]) if single else columns(space, observation)
        if state is None:
            self.reset(len(next(iter(given.values()))))
            episode_start = None
        choose, self._choose = self._choose, decode.greedy if deterministic else self._choose
        try:
            actions = self._act(given, episode_start)
        finally:
            self._choose = choose
        return row(action_space, actions, 0) if single else batch(action_space, actions), self._cache

    def _act(self, observation: Columns, start: NDArray[np.bool_] | None) -> Columns:
        """Encode, decode, decode again: observations -> tokens -> action tokens -> actions."""
        self._restart(self._fresh if start is None else start)
        tokens, patches = self._encode(observation)
        separator = np.full((self.lanes, 1), self._separator)
        stream = torch.from_numpy(np.concatenate((tokens, separator), axis=1)).to(self.device, torch.int64)
        prefill = decode.Prefill(
            torch.cat((self._last, stream), dim=1),
            self._local.expand(self.lanes, -1),
            torch.from_numpy(patches.reshape(-1, *patches.shape[2:])).to(self.device) if patches.size else None,
            self._intervals.repeat(self.lanes, 1, 1) if patches.size else None,
        )
        action = decode.control_step(self.model, self._cache, prefill, self._legal, self._choose)
        self._last = action[:, -1:]
        self._steps += 1
        return self.tokenizer.decode_actions(action.cpu().numpy())

    def _restart(self, start: NDArray[np.bool_]) -> None:
        """Begin new episodes in some lanes; in their first pass a PAD stands where the last action token would."""
        if start.any():
            lanes = torch.from_numpy(start).to(self.device)
            self._cache.restart(lanes, age=-1)  # so that the PAD has index -1 and the observation begins at 0
            self._last = self._last.masked_fill(lanes.unsqueeze(1), PAD)
            self._steps[start] = 0
        self._fresh = np.zeros(self.lanes, dtype=np.bool_)

    def _encode(self, observation: Columns) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Tokens [lanes, n_obs] and patches [lanes, k, 16, 16, 4] of a batch of observations."""
        try:
            return self.tokenizer.encode_observations(observation)
        except SpaceError as error:
            where = "" if error.row is None else f" in lane {error.row}, step {self._steps[error.row]}"
            raise GatoError(f"{self.task.id}: observation{where}: {error}") from error


def resolve_device(device: str) -> str:
    """`auto` -> CUDA where there is one; raises UsageError for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"no CUDA device here for --device {device}: use --device cpu")
    return device


def find_task(checkpoint: Checkpoint, env: Any) -> TrainedTask:
    """The checkpoint's task of this environment: by id, else by equal spaces; UsageError says what it does know."""
    known = ", ".join(checkpoint.tasks)
    if isinstance(env, str):
        if env not in checkpoint.tasks:
            raise UsageError(
                f"{checkpoint.name} was not trained on {env} (it plays {known}): "
                f"train on it with `gato-agent collect --env {env}` and `gato-agent train`"
            )
        return checkpoint.tasks[env]
    observation_space = getattr(env, "single_observation_space", env.observation_space)
    action_space = getattr(env, "single_action_space", env.action_space)
    spec = getattr(env, "envs", [env])[0].spec  # a vector of environments that were made one by one has no spec
    name = type(env).__name__ if spec is None else spec.id
    same = [
        task for task in checkpoint.tasks.values()
        if (task.observation_space, task.action_space) == (observation_space, action_space)
    ]  # fmt: skip
    task = checkpoint.tasks.get(name)
    if task is not None and task not in same:
        raise UsageError(
            f"{name} has other spaces than {checkpoint.name} was trained on: observations {observation_space} and not "
            f"{task.observation_space}, actions {action_space} and not {task.action_space}; collect and train again"
        )
    if task is None and len(same) != 1:
        raise UsageError(
            f"{checkpoint.name} does not know {name} with observations {observation_space} and actions {action_space} "
            f"(it plays {known}): collect episodes of it and train"
        )
    return task or same[0]
