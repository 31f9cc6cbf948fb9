"""The verb `bench step`: latency of control steps relative to the roofline, PyTorch and GPT-2.

The roofline bound of a forward pass is its bytes over the measured memory bandwidth, or its FLOPs over the measured
peak of a matrix product, whichever is larger. A step of A action tokens is one prefill and A - 1 passes.
"""

import math
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from gato_agent.commands.bench.roofline import WARM_UP, Roofline, timed
from gato_agent.commands.bench.step_case import BenchCase, bound_of, counts
from gato_agent.commands.model_fields import ModelFields, expand_json
from gato_agent.envs.errors import at_least
from gato_agent.envs.io.console import plain_console
from gato_agent.envs.io.json_output import write_json
from gato_agent.inference.decoders.cpu_decoder import CpuDecoder
from gato_agent.inference.decoders.cuda_graph_decoder import GraphDecoder
from gato_agent.inference.decoders.decoder import Decoder, Precision
from gato_agent.inference.decoders.make_decoder import make_decoder
from gato_agent.inference.decoders.torch_decoder import TorchDecoder
from gato_agent.inference.options import resolve_device
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.native.build import check_threads

__all__ = ["BenchConfig", "StepTiming", "bench", "expand_json"]


@dataclass(frozen=True)
class BenchConfig:
    """Time control steps of untrained models; every ratio compares two measurements of this run."""

    size: tuple[str, ...] = ("nano", "tiny")
    """Model sizes: nano, tiny, small, baseline or large."""
    task: tuple[str, ...] = ("4/1", "17/6")
    """Values of an observation / tokens of an action."""
    n_envs: tuple[int, ...] = (1,)
    """Parallel environments (batch size), at least 1."""
    precision: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
    """Precision of the weights; int8 on a CPU only."""
    context: int | None = None
    """Context length in tokens that is filled before timing; by default the model's."""
    prompt: int = 0
    """Prompt length in tokens, kept as a prefix of the context; at least 0."""
    device: str = "auto"
    """Device: auto, cpu or cuda."""
    num_threads: int = 1
    """CPU threads, at least 1."""
    repeats: int = 50
    """Timed steps of each decoder, at least 1."""
    compare: bool = True
    """Baselines: the uncached model, PyTorch's operators with the cache, and Hugging Face's GPT-2 (if installed)."""
    json: Path | None = None
    """JSON file for the measurements; -: standard output, and messages on standard error."""
    model: ModelFields = field(default_factory=ModelFields)


@dataclass(frozen=True)
class StepTiming:
    """Timing of one decoder, in milliseconds a step of all environments together.

    Attributes:
        size: of the model.
        task: observation values / action tokens.
        n_envs: parallel environments.
        decoder: its name and precision.
        context: tokens in the cache.
        median: wall time.
        p99: wall time, 99th percentile.
        cpu: median CPU time, which other processes on the machine affect less.
        bound: roofline bound.
        over_bound: CPU time with one CPU thread, else wall time, divided by `bound`.
        steps_per_second: of all environments together.
    """

    size: str
    task: str
    n_envs: int
    decoder: str
    context: int
    median: float
    p99: float
    cpu: float
    bound: float
    over_bound: float
    steps_per_second: float


def bench(config: BenchConfig) -> list[StepTiming]:
    """Run the benchmark, print its table, and write `--json`.

    Raises:
        UsageError: an unknown size or task.
    """
    at_least(0, prompt=config.prompt)
    at_least(1, n_envs=min(config.n_envs), repeats=config.repeats, context=config.context)
    check_threads(config.num_threads)
    torch.set_num_threads(config.num_threads)
    device, console = resolve_device(config.device), plain_console(soft_wrap=True)
    rows: list[StepTiming] = []
    roofline = Roofline(device)
    for size in config.size:
        torch.manual_seed(0)
        with torch.device(device):
            model = Gato(GatoConfig.named(size).reshaped(config.model.over("{}"))).eval()
        for task in config.task:
            for n_envs in config.n_envs:
                rows += measure(config, roofline, size, model, BenchCase(model.config, *counts(task), n_envs, device))
    console.print(table(rows))
    if config.json:
        data = {
            "processor": platform.processor() or platform.machine(), "device": device, "threads": config.num_threads,
            "torch": torch.__version__, "steps": [asdict(row) for row in rows],
        }  # fmt: skip
        write_json(config.json, data)
    return rows


