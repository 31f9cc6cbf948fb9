"""Steps of some environments: equal to those of each alone, and without effect on all others."""

import dataclasses

import pytest
import torch

from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.decoder import Prefill, StepOptions
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from tests.helpers.driving import Driver, observe, random_prompts
from tests.helpers.harsh import harsh
from tests.helpers.shapes import LAYOUTS, NANO
from tests.helpers.traced import TracedDecoder

SMALL = dataclasses.replace(NANO, context=40, layers=2)
ENVS, PROMPT = 4, 5
Kind = type[CpuDecoder] | type[TorchDecoder] | type[TracedDecoder]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [CpuDecoder, TorchDecoder, pytest.param(TracedDecoder, marks=pytest.mark.slow)])
def test_steps_of_some_environments_equal_those_of_each_alone(layout: str, kind: Kind) -> None:
    """Past the context, with prompts, episodes that begin at different steps, and every number of environments."""
    model = harsh(dataclasses.replace(SMALL, **LAYOUTS[layout]))
    together, alone = Driver(model, ENVS, kind, PROMPT), [Driver(model, 1, kind, PROMPT) for _ in range(ENVS)]
    layout_, generator = together.layout, torch.Generator().manual_seed(0)
    separators = torch.full((ENVS, layout_.n_separators), model.config.vocabulary.separator)
    error = 0 if kind is CpuDecoder else 1e-5
    begun, sizes = torch.zeros(ENVS, dtype=torch.bool), set[int]()
    for t in range(60):
        envs = torch.randperm(ENVS, generator=generator)[: int(torch.randint(1, ENVS + 1, (), generator=generator))]
        envs = envs.sort().values
        start = torch.zeros(ENVS, dtype=torch.bool)
        start[envs] = ~begun[envs] | (torch.rand(len(envs), generator=generator) < 0.05)
        begun |= start
        if start.any():
            prompts = random_prompts(model.config, int(start.sum()), PROMPT, seed=t)
            together.start(start, prompts)
            for env, prompt in zip(start.nonzero().flatten().tolist(), prompts, strict=True):
                alone[env].start(torch.tensor([True]), prompt.unsqueeze(0))
        seen, groups = observe(model.config, (len(envs),), generator)
        uniforms = torch.rand(len(envs), len(together.legal), generator=generator, dtype=torch.float64)
        options = [StepOptions(uniforms, torch.tensor(0.8, dtype=torch.float64)), StepOptions()][t % 2]
        tokens = torch.cat((together.last[envs], seen, separators[: len(envs)]), dim=1)
        read = groups if layout_.value_groups else None
        prefill = Prefill(tokens, together.local[: len(envs)], None, None, read)
        actions = together.decoder.step(prefill, options, envs)
        together.last[envs] = actions[:, actions.shape[1] - layout_.carried :]
        sizes.add(len(envs))
        for row, env in enumerate(envs.tolist()):
            one = slice(row, row + 1)
            own = options if options.uniforms is None else options._replace(uniforms=options.uniforms[one])
            assert torch.equal(alone[env].step(seen[one], groups[one], torch.tensor([False]), own)[0], actions[row])
            for a, b in zip(alone[env].decoder.logits, together.decoder.logits, strict=True):
                assert len(b) == len(envs)
                torch.testing.assert_close(a[0], b[row], atol=error, rtol=error)
    assert sizes == set(range(1, ENVS + 1))


@pytest.mark.parametrize("envs", [[4], [-1], [1, 1], [2, 1], [0, 1, 2, 3, 3]])
@pytest.mark.parametrize("kind", [CpuDecoder, TorchDecoder])
def test_environments_that_are_not_in_rising_order_are_refused(kind: Kind, envs: list[int]) -> None:
    driver = Driver(harsh(SMALL), ENVS, kind)
    driver.step(*observe(SMALL, (ENVS,), torch.Generator().manual_seed(0)), torch.ones(ENVS, dtype=torch.bool))
    tokens = torch.zeros(len(envs), driver.local.shape[1], dtype=torch.int64)
    with pytest.raises(ValueError, match="envs must be environments of the cache, each once and in rising order"):
        driver.decoder.step(Prefill(tokens, tokens - 1, None, None), envs=torch.tensor(envs))
