"""Cases of the benchmark of control steps: inputs of one shape, and their roofline bound."""

import math
from collections.abc import Callable

import torch

from gato_agent.commands.bench.roofline import Roofline
from gato_agent.envs.errors import UsageError
from gato_agent.inference.decoders.decoder import Decoder, Legal, Precision, Prefill
from gato_agent.model.action_decoder import Scores
from gato_agent.model.config import GatoConfig
from gato_agent.model.embedding import VALUE_WIDTH
from gato_agent.model.gato import Gato
from gato_agent.tokens.space_tokenizer import BINS, PAD, VALUES


def counts(task: str) -> tuple[int, int]:
    """`17/6` -> 17 observation tokens and 6 action tokens; raises UsageError for anything else."""
    parts = task.split("/")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(f"--task {task}: write observation tokens / action tokens, such as 17/6")
    return int(parts[0]), int(parts[1])


class BenchCase:
    """Benchmark case: control steps of one shape, with random observations."""

    def __init__(self, config: GatoConfig, observations: int, actions: int, n_envs: int, device: str) -> None:
        value_groups = -(-observations // config.values_per_token) if config.values_per_token > 1 else 0
        first = config.vocabulary.continuous
        self.config, self.n_envs, self.device = config, n_envs, device
        self.observations, self.actions = observations, actions
        self.legal: Legal = [(first, first + 1024)] * actions
        self.value_groups, count = value_groups, value_groups or observations
        layout = config.layout(count, actions, value_groups)
        local = [-1] * layout.carried + layout.local[: layout.n_prefill].tolist()
        if max(local) >= config.local_positions:
            raise UsageError(
                f"--task {observations}/{actions}: a model of this size has {config.local_positions} positions for an "
                "observation: give fewer values"
            )
        self.layout = layout
        self.local = torch.tensor([local]).repeat(n_envs, 1)
        self.passes = [len(local)] + [1] * (layout.passes - 1)  # tokens of each in a step
        state, split, chain = Scores.of(config)
        heads = BINS * state + actions * split + (actions - 1) * chain
        self.read = [heads] * len(self.passes)  # weights of each pass besides those of the blocks
        self.read[0] += observations * VALUE_WIDTH * config.width if value_groups else 0

    def prefill(self) -> Prefill:
        """Random tokens of the next observation."""
        tokens = torch.randint(0, self.config.vocabulary.size, self.local.shape)
        if not self.value_groups:
            return Prefill(tokens, self.local, None, None)
        begin = self.layout.carried
        tokens[:, begin : begin + self.value_groups] = VALUES
        value_groups = torch.full(
            (self.n_envs, self.value_groups * self.config.values_per_token), PAD, dtype=torch.int16
        )
        value_groups[:, : self.observations] = torch.randint(0, BINS, (self.n_envs, self.observations))
        return Prefill(tokens, self.local, None, None, value_groups.view(-1, self.config.values_per_token))

    def fill(self, decoder: Decoder, context: int, prompt: int = 0) -> None:
        """Reset a decoder and step until its cache holds `context` tokens, prompt included."""
        decoder.reset(self.n_envs, self.layout.written, prompt)
        if prompt:
            tokens = torch.randint(0, self.config.vocabulary.size, (self.n_envs, prompt))
            every = torch.ones(self.n_envs, dtype=torch.bool)
            decoder.prefill_prefix(every, Prefill(tokens, torch.full_like(tokens, -1), None, None))
            decoder.reset_envs(every, prompt)
        for _ in range(math.ceil((context - prompt) / self.layout.span)):
            decoder.step(self.prefill())

    def rerun(self, model: Gato) -> Callable[[], None]:
        """Step function without a cache: the whole context is recomputed for every action token."""
        shape = self.n_envs, self.config.context
        tokens = torch.randint(0, self.config.vocabulary.size, shape, device=self.device)
        local = torch.arange(shape[1], device=self.device).remainder(self.observations + 1 + self.actions).expand(shape)

        def step() -> None:
            for at, (low, high) in enumerate(self.legal):
                hidden = model(tokens, local=local.clamp(max=self.observations - 1))[:, -1]
                model.logits(model.marginal_state(hidden, at), low, high).argmax(-1)

        return step


def bound_of(roofline: Roofline, case: BenchCase, context: int, precision: Precision) -> float:
    """Roofline bound of a step in seconds, with `context` tokens in the cache.

    On a CPU the peak is that of float32 for all weights. On a GPU the bound is at least the launch latency.
    """
    c = case.config
    weight_bytes, cache_bytes = {"float32": (4, 4), "bfloat16": (2, 2), "int8": (1, 2)}[precision]
    parameters = c.layers * (4 * c.width**2 + c.width * c.feed_forward + c.width * c.feed_forward // 2)
    total = 0.0
    for n, read in zip(case.passes, case.read, strict=True):
        cached = 2 * case.n_envs * c.layers * min(context, c.context) * c.width
        size = (parameters + read) * weight_bytes + cached * cache_bytes
        operations = 2 * case.n_envs * n * parameters + 2 * n * cached
        peak = roofline.peak(torch.float32 if roofline.device == "cpu" else getattr(torch, precision))
        total += max(size / roofline.bandwidth(size), operations / peak)
    return max(total, roofline.launch)
