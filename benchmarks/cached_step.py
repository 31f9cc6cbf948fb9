"""How much the cache saves: a control step with it, over re-running the whole window for every action token.

    python benchmarks/cached_step.py [--size nano] [--num-threads 1]

Both decode the same action from a full context, one lane, one process; medians.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Table

from gato_agent.cache import Cache
from gato_agent.config import GatoConfig
from gato_agent.decode import Prefill, control_step, greedy
from gato_agent.model import Gato

TASKS = {"4 observations, 1 action": (4, 1), "17 observations, 6 actions": (17, 6)}


@dataclass(frozen=True)
class Config:
    """Compare cached control steps with uncached ones."""

    size: str = "nano"
    """nano, tiny, small, ..."""
    num_threads: int = 1
    """CPU threads."""
    repeats: int = 50
    """Timed steps of each kind; the median counts."""


def median_ms(step: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call in milliseconds, after a warm-up."""
    times = []
    for _ in range(repeats + 5):
        began = time.perf_counter()
        step()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times[5:])


@torch.inference_mode()
def compare(config: GatoConfig, observations: int, actions: int, repeats: int) -> tuple[float, float]:
    """Milliseconds per environment step, cached and uncached."""
    torch.manual_seed(0)
    model = Gato(config).eval()
    first = config.vocabulary.continuous
    legal = [(first, first + 1024)] * actions
    local = torch.tensor([[-1, *range(observations), -1]])

    def prefill() -> Prefill:
        return Prefill(torch.randint(0, config.vocabulary.size, local.shape), local, None, None)

    cache = Cache(config, 1, observations + 2)
    while cache.filled < cache.slots:
        control_step(model, cache, prefill(), legal, greedy)
    cached = median_ms(lambda: control_step(model, cache, prefill(), legal, greedy), repeats)

    window = torch.randint(0, config.vocabulary.size, (1, config.context))
    places = torch.arange(config.context).remainder(observations + 1 + actions).unsqueeze(0)

    def rerun() -> None:
        for low, high in legal:  # an agent without a cache computes everything again for every action token
            model.logits(model(window, local=places.clamp(max=observations - 1))[:, -1], low, high).argmax(-1)

    return cached, median_ms(rerun, max(5, repeats // 5))


def main(config: Config) -> None:
    """Print the table."""
    torch.set_num_threads(config.num_threads)
    size = GatoConfig.named(config.size)
    table = Table("task", title=f"{config.size}, context {size.context} full, {config.num_threads} thread(s), fp32")
    for name in ("cached ms/step", "re-run ms/step", "ratio"):
        table.add_column(name, justify="right")
    for name, (observations, actions) in TASKS.items():
        cached, rerun = compare(size, observations, actions, config.repeats)
        table.add_row(name, f"{cached:.2f}", f"{rerun:.2f}", f"{rerun / cached:.1f}x")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Config))
