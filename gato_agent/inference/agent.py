"""The trained model as an actor, and as a Stable-Baselines3 policy."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.hub import push
from gato_agent.checkpoints.task_matching import find_task
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.dataset.task_tokens import flat
from gato_agent.envs.errors import GatoError, SpaceError, UsageError, at_least
from gato_agent.envs.spaces.flatten import Columns, batch, columns, row, stack
from gato_agent.inference.action_mask import ActionMasks
from gato_agent.inference.cpu_decoder import make_decoder
from gato_agent.inference.decoder import Precision, Prefill, StepOptions
from gato_agent.inference.distribution import LeafDistribution, distributions
from gato_agent.inference.prompting import Prompter
from gato_agent.inference.sampling import Sampler, log_prob
from gato_agent.rollouts.experts.hub import PREFIX
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import Kind
from gato_agent.tokens.space_tokenizer import PAD, Observed


class Agent:
    """Plays one task, in any number of environments at once, each with a memory of its own episode.

        agent = Agent.from_pretrained("runs/cartpole", env)
        agent.reset(environments=1)
        action = agent.act(observations)        # batched, as gymnasium.vector has them

    Args:
        checkpoint: the model and its tasks.
        task: which of them to play.
        device: `cpu`, `cuda`, ... where the model is.
        temperature: 0 for the likeliest action token, or the median of bins; otherwise tokens are sampled from
            softmax(logits / temperature). By default what the checkpoint has for the task.
        seed: of the sampling; environment i has its own stream.
        precision: of the weights that are played with; int8 on a CPU only.
        compiled: whether a GPU's steps are compiled first, which takes a minute and is for large models.
        prompt: what episodes begin with: none, or by default what the task was trained with.
        demonstration: an episode of the task, for an agent that was trained with demonstrations.
        marginal: True to choose each number of an action without regard to those before it, where there is an action
            decoder.
        masks: function that returns the action mask of each environment, see `ActionMasks`; `act` obeys it where it is
            given none.

    Raises:
        UsageError: an option that cannot be, or a prompt that the task was not trained with.
    """

    def __init__(
        self, checkpoint: Checkpoint, task: TrainedTask, *, device: str = "cpu",
        temperature: float | None = None, seed: int = 0, precision: Precision = "float32", prompt: Kind | None = None,
        demonstration: Episode | None = None, compiled: bool = False, marginal: bool = False,
        masks: Callable[[], Sequence[Any]] | None = None,
    ) -> None:  # fmt: skip
        temperature = task.temperature if temperature is None else temperature
        if not 0 <= temperature < math.inf:
            raise UsageError(f"temperature {temperature}: use 0 for greedy actions, or a positive number")
        self.task, self.checkpoint = task, checkpoint
        self.model = checkpoint.model
        self.config = checkpoint.model.config
        self.device = torch.device(device)
        self.temperature, self._marginal, self._mask_source = temperature, marginal, masks
        self.seed = seed
        self.tokenizer = task.tokenizer(self.config, checkpoint.text)
        pieces = checkpoint.text.encode if checkpoint.text else None
        self._prompter = Prompter(task, self.tokenizer, pieces, prompt, demonstration)
        legal = [(int(low), int(high)) for low, high in self.tokenizer.legal]
        self._decoder = make_decoder(self.model, legal, precision, compiled=compiled)
        layout = self.tokenizer.layout
        self._carried = layout.carried  # action tokens that enter with the next observation
        self._masks = ActionMasks(task.action_space, self.tokenizer)
        self._allowed: NDArray[np.bool_] | None = None
        self._num_envs = 0  # none before the first reset

    @classmethod
    def from_pretrained(
        cls,
        reference: str | Path | None,
        env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any] | str,
        *,
        device: str = "auto",
        temperature: float | None = None,
        seed: int = 0,
        precision: Precision = "float32",
        prompt: Kind | None = None,
        demonstration: Episode | None = None,
        compiled: bool = False,
        marginal: bool = False,
    ) -> Self:
        """Load a checkpoint for an environment.

        Args:
            reference: run folder, checkpoint file, `org/name` on the Hugging Face hub, or None for the weights
                shipped with the package.
            env: the environment to play, or its id.
            device: `auto` takes CUDA where there is one.
            temperature: see `Agent`.
            seed: see `Agent`.
            precision: see `Agent`.
            prompt: see `Agent`.
            demonstration: see `Agent`.
            compiled: see `Agent`.
            marginal: see `Agent`.

        Raises:
            UsageError: no such checkpoint, or it knows neither the environment's id nor its spaces.
        """
        device = resolve_device(device)
        if isinstance(reference, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", reference) and not Path(reference).exists():
            reference = f"{PREFIX}{reference}"
        checkpoint = Checkpoint.load(reference, device)
        task = find_task(checkpoint, env)
        return cls(
            checkpoint, task, device=device, temperature=temperature, seed=seed, precision=precision, prompt=prompt,
            demonstration=demonstration, compiled=compiled, marginal=marginal,
        )  # fmt: skip

    def push_to_hub(
        self, repo: str, evaluation: Path | None = None, *, private: bool = False, token: str | None = None
    ) -> str:
        """Upload the checkpoint with a card of its scores (`checkpoints.hub.push`); returns its address."""
        return push(self.checkpoint, repo, evaluation, private=private, token=token)

    def reset(self, num_envs: int = 1) -> None:
        """Forget everything and prepare for `environments` environments."""
        at_least(1, num_envs=num_envs)
        layout, separator = self.tokenizer.layout, self.config.vocabulary.separator
        local = np.concatenate((np.full(layout.carried, -1), layout.local[: layout.n_prefill]))
        self._decoder.reset(num_envs, layout.written, self._prompter.tokens)
        self._pin(np.ones(num_envs, dtype=np.bool_), self._prompter.reset(num_envs))
        self._num_envs = num_envs
        # Tokens that enter the model in each step: the last action token if it is carried, observation, separators.
        self._tokens = torch.full((num_envs, len(local)), separator)
        self._local = torch.from_numpy(local).repeat(num_envs, 1)
        self._intervals = torch.from_numpy(self.tokenizer.patch_intervals).repeat(num_envs, 1, 1)
        self._fresh = np.ones(num_envs, dtype=np.bool_)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        generators = [torch.Generator().manual_seed(self.seed + env_index) for env_index in range(num_envs)]
        self._sampler = Sampler(self.temperature, generators)

    def act(
        self, observation: Any, start: NDArray[np.bool_] | None = None, *, masks: Sequence[Any] | None = None,
        return_log_prob: bool = False,
    ) -> Any:  # fmt: skip
        """Choose one action per environment.

        Args:
            observation: batch in the form of `VectorEnv.observation_space`.
            start: bool [num_envs], where an episode begins; by default in all at the first call after `reset`.
                Without a `reset`, the first call prepares as many environments as the batch has.
            masks: action mask of each environment, see `ActionMasks`; by default those of the agent's `masks`.
            return_log_prob: True to return the log-probability of each action too.

        Returns:
            Batch in the form of `VectorEnv.action_space`; with `return_log_prob` that and a float64 array [num_envs],
            log-probability under the distribution at the agent's temperature (1 where it is greedy). A number of a Box
            has that of its bin.

        Raises:
            GatoError: an observation does not belong to the space, or a mask allows nothing; names environment, key,
                environment and step.
        """
        masks = self._mask_source() if masks is None and self._mask_source else masks
        action = self._act(columns(self.task.observation_space, observation), start, masks=masks)
        acted = batch(self.task.action_space, action)
        return (acted, self._log_prob()) if return_log_prob else acted

    def distribution(
        self, observation: Any, start: NDArray[np.bool_] | None = None, *, given: Any = None,
        masks: Sequence[Any] | None = None,
    ) -> dict[str, LeafDistribution]:  # fmt: skip
        """Distribution of the next action, without taking a step: `act` with the same observation comes after it.

        Elements of an action are drawn one after the other. With `given`, an action, each element's distribution is
        that after the elements of `given` before it. Without, it is the marginal one, which regards no other element,
        where the size has an action decoder; else that along the greedy action.

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
        seen = columns(self.task.observation_space, observation)
        if not self._num_envs:
            self.reset(num_envs_of(seen))
        before = self._tokens.clone(), self._steps.copy(), self._fresh.copy()
        self._act(seen, start, greedy=True, forced=forced, masks=masks, marginal=given is None)
        logits = [part.clone() for part in self._decoder.logits]
        self._decoder.rewind(self.tokenizer.layout.written - self.tokenizer.layout.rewound)
        self._tokens, self._steps, self._fresh = before
        return distributions(self.tokenizer, logits, self.temperature or 1.0, self._allowed)

    def follow(self, observation: Any, action: Any, start: NDArray[np.bool_] | None = None) -> None:
        """Go on as if it had chosen `action`, which somebody else did: that is what it remembers.

        Args:
            observation: see `act`.
            action: batch in the form of `VectorEnv.action_space`.
            start: see `act`.

        Raises:
            GatoError: an observation or action does not belong to its space.
        """
        forced = self._encode_action(action)
        if not self._num_envs:
            self.reset(len(forced))
        self._act(columns(self.task.observation_space, observation), start, forced=forced)

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
            deterministic: greedy for this call, as Stable-Baselines3's `evaluate_policy` asks by default, whatever the
                temperature; one of 0 is greedy either way.

        Returns:
            Action (or batch of actions, as the observation was), and the state for the next call.
        """
        space, action_space = self.task.observation_space, self.task.action_space
        single = is_single(space, observation)
        given = stack(space, [observation]) if single else columns(space, observation)
        if state is None:
            self.reset(num_envs_of(given))
            episode_start = None
        actions = self._act(given, episode_start, greedy=deterministic)
        return row(action_space, actions, 0) if single else batch(action_space, actions), self._decoder

    def _act(
        self, observation: Columns, start: NDArray[np.bool_] | None, *, greedy: bool = False,
        forced: torch.Tensor | None = None, masks: Sequence[Any] | None = None, marginal: bool | None = None,
    ) -> Columns:  # fmt: skip
        """Encode, decode, decode again: observations -> tokens -> action tokens -> actions."""
        if not self._num_envs:
            self.reset(num_envs_of(observation))
        num_envs = self._num_envs
        if num_envs_of(observation) != num_envs:
            raise UsageError(
                f"{self.task.id}: {num_envs_of(observation)} observations for {num_envs} environments: call reset(n)"
            )
        start = np.array(self._fresh if start is None else start, dtype=np.bool_)
        if start.shape != (num_envs,):
            raise UsageError(f"{self.task.id}: episode starts of shape {start.shape} for {num_envs} environments")
        self._restart(start)
        seen = self._encode(observation, start)
        self._tokens[:, self._carried : self._carried + self.tokenizer.n_obs] = torch.from_numpy(seen.tokens)
        patches, value_groups = (
            torch.from_numpy(flat(part)) if part.size else None for part in (seen.patches, seen.value_groups)
        )
        prefill = Prefill(self._tokens, self._local, patches, self._intervals, value_groups)
        sampler = Sampler() if greedy or forced is not None else self._sampler
        self._allowed = self._allow(masks)
        allowed = None if self._allowed is None else torch.from_numpy(self._allowed)
        given = {
            "forced": forced,
            "allowed": allowed,
            "marginal": (self._marginal if marginal is None else marginal) or None,
        }
        given = {name: value for name, value in given.items() if value is not None}
        options = StepOptions.of(sampler, self.tokenizer.n_act, **given)
        self._chosen = action = self._decoder.step(prefill, options)
        self._tokens[:, : self._carried] = action[:, action.shape[1] - self._carried :]
        self._steps += 1
        return self.tokenizer.decode_actions(action.numpy())

    def _allow(self, masks: Sequence[Any] | None) -> NDArray[np.bool_] | None:
        """Ids that the action masks of the environments allow, bool [num_envs, sum of legal ids]; None for all."""
        if masks is None:
            return None
        if len(masks) != self._num_envs:
            raise UsageError(
                f"{self.task.id}: {len(masks)} action masks for {self._num_envs} environments: give one each, or None"
            )
        try:
            return self._masks.allowed(masks)
        except SpaceError as error:
            where = f" in lane {error.row}, step {self._steps[error.row]}" if error.row is not None else ""
            raise GatoError(f"{self.task.id}: action mask{where}: {error}") from error

    def _encode_action(self, action: Any) -> torch.Tensor:
        """Tokens of an action in the form of `VectorEnv.action_space`: int64 [num_envs, A]."""
        try:
            tokens = self.tokenizer.encode_actions(columns(self.task.action_space, action))
        except SpaceError as error:
            raise GatoError(f"{self.task.id}: action in lane {error.row}: {error}") from error
        return torch.from_numpy(tokens).long()

    def _log_prob(self) -> NDArray[np.float64]:
        """Log-probability of the latest action of each environment, float64 [num_envs]."""
        total, at = np.zeros(self._num_envs), 0
        for token, logits in enumerate(self._decoder.logits):
            end = at + logits.shape[1]
            allowed = None if self._allowed is None else torch.from_numpy(self._allowed[:, at:end])
            index = self._chosen[:, token] - int(self.tokenizer.legal[token, 0])
            total += log_prob(logits.cpu(), index, self.temperature or 1.0, allowed).numpy()
            at = end
        return total

    def _restart(self, start: NDArray[np.bool_]) -> None:
        """Begin episodes in some environments; in their first pass a PAD stands where the last action token would."""
        if start.any():
            num_envs = torch.from_numpy(start)
            age = self._prompter.tokens  # where the observation begins; the PAD goes before it
            self._decoder.reset_envs(num_envs, age - self._carried)
            self._tokens[:, : self._carried].masked_fill_(num_envs.unsqueeze(1), PAD)
            self._steps[start] = 0
            self._fresh[:] = False

    def _pin(self, num_envs: NDArray[np.bool_], prompts: Prefill | None) -> None:
        """Give environments the prompts of their episodes, if there are any."""
        if prompts is not None:
            self._decoder.prefill_prefix(torch.from_numpy(num_envs), prompts)

    def _encode(self, observation: Columns, start: NDArray[np.bool_]) -> Observed:
        """Tokens, patches and value groups of the environments' observations; pins prompts of new episodes."""
        try:
            self._pin(start, self._prompter.begin(observation, start))
            return self.tokenizer.encode_observations(observation)
        except SpaceError as error:
            where = "" if error.row is None else f" in lane {error.row}, step {self._steps[error.row]}"
            raise GatoError(f"{self.task.id}: observation{where}: {error}") from error


def is_single(space: gym.Space[Any], observation: Any) -> bool:
    """True for one observation, false for a batch: told by the dimensions of its first leaf, as SB3 does."""
    return bool(_is_single(space, observation))


def _is_single(space: gym.Space[Any], observation: Any) -> bool | None:
    """The answer of the first leaf; None where there is none."""
    if isinstance(space, gym.spaces.Dict):
        parts = ((space.spaces[key], observation[key]) for key in sorted(space.spaces))
        return next((one for entry, part in parts if (one := _is_single(entry, part)) is not None), None)
    if isinstance(space, gym.spaces.Tuple):
        pairs = zip(space.spaces, observation, strict=True)
        return next((one for entry, part in pairs if (one := _is_single(entry, part)) is not None), None)
    if isinstance(space, gym.spaces.Text):
        return isinstance(observation, str)
    return bool(np.ndim(observation) == len(space.shape or ()))


def num_envs_of(observation: Columns) -> int:
    """Number of observations in a batch."""
    return len(next(iter(observation.values())))


def resolve_device(device: str) -> str:
    """`auto` -> CUDA where there is one; raises UsageError for a device that is unknown or not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device} cannot be used here ({str(error).splitlines()[0]}): try cpu") from error
    return device
