"""One control step of one task as a module of tensors: raw observations and memory in, actions and memory out."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import UsageError
from gato_agent.exporting.actions import ActionTable
from gato_agent.exporting.graph_cache import GraphCache, PromptKeys, PromptPass
from gato_agent.exporting.observation import Encoded, ObservationEncoder
from gato_agent.exporting.signature import signature_of
from gato_agent.inference.decoders.decoder import GREEDY, Prefill, StepOptions
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.inference.prompting import Prompter
from gato_agent.model.gato import Gato
from gato_agent.model.rope import frequencies
from gato_agent.tokens.space_tokenizer import PAD

LONGEST_ACTION = 512  # tokens; the graph has operators of its own for each


def cached_pass(model: Gato, x: Tensor, tokens: Tensor, cache: GraphCache) -> Tensor:
    """Hidden states of the next tokens [env, n] of every environment, from their vectors x: [env, n, width]."""
    for block, attention in zip(model.blocks, cache.attention(tokens), strict=True):
        x = block(x, attention)
    return model.norm(x)  # type: ignore[no-any-return]


class CachedModel:
    """A `Gato` whose passes over action tokens read a `GraphCache`, for `TorchDecoder`."""

    def __init__(self, model: Gato) -> None:
        self._model, self.config, self.norm = model, model.config, model.norm
        self.action_decoder, self.logits = model.action_decoder, model.logits

    def __call__(self, tokens: Tensor, cache: GraphCache) -> Tensor:
        """Hidden states [env, n, width] of action tokens [env, n]."""
        return cached_pass(self._model, self._model.embedding.table(tokens), tokens, cache)


class ControlStep(nn.Module):
    """Control step of one task.

    Args:
        checkpoint: the model.
        task: one of its tasks.
        prompter: of the task, with the prompt that episodes begin with.
        num_envs: environments, one row of each array.
        temperature: of the sampling; 0 for greedy.

    Attributes:
        signature: inputs and outputs of `forward`, in order.

    Raises:
        UsageError: the action has more tokens than a graph should write out.
    """

    def __init__(
        self, checkpoint: Checkpoint, task: TrainedTask, prompter: Prompter, num_envs: int = 1,
        temperature: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self._model, config = checkpoint.model, checkpoint.model.config
        tokenizer, self._temperature = task.tokenizer(config, checkpoint.text), temperature
        if tokenizer.n_act > LONGEST_ACTION:
            raise UsageError(f"{task.id}: an action of {tokenizer.n_act} tokens, and a graph writes out at most "
                             f"{LONGEST_ACTION}: play it with gato-agent")  # fmt: skip
        self._layout = tokenizer.layout
        self._encode = ObservationEncoder(tokenizer, task.observation_space, config.vocabulary.continuous)
        self._act = ActionTable(tokenizer, task.action_space)
        self._decoder = TorchDecoder(
            CachedModel(checkpoint.model),  # type: ignore[arg-type]  # what a decoder needs of a model
            [(int(low), int(high)) for low, high in tokenizer.legal],
        )
        frequencies(config.head_size, torch.device("cpu"))  # cached here, a traced tensor would stay in the cache
        self._begin = prompter.tokens - self._layout.carried
        self._cache = GraphCache(config, num_envs, self._layout.written - 1, prompter.tokens)
        local = torch.from_numpy(self._layout.local[: self._layout.n_prefill])
        with torch.no_grad():
            positions = checkpoint.model.embedding.local(local.clamp(min=0)) * (local >= 0).unsqueeze(-1)
        self._positions = nn.functional.pad(positions, (0, 0, self._layout.carried, 0))
        self._intervals = torch.from_numpy(tokenizer.patch_intervals).repeat(num_envs, 1, 1)
        self._separators = torch.full((num_envs, self._layout.n_separators), config.vocabulary.separator)
        constant = prompter.reset(num_envs)
        with torch.no_grad():
            self._prompt = None if constant is None else self._prompt_keys(constant)
        self.signature = signature_of(task, tokenizer, self._cache, config, num_envs, temperature, prompter.instruction)

    def _prompt_keys(self, prompts: Prefill) -> PromptKeys:
        """Keys and values of prompts, a row for each environment."""
        tokens, local, patches, intervals, value_groups = prompts
        cache = PromptPass()
        self._model(tokens, patches, local=local, intervals=intervals, value_groups=value_groups, cache=cache)
        return cache.keys()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One step; `signature` has the names, shapes and dtypes of inputs and outputs."""
        arrays = dict(zip((port.name for port in self.signature.inputs), inputs, strict=True))
        columns = {
            port.leaf: arrays[port.name]
            for port in self.signature.inputs
            if port.role == "observation" and port.leaf is not None
        }
        cache = self._cache.load(self._rings(arrays), arrays["state/index"], arrays["state/next_position"],
                                 self._prompts(arrays))  # fmt: skip
        cache.begin(arrays["start"], self._begin)
        encoded = self._encode(columns)
        self._decoder.cache = cache
        hidden = cached_pass(self._model, *self._embed(encoded, arrays), cache)
        ids = self._decoder.decode_action(hidden, self._options(arrays.get("uniforms")))
        state = self._state(cache, ids)
        return (*self._act(ids), encoded.valid, *(state[name] for name, _ in self.signature.states))

    def _options(self, uniforms: Tensor | None) -> StepOptions:
        if uniforms is None:
            return GREEDY
        return StepOptions(uniforms, torch.tensor(self._temperature, dtype=torch.float64))

    def _rings(self, arrays: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer."""
        layers = range(self._model.config.layers)
        return [(arrays[f"state/k/{layer}"], arrays[f"state/v/{layer}"]) for layer in layers]

    def _state(self, cache: GraphCache, ids: Tensor) -> dict[str, Tensor]:
        """Arrays for the next step, by the names under which it takes them."""
        state = {"state/index": cache.index, "state/next_position": cache.next_position}
        for layer, (k, v) in enumerate(cache.rings):
            state |= {f"state/k/{layer}": k, f"state/v/{layer}": v}
        if cache.prompt is not None:
            state |= {f"state/prompt_{name}": part for name, part in cache.prompt._asdict().items()}
        return {**state, "state/last_action": ids[:, ids.shape[1] - self._layout.carried :]}

    def _embed(self, encoded: Encoded, arrays: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Vectors [env, n, width] of the tokens of a step, and tokens [env, n], of which only pads matter."""
        embedding, before, rows = self._model.embedding, encoded.texts, len(encoded.texts)
        if self._layout.carried:
            last = arrays["state/last_action"].masked_fill(arrays["start"].unsqueeze(1), PAD)
            before = torch.cat((last, before), dim=1)
        parts = [embedding.table(before.clamp(min=0))]
        if len(self._intervals):
            vectors = embedding.patch(encoded.patches.flatten(0, 1), self._intervals)
            parts.append(vectors.unflatten(0, (rows, -1)))
        if self._layout.value_groups:
            parts.append(embedding.value_group(encoded.values.flatten(0, 1)).unflatten(0, (rows, -1)))
        else:
            parts.append(embedding.table(encoded.values))
        x = torch.cat([*parts, embedding.table(self._separators)], dim=1) + self._positions
        others = torch.zeros(rows, x.shape[1] - before.shape[1], dtype=torch.int64)
        return x, torch.cat((before, others), dim=1)

    def _prompts(self, arrays: Mapping[str, Tensor]) -> PromptKeys | None:
        """Prompts of the environments; where an episode begins, its instruction is read."""
        instruction, start = arrays.get("instruction"), arrays["start"]
        if instruction is None:
            return self._prompt

        def read(k: Tensor, v: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
            new = self._prompt_keys(Prefill(instruction, torch.full_like(instruction, -1), None, None))
            rows, row = start[:, None, None, None], start[:, None]
            seen = (row & new.visible) | (~row & visible)  # ONNX Runtime has no Where of bools
            return torch.where(rows, new.k, k), torch.where(rows, new.v, v), seen

        def copy(*parts: Tensor) -> tuple[Tensor, ...]:
            return tuple(part.clone() for part in parts)

        before = tuple(arrays[f"state/prompt_{name}"] for name in PromptKeys._fields)
        return PromptKeys(*torch.cond(start.any(), read, copy, before))
