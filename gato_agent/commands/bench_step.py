"""How fast a control step is, beside what the machine could do at best and what others take.

The floor of a pass is what it must at least cost: its bytes over the measured memory bandwidth, or its operations over
the measured peak of a matrix product, whichever is larger. A step of A action tokens is one prefill and A - 1 passes.
"""

import json
import math
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich import box
from rich.table import Table
from torch import Tensor

from gato_agent.commands.roofline import WARM_UP, Roofline, timed
from gato_agent.envs.errors import UsageError, at_least
from gato_agent.envs.files import write_files
from gato_agent.envs.io.console import plain_console
from gato_agent.inference.cpu_decoder import CpuDecoder, make_decoder
from gato_agent.inference.cuda_graph_decoder import GraphDecoder
from gato_agent.inference.decoder import Decoder, Legal, Precision, Prefill, TorchDecoder
from gato_agent.inference.options import resolve_device
from gato_agent.model.action_decoder import CHOSEN_WIDTH, STATE_WIDTH
from gato_agent.model.config import GatoConfig
from gato_agent.model.embedding import VALUE_WIDTH
from gato_agent.model.gato import Gato
from gato_agent.tokens.space_tokenizer import BINS, PAD, VALUES
from gato_agent.tokens.timestep_layout import TimestepLayout


@dataclass(frozen=True)
class BenchConfig:
    """Time control steps of untrained models; every ratio is of two figures of this run."""

    what: Annotated[Literal["step"], tyro.conf.Positional] = "step"
    """step: control steps with a full context, beside their floor, the uncached model, PyTorch and a peer."""
    size: tuple[str, ...] = ("nano", "tiny")
    """nano, tiny, small, baseline or large; one or several."""
    shape: str = "{}"
    """Fields of each size to change, as JSON: {"values_per_token": 64, "action_decoder": true}."""
    task: tuple[str, ...] = ("4/1", "17/6")
    """Values of an observation / action tokens."""
    n_envs: tuple[int, ...] = (1,)
    """Environments at once."""
    precision: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
    """Of the weights; int8 on a CPU only."""
    context: int | None = None
    """Filled context in tokens; by default all of it."""
    prompt: int = 0
    """Tokens that are kept as prefix before it, as instructions are."""
    device: str = "auto"
    """auto, cpu or cuda."""
    num_threads: int = 1
    """CPU threads."""
    repeats: int = 50
    """Timed steps of each kind."""
    compare: bool = True
    """Also time the uncached model, PyTorch's operators with the cache, and GPT-2 of Hugging Face (if installed)."""
    compiled: bool = False
    """On a GPU, also time blocks that were compiled, which takes minutes."""
    json: Path | None = None
    """Write the figures to this file too."""


@dataclass(frozen=True)
class StepTiming:
    """One row; times in milliseconds a step, of all environments together; None where it was not measured."""

    size: str
    task: str
    n_envs: int
    decoder: str
    context: int
    median: float
    p99: float
    cpu: float
    """Processor time, median: what counts on a machine that others use too."""
    floor: float
    over_floor: float
    """Over the floor: CPU-ms of one thread, else wall time."""
    steps_per_second: float


def bench(config: BenchConfig) -> list[StepTiming]:
    """Run the benchmark, print its table, and write `--json`.

    Raises:
        UsageError: an unknown size or task.
    """
    at_least(0, prompt=config.prompt)
    at_least(
        1, n_envs=min(config.n_envs), num_threads=config.num_threads, repeats=config.repeats, context=config.context
    )
    torch.set_num_threads(config.num_threads)
    device, console = resolve_device(config.device), plain_console(soft_wrap=True)
    rows: list[StepTiming] = []
    roofline = Roofline(device)
    for size in config.size:
        torch.manual_seed(0)
        with torch.device(device):
            model = Gato(GatoConfig.named(size).reshaped(config.shape)).eval()
        for task in config.task:
            for n_envs in config.n_envs:
                rows += measure(config, roofline, size, model, BenchCase(model.config, *counts(task), n_envs, device))
    console.print(table(rows))
    if config.json:
        data = {
            "machine": platform.processor() or platform.machine(), "device": device, "threads": config.num_threads,
            "torch": torch.__version__, "steps": [asdict(row) for row in rows],
        }  # fmt: skip
        write_files({config.json: json.dumps(data, indent=2).encode()})
    return rows


