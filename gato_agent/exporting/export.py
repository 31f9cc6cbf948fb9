"""Files of an exported control step: the graph, the JSON that describes it, and the text model if it reads texts."""

import hashlib
import io
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.envs.errors import GatoError, UsageError, at_least, one_line
from gato_agent.envs.files import make_folder, write_files
from gato_agent.envs.io.strict_json import with_digest
from gato_agent.envs.spaces.flatten import space_to_json
from gato_agent.envs.tasks.packages import suppress_output
from gato_agent.exporting.control_step import ControlStep
from gato_agent.exporting.signature import FORMAT, TEXT_MODEL, Signature, dropped
from gato_agent.inference.decoders.sampling import check_temperature
from gato_agent.inference.prompting import Prompter
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.prompt import Kind

Format = Literal["onnx", "torch"]
SUFFIXES = dict(zip(get_args(Format), (".onnx", ".pt2"), strict=True))
LARGEST = 2**31 - 2**24  # bytes of weights in an ONNX file, whose limit is 2 GiB


def export(
    checkpoint: Checkpoint, task: TrainedTask, out: Path, format: Format = "onnx", *,  # noqa: A002 (as the option)
    num_envs: int = 1, temperature: float | None = None, prompt: Kind | None = None,
    demonstration: Episode | None = None,
) -> list[Path]:  # fmt: skip
    """Write one control step of a task as a graph, with the JSON that describes it.

    Args:
        checkpoint: the model, on the CPU.
        task: one of its tasks.
        out: file of the graph; the others have its name with other endings.
        format: `onnx`, or `torch` for `torch.export.load`.
        num_envs: environments, one row of each array.
        temperature: of the sampling; 0 for greedy; by default the task's.
        prompt: `none`, or by default the kind that the task was trained with.
        demonstration: an episode of the task, for an agent that was trained with demonstrations.

    Returns:
        The files, the graph first.

    Raises:
        UsageError: a file exists, an option is out of range, the extra is missing, or the model is too large.
        GatoError: the graph cannot be made.
        OSError: a file cannot be written.
    """
    at_least(1, n_envs=num_envs)
    check_temperature(temperature)
    files = checked_files(checkpoint, out, format)
    tokenizer, text = task.tokenizer(checkpoint.model.config, checkpoint.text), checkpoint.text
    prompter = Prompter(task, tokenizer, text.encode if text else None, prompt, demonstration)
    temperature = task.temperature if temperature is None else temperature
    try:
        step = ControlStep(checkpoint, task, prompter, num_envs, temperature).eval()
    except (MemoryError, OverflowError, RuntimeError, TypeError) as error:  # TypeError: beyond PyTorch's sizes
        raise UsageError(f"--n-envs {num_envs}: no cache can be made ({one_line(error):.200}): use fewer") from error
    graph, about, model = files
    contents = {graph: to_bytes(step, format)}
    described = description(checkpoint, task, step.signature, num_envs, temperature) | {"graph": graph.name}
    described["sha256"] = {"graph": hashlib.sha256(contents[graph]).hexdigest()}
    if text is not None and (prompter.instruction is not None or tokenizer.parts.texts):
        contents[model] = text.model
        described["text_model"] = model.name
        described["sha256"]["text_model"] = hashlib.sha256(text.model).hexdigest()
    write_files({**contents, about: with_digest(described, indent=2)})
    return [graph, about, *([model] if model in contents else [])]


def checked_files(checkpoint: Checkpoint, out: Path, format: Format) -> tuple[Path, Path, Path]:  # noqa: A002
    """Paths of graph, JSON and text model; raises UsageError where they cannot be written, before the work begins."""
    if out.suffix != SUFFIXES[format]:
        raise UsageError(f"--out {out}: a graph of --format {format} is a file that ends in {SUFFIXES[format]}")
    files = out, out.with_suffix(".json"), out.with_suffix(TEXT_MODEL)
    for path in files:
        if path.exists():
            raise UsageError(f"--out {path} exists: remove it, or choose another name")
    size = sum(4 * part.numel() for part in checkpoint.model.state_dict().values())
    if format == "onnx":
        load_onnx()
        if size > LARGEST:
            raise UsageError(f"{checkpoint.name}: {size / 4:,.0f} parameters are {size / 2**30:.1f} GiB, and an ONNX "
                             "file holds 2: use --format torch")  # fmt: skip
    make_folder(out.parent)
    return files


def load_onnx() -> None:
    """Import what PyTorch's exporter needs; raises UsageError with the extra to install."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"ONNX is missing ({one_line(error)}): pip install 'gato-agent[export]'") from error


def example_inputs(signature: Signature) -> tuple[torch.Tensor, ...]:
    """Arrays of zeros, as before the first step."""
    return tuple(torch.from_numpy(np.zeros(port.shape, port.dtype)) for port in signature.inputs)


@torch.no_grad()
def to_bytes(step: ControlStep, format: Format) -> bytes:  # noqa: A002
    """The graph as the content of a file; the same step gives the same bytes.

    Raises:
        GatoError: PyTorch cannot trace or convert it.
    """
    inputs = example_inputs(step.signature)
    try:
        with suppress_output():
            program = torch.export.export(step, inputs, strict=False)
            _strip(program)
            return _onnx(program, step.signature) if format == "onnx" else _saved(program)
    except RuntimeError as error:
        raise GatoError(f"the control step cannot be exported: {one_line(error):.300}") from error


def _strip(program: torch.export.ExportedProgram) -> None:
    """Remove paths of this machine from all nodes, those of nested graphs included."""
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
                node.meta.pop(key, None)


def _saved(program: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _onnx(program: torch.export.ExportedProgram, signature: Signature) -> bytes:
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    converted = torch.onnx.export(
        program, (), dynamo=True, verbose=False, input_names=[port.name for port in signature.inputs],
        output_names=[port.name for port in signature.outputs],
    )  # fmt: skip
    assert converted is not None
    RemoveUnusedNodesPass()(converted.model)
    for node in converted.model.graph.all_nodes():
        node.metadata_props.clear()
    return bytes(converted.model_proto.SerializeToString(deterministic=True))


def description(
    checkpoint: Checkpoint, task: TrainedTask, signature: Signature, num_envs: int, temperature: float
) -> dict[str, Any]:  # fmt: skip
    """Content of the JSON beside a graph, without the names of its files."""
    return {
        "format": FORMAT,
        "task": task.id,
        "weights": checkpoint.sha256(),
        "num_envs": num_envs,
        "temperature": temperature,
        **signature.to_json(),
        "unread": sorted(dropped(task) - {port.leaf for port in signature.inputs}),
        "observation_space": space_to_json(task.observation_space),
        "action_space": space_to_json(task.action_space),
    }
