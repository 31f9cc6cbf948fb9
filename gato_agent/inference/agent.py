"""Agent: a trained model as an actor, and as a Stable-Baselines3 policy."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.hub import load_checkpoint, push
from gato_agent.checkpoints.task_matching import find_task
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError, SpaceError, UsageError
from gato_agent.envs.predict_state import PredictState, claimed_num_envs
from gato_agent.envs.spaces.flatten import Columns, batch, columns, row, stack
from gato_agent.inference.action_mask import ActionMasks
from gato_agent.inference.decoders.decoder import Precision
from gato_agent.inference.decoders.make_decoder import make_decoder
from gato_agent.inference.decoders.sampling import check_temperature
from gato_agent.inference.distribution import LeafDistribution
from gato_agent.inference.options import DecodingOptions, resolve_device
from gato_agent.inference.prompting import Prompter
from gato_agent.inference.step_inputs import batch_columns, is_single, num_envs_of
from gato_agent.inference.stepper import Stepper
from gato_agent.native.build import check_threads
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import Kind

P = ParamSpec("P")
R = TypeVar("R")


def _in_turn(method: Callable[Concatenate["Agent", P], R]) -> Callable[Concatenate["Agent", P], R]:
    """Decorator of a method that one thread at a time may run, since a step changes the memory."""

    @wraps(method)
    def locked(self: "Agent", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


class Agent:
    """A trained model that plays one task in any number of environments, each with the memory of its own episode.

    Threads may share it: its methods take turns.

        agent = Agent.from_pretrained("runs/cartpole", env)
        agent.reset(num_envs=1)
        action = agent.act(observations)        # a batch, as gymnasium.vector has them

    Args:
        checkpoint: the model and its tasks.
        task: the task to play, one of the checkpoint's.
        device: `cpu`, `cuda`, ..., on which the model is.
        temperature: 0 for greedy actions: the likeliest token, or of bins the median. Above 0, tokens are sampled from
            softmax(logits / temperature). By default the checkpoint's value for the task.
        seed: of the sampling; environment i has its own random stream.
        precision: of the weights; int8 is for CPUs only.
        prompt: `none`, or by default the kind that the task was trained with.
        demonstration: an episode of the task, for an agent that was trained with demonstrations.
        num_threads: of the decoder on a CPU; by default one, or more for large models and many environments.
        marginal: True to choose each action token independently of those before it, where there is an action decoder.
        masks: function that returns the action mask of each environment, see `ActionMasks`; called where a method is
            given no masks.

    Attributes:
        observation_space: of one environment.
        action_space: of one environment.

    Raises:
        UsageError: an option out of range, or a prompt that the task was not trained with.
    """

    def __init__(
        self, checkpoint: Checkpoint, task: TrainedTask, *, device: str = "cpu",
        temperature: float | None = None, seed: int = 0, precision: Precision = "float32", prompt: Kind | None = None,
        demonstration: Episode | None = None, num_threads: int | None = None,
        marginal: bool = False, masks: Callable[[], Sequence[Any]] | None = None,
    ) -> None:  # fmt: skip
        temperature = task.temperature if temperature is None else temperature
        check_temperature(temperature)
        check_threads(num_threads)
        self.task, self.checkpoint = task, checkpoint
        self.observation_space, self.action_space = task.observation_space, task.action_space
        self.model, self.config = checkpoint.model, checkpoint.model.config
        self.device = torch.device(device)
        self._mask_source, self._lock = masks, RLock()
        self.tokenizer = task.tokenizer(self.config, checkpoint.text)
        pieces = checkpoint.text.encode if checkpoint.text else None
        prompter = Prompter(task, self.tokenizer, pieces, prompt, demonstration)
        legal = [(int(low), int(high)) for low, high in self.tokenizer.legal]
        action_masks = ActionMasks(task.action_space, self.tokenizer)
        decoder = make_decoder(self.model, legal, precision, num_threads, action_masks.blocks.digits)
        self._stepper = Stepper(
            task.id, self.tokenizer, decoder, prompter, action_masks, separator=self.config.vocabulary.separator,
            temperature=temperature, seed=seed, marginal=marginal,
        )  # fmt: skip

    @property
    def temperature(self) -> float:
        """Sampling temperature; 0 for greedy actions."""
        return self._stepper.temperature

    @property
    def seed(self) -> int:
        """Seed of the sampling, from the next `reset` on."""
        return self._stepper.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._stepper.seed = seed

    @property
    def num_envs(self) -> int:
        """Environments that the memory holds; 0 before the first `reset`, `act` or `predict`."""
        return self._stepper.num_envs

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return f"Agent({self.config.described()[0]}, {parameters:,} parameters, {self.task.id}, {self.device})"

    @classmethod
    def from_pretrained(
        cls, reference: str | Path | None, env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any] | str,
        **options: Unpack[DecodingOptions],
    ) -> Self:  # fmt: skip
        """Load a checkpoint for an environment.

        Args:
            reference: run folder, checkpoint file, `org/name` on the Hugging Face hub, or None for the weights
                shipped with the package.
            env: the environment to play, or its id.
            options: see `Agent`; by default the device is `auto`, CUDA if there is one.

        Raises:
            UsageError: no such checkpoint, or it knows neither the environment's id nor its spaces.
        """
        options["device"] = resolve_device(options.get("device", "auto"))
        checkpoint = load_checkpoint(reference, options["device"])
        return cls(checkpoint, find_task(checkpoint, env), **options)

    def push_to_hub(
        self, repo: str, evaluation: Path | None = None, *, private: bool = False, token: str | None = None
    ) -> str:
        """Upload the checkpoint with a card of its scores (`checkpoints.hub.push`); returns its address."""
        return push(self.checkpoint, repo, evaluation, private=private, token=token)

    @_in_turn
    def reset(self, num_envs: int = 1) -> None:
        """Forget all episodes, prepare for `num_envs` environments, and begin the random streams again."""
        self._stepper.reset(num_envs)

    @_in_turn
    def act(
        self, observation: Any, start: NDArray[np.bool_] | None = None, *, masks: Sequence[Any] | None = None,
        return_log_prob: bool = False,
    ) -> Any:  # fmt: skip
        """Choose one action per environment.

        Args:
            observation: batch in the form of `VectorEnv.observation_space`.
            start: bool [num_envs], True where an episode begins; by default in all at the first call after `reset`.
                Without a `reset`, the first call prepares as many environments as the batch has.
            masks: action mask of each environment, see `ActionMasks`; by default those of the agent's `masks`.
            return_log_prob: True to return the log-probability of each action as well.

        Returns:
            Batch in the form of `VectorEnv.action_space`; with `return_log_prob` that and a float64 array [num_envs],
            log-probability under the distribution at the agent's temperature (1 where it is greedy). A number of a Box
            has that of its bin.

        Raises:
            GatoError: an observation is not in the space, or a mask allows nothing; names task, key, environment and
                step.
        """
        action = self._stepper.step(self._columns(observation), start, masks=self._current_masks(masks))
        actions = batch(self.action_space, action)
        return (actions, self._stepper.log_prob()) if return_log_prob else actions

    @_in_turn
    def distribution(
        self, observation: Any, start: NDArray[np.bool_] | None = None, *, given: Any = None,
        masks: Sequence[Any] | None = None,
    ) -> dict[str, LeafDistribution]:  # fmt: skip
        """Distribution of the next action; takes no step, so that `act` with the same observation can follow.

        Elements of an action are decoded one after the other. With an action `given`, each element's distribution is
        conditional on the elements of `given` before it. Without, it is the marginal distribution if the model has an
        action decoder, else the distribution along the greedy action.

        Args:
            observation: see `act`.
            start: see `act`.
            given: batch in the form of `VectorEnv.action_space`.
            masks: see `act`.

        Returns:
            Leaf path -> its distribution at the agent's temperature, 1 where it is greedy; "" for a space of one leaf.

        Raises:
            GatoError: as `act`.
        """
        forced = None if given is None else self._encode_action(given)
        return self._stepper.distribution(self._columns(observation), start, forced, self._current_masks(masks))

    @_in_turn
    def follow(self, observation: Any, action: Any, start: NDArray[np.bool_] | None = None) -> None:
        """Take a step with an action that another actor chose; the agent remembers it as its own.

        Args:
            observation: see `act`.
            action: batch in the form of `VectorEnv.action_space`.
            start: see `act`.

        Raises:
            GatoError: an observation or action is not in its space.
        """
        forced = self._encode_action(action)
        if not self.num_envs:
            self.reset(len(forced))
        self._stepper.step(self._columns(observation), start, forced=forced)

    @_in_turn
    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, PredictState]:  # fmt: skip
        """Action in Stable-Baselines3's policy protocol, so that `evaluate_policy(agent, env)` runs unchanged.

        The memory of earlier steps stays in the agent, with or without the state. `episode_start` or `reset()` begins
        an episode; without them the next observation continues the latest one.

        Args:
            observation: one observation of the space, or a batch of them.
            state: None, or the state that the last call returned. The memory itself stays in the agent. Without a
                state, another number of observations than before begins all episodes.
            episode_start: bool [n], True where an episode begins; by default in all at the first call after `reset`.
            deterministic: True for greedy actions at any temperature, the default of `evaluate_policy`.

        Returns:
            Action (or batch of actions, as the observation was), and the state for the next call.

        Raises:
            UsageError: the state is of another agent or of another number of observations.
            GatoError: as `act`.
        """
        space, single = self.observation_space, is_single(self.observation_space, observation)
        observed = stack(space, [observation]) if single else self._columns(observation)
        count = num_envs_of(observed)
        claimed = claimed_num_envs(state, self, self.task.id)
        if claimed is not None and not claimed == self.num_envs == count:
            raise UsageError(
                f"{self.task.id}: {count} observations with the state of {claimed}, and the memory is of "
                f"{self.num_envs}: pass state=None to begin their episodes"
            )
        if count != self.num_envs or not count:
            self.reset(count)
        start = None if episode_start is None else self._stepper.starts(episode_start)
        actions = self._stepper.step(observed, start, greedy=deterministic, masks=self._current_masks(None))
        action = row(self.action_space, actions, 0) if single else batch(self.action_space, actions)
        return action, PredictState(self, count)

    def _columns(self, observation: Any) -> Columns:
        """Columns of a batch of observations."""
        return batch_columns(self.observation_space, observation, self.task.id)

    def _current_masks(self, masks: Sequence[Any] | None) -> Sequence[Any] | None:
        """The masks that a caller gives, else those of the agent's source, if it has one."""
        return self._mask_source() if masks is None and self._mask_source else masks

    def _encode_action(self, action: Any) -> torch.Tensor:
        """Tokens of an action in the form of `VectorEnv.action_space`: int64 [num_envs, A]."""
        try:
            tokens = self.tokenizer.encode_actions(columns(self.action_space, action))
        except SpaceError as error:
            where = "" if error.row is None else f" in environment {error.row}"
            raise GatoError(f"{self.task.id}: action{where}: {error}") from error
        return torch.from_numpy(tokens).long()
