"""Control steps of one task in several environments, each with the memory of its own episode."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, SpaceError, UsageError, at_least, one_line
from gato_agent.envs.spaces.flatten import Columns
from gato_agent.inference.action_mask import ActionMasks
from gato_agent.inference.decoders.decoder import Decoder, Prefill, StepOptions
from gato_agent.inference.decoders.sampling import Sampler, random_stream
from gato_agent.inference.distribution import LeafDistribution, distributions, log_probs
from gato_agent.inference.prompting import Prompter
from gato_agent.inference.step_inputs import ALL, Envs, StepInputs, num_envs_of
from gato_agent.tokens.space_tokenizer import Observed, SpaceTokenizer


class Stepper:
    """Control steps of a task: observations -> tokens -> action tokens -> actions.

    Args:
        name: of the task, for messages.
        tokenizer: of the task.
        decoder: of its actions.
        prompter: of its episodes.
        masks: of its actions.
        separator: id of the separator.
        temperature: of sampling, 0 for greedy actions.
        seed: of sampling; environment i has the random stream of seed + i, from a `reset` on.
        marginal: True to choose each action token independently of those before it, where there is an action decoder.

    Attributes:
        temperature: as given.
        seed: as given; a change acts from the next `reset` on.
        prompter: as given.
        num_envs: environments that the memory holds; 0 before the first `reset` or `step`.
        decoder: as given; its `logits` are those of the latest step.
        inputs: tokens that enter the model, with steps and beginnings of each episode.
        sampler: random streams of the environments.
    """

    def __init__(
        self, name: str, tokenizer: SpaceTokenizer, decoder: Decoder, prompter: Prompter, masks: ActionMasks, *,
        separator: int, temperature: float, seed: int, marginal: bool,
    ) -> None:  # fmt: skip
        self._name, self._tokenizer, self._masks, self._separator = name, tokenizer, masks, separator
        self.temperature, self.seed, self._marginal = temperature, seed, marginal
        self.decoder, self.prompter = decoder, prompter
        self.num_envs = 0
        self._allowed: NDArray[np.bool_] | None = None

    def reset(self, num_envs: int) -> None:
        """Forget all episodes, prepare for `num_envs` environments, and begin the random streams again.

        Raises:
            UsageError: there is no memory for so many.
        """
        at_least(1, num_envs=num_envs)
        try:
            self.decoder.reset(num_envs, self._tokenizer.layout.written, self.prompter.tokens)
        except (MemoryError, OverflowError, RuntimeError, ValueError) as error:
            problem = f"{self._name}: there is no memory for {num_envs:,} environments ({one_line(error):.200})"
            raise UsageError(f"{problem}: use fewer") from error
        self._prefill_prefix(np.ones(num_envs, dtype=np.bool_), self.prompter.reset(num_envs))
        self.num_envs = num_envs
        self.inputs = StepInputs(self._tokenizer, self._separator, num_envs)
        generators = [random_stream(self.seed + env_index) for env_index in range(num_envs)]
        self.sampler = Sampler(self.temperature, generators)

    def step(
        self, observation: Columns, start: NDArray[np.bool_] | None, *, greedy: bool = False,
        forced: torch.Tensor | None = None, masks: Sequence[Any] | None = None, marginal: bool | None = None,
        envs: Envs = ALL,
    ) -> Columns:  # fmt: skip
        """Take one step of all environments, or of some.

        Args:
            observation: of these environments.
            start: bool [env], True where an episode begins; by default in all at the first step after `reset`.
            greedy: True for greedy actions at any temperature.
            forced: int64 [env, A], action tokens to take; None for a free choice.
            masks: action mask of each environment, see `ActionMasks`; None for none.
            marginal: in place of the stepper's; None for that.
            envs: environments of the step.

        Returns:
            Actions.

        Raises:
            GatoError: an observation is not in the space, or a mask allows nothing.
            UsageError: numbers of observations, starts or masks that do not match the environments.
        """
        if not self.num_envs:
            self.reset(num_envs_of(observation))
        start = self._starts(start, num_envs_of(observation), envs)
        begun = np.zeros(self.num_envs, dtype=np.bool_)
        begun[envs] = start
        if start.any():
            # The first token of an episode is its observation; a PAD in place of the last action token goes before it.
            begin = self.prompter.tokens - self._tokenizer.layout.carried
            self.decoder.reset_envs(torch.from_numpy(begun), begin)
            self.inputs.begin(begun)
        self._allowed = self._allow(masks, len(start), envs)
        observed = self._encode(observation, start, begun, envs)
        sampler, rows = self.sampler, None
        if not isinstance(envs, slice):
            sampler, rows = sampler.of(envs.tolist()), torch.from_numpy(envs)
        sampler = Sampler() if greedy or forced is not None else sampler
        allowed = None if self._allowed is None else torch.from_numpy(self._allowed)
        marginal = (self._marginal if marginal is None else marginal) or None
        options = {"forced": forced, "allowed": allowed, "marginal": marginal}
        options = {name: value for name, value in options.items() if value is not None}
        self._chosen = self.decoder.step(
            self.inputs.prefill(observed, envs), StepOptions.of(sampler, self._tokenizer.n_act, **options), rows
        )
        self.inputs.finish(self._chosen, envs)
        return self._tokenizer.decode_actions(self._chosen.numpy())

    def starts(self, start: Any) -> NDArray[np.bool_]:
        """Environments that begin an episode: those of `start`, and those that take their first step; bool [env].

        Args:
            start: one for each environment.

        Raises:
            UsageError: another number of them than of environments.
        """
        return self.inputs.start | self._checked(start, self.num_envs)

    def log_prob(self) -> NDArray[np.float64]:
        """Log-probability of the latest action of each environment, float64 [num_envs]."""
        return log_probs(self.decoder.logits, self._index(), self.temperature or 1.0, self._allowed_rows())

    def distribution(
        self, observation: Columns, start: NDArray[np.bool_] | None, forced: torch.Tensor | None,
        masks: Sequence[Any] | None,
    ) -> dict[str, LeafDistribution]:  # fmt: skip
        """Distributions of the leaves of the next action, by path; the memory is as it was.

        Args:
            observation: see `step`.
            start: see `step`.
            forced: tokens of the action on which each element is conditional; None for marginal distributions.
            masks: see `step`.
        """
        if not self.num_envs:
            self.reset(num_envs_of(observation))
        state, layout = self.inputs.state(), self._tokenizer.layout
        self.step(observation, start, greedy=True, forced=forced, masks=masks, marginal=forced is None)
        logits = [part.clone() for part in self.decoder.logits]
        self.decoder.rewind(layout.written - layout.rewound)
        self.inputs.restore(state)
        return distributions(self._tokenizer, logits, self.temperature or 1.0, self._allowed_rows())

    def _starts(self, start: NDArray[np.bool_] | None, observations: int, envs: Envs) -> NDArray[np.bool_]:
        """Beginnings of episodes in a step of `envs`, bool [env]."""
        known = self.inputs.start[envs]
        if observations != len(known):
            raise UsageError(f"{self._name}: {observations} observations for {len(known)} environments: call reset(n)")
        return known.copy() if start is None else self._checked(start, len(known))

    def _checked(self, start: Any, num_envs: int) -> NDArray[np.bool_]:
        """Beginnings of episodes, a new array, bool [num_envs]; raises UsageError for another number of them."""
        try:
            starts = np.array(start, dtype=np.bool_)
        except (TypeError, ValueError):  # rows of different lengths
            starts = np.zeros(0, dtype=np.bool_)
        if starts.size != num_envs or not starts.ndim:
            raise UsageError(f"{self._name}: episode starts of shape {starts.shape} for {num_envs} environments")
        return starts.reshape(-1)

    def _allow(self, masks: Sequence[Any] | None, num_envs: int, envs: Envs) -> NDArray[np.bool_] | None:
        """Ids that the action masks of the environments allow, bool [num_envs, width of a mask]; None for all."""
        if masks is None:
            return None
        count = len(masks) if hasattr(masks, "__len__") else type(masks).__name__
        if count != num_envs:
            message = f"{self._name}: {count} action masks for {num_envs} environments"
            raise UsageError(f"{message}: give one each, or None")
        try:
            return self._masks.allowed(masks)
        except SpaceError as error:
            raise GatoError(f"{self._name}: action mask{self._place(error, envs)}: {error}") from error

    def _place(self, error: SpaceError, envs: Envs) -> str:
        """Environment and step of an error in a step of `envs`, if it has an environment."""
        if error.row is None:
            return ""
        env_index = np.arange(self.num_envs)[envs][error.row]
        return f" in environment {env_index}, step {self.inputs.steps[env_index]}"

    def _encode(self, observation: Columns, start: NDArray[np.bool_], begun: NDArray[np.bool_], envs: Envs) -> Observed:
        """Tokens, patches and value groups of all observations; caches the prompts of new episodes."""
        try:
            self._prefill_prefix(begun, self.prompter.begin(observation, start, envs))
            return self._tokenizer.encode_observations(observation)
        except SpaceError as error:
            raise GatoError(f"{self._name}: observation{self._place(error, envs)}: {error}") from error

    def _prefill_prefix(self, envs: NDArray[np.bool_], prompts: Prefill | None) -> None:
        """Give environments the prompts of their episodes, if there are any."""
        if prompts is not None:
            self.decoder.prefill_prefix(torch.from_numpy(envs), prompts)

    def _index(self) -> torch.Tensor:
        """Index of each token of the latest actions among its legal ids: int64 [num_envs, A]."""
        return self._chosen - torch.from_numpy(self._tokenizer.legal[:, 0])

    def _allowed_rows(self) -> list[torch.Tensor] | None:
        """Ids that the masks of the latest step allow each action token, given those before it; None for all."""
        if self._allowed is None:
            return None
        allowed, index = torch.from_numpy(self._allowed), list(self._index().T)
        return [self._masks.blocks.row(allowed, index, at) for at in range(len(index))]