def counts(task: str) -> tuple[int, int]:
    """`17/6` -> 17 observation tokens and 6 action tokens; raises UsageError for anything else."""
    parts = task.split("/")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(f"--task {task}: write observation tokens / action tokens, such as 17/6")
    return int(parts[0]), int(parts[1])


class BenchCase:
    """Control steps of one shape, with random observations."""

    def __init__(self, config: GatoConfig, observations: int, actions: int, n_envs: int, device: str) -> None:
        value_groups = -(-observations // config.values_per_token) if config.values_per_token > 1 else 0
        first = config.vocabulary.continuous
        self.config, self.n_envs, self.device = config, n_envs, device
        self.observations, self.actions = observations, actions
        self.legal: Legal = [(first, first + 1024)] * actions
        self.value_groups, count = value_groups, value_groups or observations
        layout = TimestepLayout(count, actions, config.action_decoder, config.past_actions, value_groups)
        local = [-1] * layout.carried + layout.local[: layout.n_prefill].tolist()
        if max(local) >= config.local_positions:
            raise UsageError(
                f"--task {observations}/{actions}: a model of this size has {config.local_positions} places"
            )
        self.layout = layout
        self.local = torch.tensor([local]).repeat(n_envs, 1)
        self.passes = [len(local)] + [1] * (0 if config.action_decoder else actions - 1)  # tokens of each in a step
        chain = (
            config.width * STATE_WIDTH + STATE_WIDTH**2 + CHOSEN_WIDTH * STATE_WIDTH
        )  # of a token given those before
        heads = (actions * config.width + BINS) * STATE_WIDTH + (actions - 1) * chain
        heads = heads if config.action_decoder else BINS * config.width
        self.read = [heads] * len(self.passes)  # weights of each pass besides those of the blocks
        self.read[0] += observations * VALUE_WIDTH * config.width if value_groups else 0

    def prefill(self) -> Prefill:
        """The next observation."""
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
        """Start anew and step until `context` tokens are held, the prompt's among them."""
        decoder.reset(self.n_envs, self.layout.written, prompt)
        if prompt:
            tokens = torch.randint(0, self.config.vocabulary.size, (self.n_envs, prompt))
            every = torch.ones(self.n_envs, dtype=torch.bool)
            decoder.prefill_prefix(every, Prefill(tokens, torch.full_like(tokens, -1), None, None))
            decoder.reset_envs(every, prompt)
        for _ in range(math.ceil((context - prompt) / self.layout.span)):
            decoder.step(self.prefill())

    def rerun(self, model: Gato) -> Callable[[], None]:
        """A step without a cache: everything is computed again for every action token."""
        shape = self.n_envs, self.config.context
        window = torch.randint(0, self.config.vocabulary.size, shape, device=self.device)
        local = torch.arange(shape[1], device=self.device).remainder(self.observations + 1 + self.actions).expand(shape)

        def step() -> None:
            for low, high in self.legal:
                model.logits(model(window, local=local.clamp(max=self.observations - 1))[:, -1], low, high).argmax(-1)

        return step


def floor_of(roofline: Roofline, job: BenchCase, context: int, precision: Precision) -> float:
    """The least that a step can take, in seconds, when `context` tokens are held.

    Sums are of float32 on a CPU whatever the weights are. On a GPU it is at least the launch of a graph.
    """
    c = job.config
    weight, kept = {"float32": (4, 4), "bfloat16": (2, 2), "int8": (1, 2)}[precision]
    parameters = c.layers * (4 * c.width**2 + c.width * c.feed_forward + c.width * c.feed_forward // 2)
    total = 0.0
    for n, read in zip(job.passes, job.read, strict=True):
        cached = 2 * job.n_envs * c.layers * min(context, c.context) * c.width
        size = (parameters + read) * weight + cached * kept
        operations = 2 * job.n_envs * n * parameters + 2 * n * cached
        peak = roofline.peak(torch.float32 if roofline.device == "cpu" else getattr(torch, precision))
        total += max(size / roofline.bandwidth(size), operations / peak)
    return max(total, roofline.launch)


@torch.inference_mode()
def measure(config: BenchConfig, roofline: Roofline, size: str, model: Gato, job: BenchCase) -> list[StepTiming]:
    """Every way to take one step, each on a context that it filled itself."""
    context = min(config.context or model.config.context, model.config.context)

    def row(
        name: str, step: Callable[[], object], precision: Precision = "float32", share: int = 1, held: int = context
    ) -> StepTiming:
        walls, cpus = timed(step, max(5, config.repeats // share), job.device)
        median = statistics.median(walls)
        floor, cpu = floor_of(roofline, job, held, precision), statistics.median(cpus)
        taken = cpu if job.device == "cpu" and config.num_threads == 1 else median
        return StepTiming(
            size, f"{job.observations}/{job.actions}", job.n_envs, name, context, median * 1e3,
            sorted(walls)[math.ceil(0.99 * len(walls)) - 1] * 1e3, cpu * 1e3, floor * 1e3, taken / floor,
            job.n_envs / median,
        )  # fmt: skip

    def cached(name: str, decoder: Decoder, precision: Precision = "float32") -> StepTiming:
        more = 0 if context == model.config.context else (config.repeats + WARM_UP) * job.layout.span
        begin = max(context - more, config.prompt + 1)  # so that it is filled in the end
        job.fill(decoder, begin, config.prompt)
        return row(name, lambda: decoder.step(job.prefill()), precision, held=begin + more // 2)

    rows = [cached(f"{name} {precision}", decoder, precision) for name, decoder, precision in fast(config, model, job)]
    if config.compare or not rows:
        rows.append(cached("pytorch", TorchDecoder(model, job.legal)))
    if model.config.action_decoder or model.config.values_per_token > 1:  # others have nothing like it
        return rows
    if config.compare and context == model.config.context:
        rows.append(row("uncached", job.rerun(model), share=10))
    if config.compare and (peer := gpt2(job, context)):
        rows.append(row("transformers", peer, share=5))
    return rows


def fast(config: BenchConfig, model: Gato, job: BenchCase) -> Iterator[tuple[str, Decoder, Precision]]:
    """The decoders that agents play with here, and their names."""
    for precision in config.precision:
        if job.device != "cpu" and precision == "int8":
            continue
        decoder = make_decoder(model, job.legal, precision, config.num_threads)
        if isinstance(decoder, CpuDecoder):
            yield "engine", decoder, precision
        elif isinstance(decoder, GraphDecoder):
            yield "graph", decoder, precision
            if config.compiled:
                yield "compiled", GraphDecoder(model, job.legal, precision, compiled=True), precision


def gpt2(job: BenchCase, context: int) -> Callable[[], None] | None:
    """A step of an equally shaped GPT-2 of Hugging Face with its own cache; None where it is not installed."""
    try:
        from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel
    except ImportError:
        return None
    c = job.config
    added = sum(job.passes)
    shape = GPT2Config(
        vocab_size=c.vocabulary.size, n_positions=c.context + added, n_layer=c.layers, n_head=c.heads, n_embd=c.width,
        n_inner=c.feed_forward * 3 // 4, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    peer, state = GPT2LMHeadModel(shape), DynamicCache()
    torch.nn.Module.to(peer, job.device).train(False)
    peer(
        torch.zeros(job.n_envs, context, dtype=torch.int64, device=job.device), past_key_values=state, logits_to_keep=1
    )

    def step() -> None:
        tokens: Tensor = job.prefill().tokens.to(job.device)
        for _ in range(job.actions):
            logits = peer(tokens, past_key_values=state, use_cache=True, logits_to_keep=1).logits
            tokens = logits[:, -1:].argmax(-1)
        state.crop(-added)

    return step


def table(rows: list[StepTiming]) -> Table:
    """The figures as a person reads them."""
    shown = Table("model", "task", title="control steps", box=box.SIMPLE, padding=0, collapse_padding=True)
    for name in ("n-envs", "decoder", "ms", "p99", "CPU-ms", "floor", "over it", "steps/s", "slower"):
        shown.add_column(name, justify="left" if name == "decoder" else "right", no_wrap=True)
    best: dict[tuple[str, str, int], float] = {}
    for r in rows:
        taken = r.over_floor * r.floor
        first = best.setdefault((r.size, r.task, r.n_envs), taken)
        shown.add_row(
            r.size, r.task, str(r.n_envs), r.decoder, f"{r.median:.2f}", f"{r.p99:.2f}", f"{r.cpu:.2f}",
            f"{r.floor:.2f}", f"{r.over_floor:.1f}x", f"{r.steps_per_second:,.0f}", f"{taken / first:.1f}x",
        )  # fmt: skip
    shown.caption = "over it: CPU-ms (with threads: ms) over the floor; slower: over the first row of the same job"
    return shown