@torch.inference_mode()
def measure(config: BenchConfig, roofline: Roofline, size: str, model: Gato, case: BenchCase) -> list[StepTiming]:
    """Timings of all decoders in one case, each with a cache that it filled itself."""
    context = min(config.context or model.config.context, model.config.context)

    def row(
        name: str, step: Callable[[], object], precision: Precision = "float32", share: int = 1, held: int = context
    ) -> StepTiming:
        walls, cpus = timed(step, max(5, config.repeats // share), case.device)
        median = statistics.median(walls)
        bound, cpu = bound_of(roofline, case, held, precision), statistics.median(cpus)
        taken = cpu if case.device == "cpu" and config.num_threads == 1 else median
        return StepTiming(
            size, f"{case.observations}/{case.actions}", case.n_envs, name, context, median * 1e3,
            sorted(walls)[math.ceil(0.99 * len(walls)) - 1] * 1e3, cpu * 1e3, bound * 1e3, taken / bound,
            case.n_envs / median,
        )  # fmt: skip

    def cached(name: str, decoder: Decoder, precision: Precision = "float32") -> StepTiming:
        more = 0 if context == model.config.context else (config.repeats + WARM_UP) * case.layout.span
        begin = max(context - more, config.prompt + 1)  # so that the last steps have the full context
        case.fill(decoder, begin, config.prompt)
        return row(name, lambda: decoder.step(case.prefill()), precision, held=begin + more // 2)

    rows = [cached(f"{name} {precision}", decoder, precision) for name, decoder, precision in fast(config, model, case)]
    if config.compare or not rows:
        rows.append(cached("pytorch", TorchDecoder(model, case.legal)))
    if len(case.passes) < case.actions or model.config.values_per_token > 1:  # other models have no equivalent
        return rows
    if config.compare and context == model.config.context:
        rows.append(row("uncached", case.rerun(model), share=10))
    if config.compare and (peer := gpt2(case, context)):
        rows.append(row("transformers", peer, share=5))
    return rows


def fast(config: BenchConfig, model: Gato, case: BenchCase) -> Iterator[tuple[str, Decoder, Precision]]:
    """Yield the decoders that agents use on this device, with name and precision."""
    for precision in config.precision:
        if case.device != "cpu" and precision == "int8":
            continue
        decoder = make_decoder(model, case.legal, precision, config.num_threads)
        if isinstance(decoder, CpuDecoder):
            yield "CPU decoder", decoder, precision
        elif isinstance(decoder, GraphDecoder):
            yield "CUDA graphs", decoder, precision


def gpt2(case: BenchCase, context: int) -> Callable[[], None] | None:
    """Step function of Hugging Face's GPT-2 of equal shape with its cache; None if it is not installed."""
    try:
        from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
    except ImportError:
        return None
    c = case.config
    added = sum(case.passes)
    shape = GPT2Config(
        vocab_size=c.vocabulary.size, n_positions=c.context + added, n_layer=c.layers, n_head=c.heads, n_embd=c.width,
        n_inner=c.feed_forward * 3 // 4, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    peer, state = GPT2LMHeadModel(shape), DynamicCache()
    torch.nn.Module.to(peer, case.device).train(False)
    peer(
        torch.zeros(case.n_envs, context, dtype=torch.int64, device=case.device),
        past_key_values=state,
        logits_to_keep=1,
    )

    def step() -> None:
        tokens: Tensor = case.prefill().tokens.to(case.device)
        for _ in range(case.actions):
            logits = peer(tokens, past_key_values=state, use_cache=True, logits_to_keep=1).logits
            tokens = logits[:, -1:].argmax(-1)
        state.crop(-added)

    return step


def table(rows: list[StepTiming]) -> Table:
    """Table of timings."""
    shown = Table("model", "task", title="control steps", box=box.SIMPLE, padding=0, collapse_padding=True)
    for name in ("n-envs", "decoder", "ms", "p99", "CPU-ms", "bound", "x roofline", "steps/s", "slower"):
        shown.add_column(name, justify="left" if name == "decoder" else "right", no_wrap=True)
    best: dict[tuple[str, str, int], float] = {}
    for r in rows:
        taken = r.over_bound * r.bound
        first = best.setdefault((r.size, r.task, r.n_envs), taken)
        shown.add_row(
            r.size, r.task, str(r.n_envs), r.decoder, f"{r.median:.2f}", f"{r.p99:.2f}", f"{r.cpu:.2f}",
            f"{r.bound:.2f}", f"{r.over_bound:.1f}x", f"{r.steps_per_second:,.0f}", f"{taken / first:.1f}x",
        )  # fmt: skip
    shown.caption = "x roofline: CPU-ms (with threads: ms) over the roofline bound in ms; slower: over the first row"
    return shown
