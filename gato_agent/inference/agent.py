"""Agent: a trained model as an actor, and as a Stable-Baselines3 policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from gato_agent.envs.errors import GatoError, SpaceError, UsageError, at_least, one_line
from gato_agent.envs.spaces.flatten import Columns, batch, columns, row, stack
from gato_agent.inference.action_mask import ActionMasks
from gato_agent.inference.cpu_decoder import make_decoder
from gato_agent.inference.decoder import Precision, Prefill, StepOptions
from gato_agent.inference.distribution import LeafDistribution, distributions, log_probs
from gato_agent.inference.options import DecodingOptions, resolve_device
from gato_agent.inference.prompting import Prompter
from gato_agent.inference.sampling import Sampler, check_temperature, random_stream
from gato_agent.inference.step_inputs import ALL, Envs, StepInputs, is_single, num_envs_of
from gato_agent.native.build import check_threads
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import Kind
from gato_agent.tokens.space_tokenizer import Observed

P = ParamSpec("P")
R = TypeVar("R")


def _in_turn(method: Callable[Concatenate["Agent", P], R]) -> Callable[Concatenate["Agent", P], R]:
    """The method, of which threads wait for each other: the memory is that of one step at a time."""

    @wraps(method)
    def locked(self: "Agent", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


@dataclass(frozen=True, eq=False)
class PredictState:
    """State that `Agent.predict` returns: a claim to the memory, which stays in the agent.

    Attributes:
        agent: that returned it.
        num_envs: observations of the call.
    """

    agent: "Agent" = field(repr=False)
    num_envs: int


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
        num_envs: environments that the memory holds; 0 before the first `reset`, `act` or `predict`.

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
        self.temperature, self.seed, self._marginal, self._mask_source = temperature, seed, marginal, masks
        self.tokenizer = task.tokenizer(self.config, checkpoint.text)
        pieces = checkpoint.text.encode if checkpoint.text else None
        self._prompter = Prompter(task, self.tokenizer, pieces, prompt, demonstration)
        legal = [(int(low), int(high)) for low, high in self.tokenizer.legal]
        self._masks = ActionMasks(task.action_space, self.tokenizer)
        digits = self._masks.blocks.digits
        self._decoder = make_decoder(self.model, legal, precision, num_threads, digits)
        self._lock = RLock()
        self._allowed: NDArray[np.bool_] | None = None
        self.num_envs = 0  # none before the first reset

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
        at_least(1, num_envs=num_envs)
        try:
            self._decoder.reset(num_envs, self.tokenizer.layout.written, self._prompter.tokens)
        except (MemoryError, OverflowError, RuntimeError, ValueError) as error:
            problem = f"{self.task.id}: there is no memory for {num_envs:,} environments ({one_line(error):.200})"
            raise UsageError(f"{problem}: use fewer") from error
        self._prefill_prefix(np.ones(num_envs, dtype=np.bool_), self._prompter.reset(num_envs))
        self.num_envs = num_envs
        self._inputs = StepInputs(self.tokenizer, self.config.vocabulary.separator, num_envs)
        generators = [random_stream(self.seed + env_index) for env_index in range(num_envs)]
        self._sampler = Sampler(self.temperature, generators)

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
        action = self._act(self._columns(observation), start, masks=self._current_masks(masks))
        actions = batch(self.action_space, action)
        return (actions, self._log_prob()) if return_log_prob else actions

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
        observed = self._columns(observation)
        if not self.num_envs:
            self.reset(num_envs_of(observed))
        state = self._inputs.state()
        self._act(observed, start, greedy=True, forced=forced, masks=self._current_masks(masks), marginal=given is None)
        logits = [part.clone() for part in self._decoder.logits]
        self._decoder.rewind(self.tokenizer.layout.written - self.tokenizer.layout.rewound)
        self._inputs.restore(state)
        return distributions(self.tokenizer, logits, self.temperature or 1.0, self._allowed_rows())

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
        self._act(self._columns(observation), start, forced=forced)

    @_in_turn
    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[Any, PredictState]:  # fmt: skip
        """Action in Stable-Baselines3's policy protocol, so that `evaluate_policy(agent, env)` runs unchanged.

        The agent remembers the steps before, with or without the state. Tell it where an episode begins, by
        `episode_start` or `reset()`, or it takes a new episode for more of the last one.

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
        if state is not None:
            self._check_state(state, count)
        if count != self.num_envs or not count:
            self.reset(count)
        start = self._inputs.start | self._starts(episode_start, count) if episode_start is not None else None
        actions = self._act(observed, start, greedy=deterministic, masks=self._current_masks(None))
        action = row(self.action_space, actions, 0) if single else batch(self.action_space, actions)
        return action, PredictState(self, count)

    def _check_state(self, state: Any, count: int) -> None:
        """Raise UsageError for a state that `predict` of this agent did not return for this many observations."""
        if not isinstance(state, PredictState) or state.agent is not self:
            owner = f"{state.agent!r}" if isinstance(state, PredictState) else f"a {type(state).__name__}"
            raise UsageError(
                f"{self.task.id}: the state is of {owner}, and not of this agent: pass the state that its own "
                "`predict` returned, or None"
            )
        if not state.num_envs == self.num_envs == count:
            raise UsageError(
                f"{self.task.id}: {count} observations with the state of {state.num_envs}, and the memory is of "
                f"{self.num_envs}: pass state=None to begin their episodes"
            )

    def _columns(self, observation: Any) -> Columns:
        """Columns of a batch of observations."""
        try:
            return columns(self.observation_space, observation)
        except SpaceError as error:
            if is_single(self.observation_space, observation):
                raise UsageError(
                    f"{self.task.id}: one observation without a batch axis: `act` takes a batch, as gymnasium.vector "
                    "has them; `predict` takes one observation too"
                ) from error
            raise GatoError(f"{self.task.id}: observations: {error}") from error

    def _act(
        self, observation: Columns, start: NDArray[np.bool_] | None, *, greedy: bool = False,
        forced: torch.Tensor | None = None, masks: Sequence[Any] | None = None, marginal: bool | None = None,
        envs: Envs = ALL,
    ) -> Columns:  # fmt: skip
        """One control step of all environments, or of some: observations -> tokens -> action tokens -> actions."""
        if not self.num_envs:
            self.reset(num_envs_of(observation))
        num_envs = len(self._inputs.start[envs])
        if num_envs_of(observation) != num_envs:
            raise UsageError(
                f"{self.task.id}: {num_envs_of(observation)} observations for {num_envs} environments: call reset(n)"
            )
        start = self._inputs.start[envs].copy() if start is None else self._starts(start, num_envs)
        begun = np.zeros(self.num_envs, dtype=np.bool_)
        begun[envs] = start
        if start.any():
            # The first token of an episode is its observation; a PAD in place of the last action token goes before it.
            begin = self._prompter.tokens - self.tokenizer.layout.carried
            self._decoder.reset_envs(torch.from_numpy(begun), begin)
            self._inputs.begin(begun)
        self._allowed = self._allow(masks, num_envs, envs)
        observed = self._encode(observation, start, begun, envs)
        sampler, rows = self._sampler, None
        if not isinstance(envs, slice):
            sampler, rows = sampler.of(envs.tolist()), torch.from_numpy(envs)
        sampler = Sampler() if greedy or forced is not None else sampler
        allowed = None if self._allowed is None else torch.from_numpy(self._allowed)
        marginal = (self._marginal if marginal is None else marginal) or None
        options = {"forced": forced, "allowed": allowed, "marginal": marginal}
        options = {name: value for name, value in options.items() if value is not None}
        self._chosen = self._decoder.step(
            self._inputs.prefill(observed, envs), StepOptions.of(sampler, self.tokenizer.n_act, **options), rows
        )
        self._inputs.finish(self._chosen, envs)
        return self.tokenizer.decode_actions(self._chosen.numpy())

    def _starts(self, start: Any, num_envs: int) -> NDArray[np.bool_]:
        """Beginnings of episodes, a new array, bool [num_envs]; raises UsageError for another number of them."""
        try:
            starts = np.array(start, dtype=np.bool_)
        except (TypeError, ValueError):  # rows of different lengths
            starts = np.zeros(0, dtype=np.bool_)
        if starts.size != num_envs or not starts.ndim:
            raise UsageError(f"{self.task.id}: episode starts of shape {starts.shape} for {num_envs} environments")
        return starts.reshape(-1)

    def _current_masks(self, masks: Sequence[Any] | None) -> Sequence[Any] | None:
        """The masks that a caller gives, else those of the agent's source, if it has one."""
        return self._mask_source() if masks is None and self._mask_source else masks

    def _allow(self, masks: Sequence[Any] | None, num_envs: int, envs: Envs) -> NDArray[np.bool_] | None:
        """Ids that the action masks of the environments allow, bool [num_envs, width of a mask]; None for all."""
        if masks is None:
            return None
        count = len(masks) if hasattr(masks, "__len__") else type(masks).__name__
        if count != num_envs:
            message = f"{self.task.id}: {count} action masks for {num_envs} environments"
            raise UsageError(f"{message}: give one each, or None")
        try:
            return self._masks.allowed(masks)
        except SpaceError as error:
            raise GatoError(f"{self.task.id}: action mask{self._place(error, envs)}: {error}") from error

    def _place(self, error: SpaceError, envs: Envs) -> str:
        """Environment and step of an error in a step of `envs`, if it has an environment."""
        if error.row is None:
            return ""
        env_index = np.arange(self.num_envs)[envs][error.row]
        return f" in environment {env_index}, step {self._inputs.steps[env_index]}"

    def _encode_action(self, action: Any) -> torch.Tensor:
        """Tokens of an action in the form of `VectorEnv.action_space`: int64 [num_envs, A]."""
        try:
            tokens = self.tokenizer.encode_actions(columns(self.action_space, action))
        except SpaceError as error:
            where = "" if error.row is None else f" in environment {error.row}"
            raise GatoError(f"{self.task.id}: action{where}: {error}") from error
        return torch.from_numpy(tokens).long()

    def _log_prob(self) -> NDArray[np.float64]:
        """Log-probability of the latest action of each environment, float64 [num_envs]."""
        return log_probs(self._decoder.logits, self._index(), self.temperature or 1.0, self._allowed_rows())

    def _index(self) -> torch.Tensor:
        """Index of each token of the latest actions among its legal ids: int64 [num_envs, A]."""
        return self._chosen - torch.from_numpy(self.tokenizer.legal[:, 0])

    def _allowed_rows(self) -> list[torch.Tensor] | None:
        """Ids that the masks of the latest step allow each action token, given those before it; None for all."""
        if self._allowed is None:
            return None
        allowed, index = torch.from_numpy(self._allowed), list(self._index().T)
        return [self._masks.blocks.row(allowed, index, at) for at in range(len(index))]

    def _prefill_prefix(self, envs: NDArray[np.bool_], prompts: Prefill | None) -> None:
        """Give environments the prompts of their episodes, if there are any."""
        if prompts is not None:
            self._decoder.prefill_prefix(torch.from_numpy(envs), prompts)

    def _encode(self, observation: Columns, start: NDArray[np.bool_], begun: NDArray[np.bool_], envs: Envs) -> Observed:
        """Tokens, patches and value groups of all observations; caches the prompts of new episodes."""
        try:
            self._prefill_prefix(begun, self._prompter.begin(observation, start, envs))
            return self.tokenizer.encode_observations(observation)
        except SpaceError as error:
            raise GatoError(f"{self.task.id}: observation{self._place(error, envs)}: {error}") from error
