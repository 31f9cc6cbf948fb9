"""Files of exported steps: what they hold, what runs them, and one clear line where they cannot be written."""

import contextlib
import dataclasses
import errno
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Text

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.trained_task import TrainedTask
from gato_agent.cli import main
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.spaces.flatten import batch, stack
from gato_agent.envs.spaces.view_transforms import Drop
from gato_agent.envs.spaces.views import View
from gato_agent.exporting import export as export_module
from gato_agent.exporting.description import read_description
from gato_agent.exporting.export import Format, export
from gato_agent.exporting.graph_actor import GraphActor
from gato_agent.inference.agent import Agent
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.tokens.prompt import Prompt
from gato_agent.tokens.text_tokenizer import TextTokenizer
from tests.helpers.exported import Compared, eager_actor, sampled_batches
from tests.helpers.harsh import harsh
from tests.helpers.shapes import NANO

ONE = {"layers": 1, "context": 32}
SPACES = (
    Dict(mission=Text(6, charset="abc"), note=Text(2, charset="abc"), x=Box(-1, 1, (3,))),
    Dict(grip=Discrete(3), move=Box(-1, 2, (2,)), say=Text(2, charset="é")),
)
VIEW = View((Drop("mission"),))
TASK = TrainedTask("Toy-v0", *SPACES, text_pieces=8, prompt=Prompt("text", 6, "", "mission"), view=VIEW)
PLAIN = TrainedTask("Plain-v0", Box(-1, 1, (3,)), Discrete(4))
FORMATS: list[tuple[Format, str]] = [("onnx", "step.onnx"), ("torch", "step.pt2")]


def checkpoint_of(task: TrainedTask, **fields: Any) -> Checkpoint:
    config = dataclasses.replace(NANO, **{**ONE, "action_decoder": True, "values_per_token": 8, **fields})
    return Checkpoint(harsh(config), {task.id: task}, TextTokenizer.train(["abc"], 300), name="toy")


def run_of(tmp_path: Path, task: TrainedTask) -> Path:
    return checkpoint_of(task).save(tmp_path / "run")


@pytest.fixture
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that writes no real graph, for tests of all else."""
    monkeypatch.setattr(export_module, "to_bytes", lambda *_: b"graph")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), FORMATS)
@pytest.mark.parametrize("fields", [{}, {"action_decoder": False, "past_actions": True}], ids=["decoder", "stream"])
def test_a_loaded_graph_acts_as_the_agent(tmp_path: Path, kind: Format, name: str, fields: dict[str, Any]) -> None:
    pytest.importorskip("onnxruntime")
    checkpoint = checkpoint_of(TASK, **fields)
    files = export(checkpoint, TASK, tmp_path / name, kind, num_envs=2)
    assert [path.name for path in files] == [name, "step.json", "step.text.model"]
    graph = tmp_path / name
    actor = GraphActor.load(graph) if kind == "onnx" else GraphActor.of_program(torch.export.load(graph), graph)
    compared = Compared(Agent(checkpoint, TASK), actor)
    compared.reset(2)
    missions = np.array(["", ""], dtype=object)
    for t, observation in enumerate(sampled_batches(TASK.observation_space, 2, 1000)):
        start = np.array([t == 0, t in (0, 500)])
        missions[start] = np.array(observation["mission"], dtype=object)[start]
        compared.act({**observation, "mission": tuple(missions)}, start)
    assert (compared.steps, compared.differing) == (1000, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), FORMATS)
def test_the_same_step_gives_the_same_bytes_without_paths(tmp_path: Path, kind: Format, name: str) -> None:
    pytest.importorskip("onnxruntime")
    first, second = (
        export(checkpoint_of(PLAIN), PLAIN, tmp_path / folder / name, kind)[0].read_bytes() for folder in "ab"
    )
    assert first == second
    assert b"control_step.py" not in first and str(Path(torch.__file__).parent).encode() not in first


@pytest.mark.slow
def test_a_torch_graph_needs_no_gato_agent(tmp_path: Path) -> None:
    export(checkpoint_of(PLAIN), PLAIN, tmp_path / "step.pt2", "torch")
    program = (
        "import json, sys, torch\n"
        "about = json.load(open('step.json'))\n"
        "step = torch.export.load('step.pt2').module()\n"
        "inputs = [torch.zeros(port['shape'], dtype=getattr(torch, port['dtype'])) for port in about['inputs']]\n"
        "print(step(*inputs)[0].shape, 'gato_agent' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.Size([1]) False"


@pytest.mark.usefixtures("no_graph")
def test_the_json_says_names_shapes_dtypes_and_units(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    export(checkpoint_of(TASK), TASK, tmp_path / "step.onnx", num_envs=3, temperature=0.5)
    about = json.loads((tmp_path / "step.json").read_text())
    inputs = {port["name"]: port for port in about["inputs"]}
    assert inputs["observation/x"] == {
        "name": "observation/x", "role": "observation", "shape": [3, 3], "dtype": "float32",
        "unit": "as the environment has it, -1.0 to 1.0", "leaf": "x",
    }  # fmt: skip
    assert inputs["observation/note"]["unit"] == "piece id, -1 after the last"
    assert inputs["instruction"]["shape"] == [3, 6] and inputs["instruction"]["leaf"] == "mission"
    assert inputs["uniforms"]["shape"] == [3, 5] and "observation/mission" not in inputs
    assert [port["name"] for port in about["outputs"]][:4] == ["action/grip", "action/move", "action/say", "valid"]
    assert {"input": "state/k/0", "output": "next_state/k/0", "first": 0} in about["states"]
    assert about["task"] == "Toy-v0" and about["graph"] == "step.onnx" and about["text_model"] == "step.text.model"


@pytest.mark.usefixtures("no_graph")
def test_a_task_without_texts_has_no_text_model(tmp_path: Path) -> None:
    files = export(checkpoint_of(PLAIN), PLAIN, tmp_path / "step.pt2", "torch")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files)
    assert [path.name for path in files] == ["step.pt2", "step.json"]


@pytest.mark.usefixtures("no_graph")
def test_no_torch_graph_is_loaded_for_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.export.load` unpickles what a file asks for."""
    graph = export(checkpoint_of(PLAIN), PLAIN, tmp_path / "step.pt2", "torch")[0]
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("the file was loaded"))
    with pytest.raises(UsageError, match=r"step\.pt2: torch\.export\.load can run code .*GraphActor\.of_program"):
        GraphActor.load(graph)


def failing(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(["export", *map(str, arguments)])
    error = capsys.readouterr().err
    assert error.startswith("gato-agent: error: ") and error.count("\n") == 1, error
    return int(stop.value.code or 0), error


@pytest.mark.usefixtures("no_graph")
@pytest.mark.parametrize("ending", [".pt2", ".json", ".text.model"])
def test_a_file_that_exists_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    out = tmp_path / f"step{ending}"
    out.write_text("mine")
    arguments = ("--env", PLAIN.id, "--checkpoint", run_of(tmp_path, PLAIN), "--format", "torch")
    code, error = failing(capsys, *arguments, "--out", tmp_path / "step.pt2")
    assert code == 2 and f"--out {out} exists: remove it, or choose another name" in error
    assert out.read_text() == "mine"


def test_wrong_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, PLAIN)
    known = ("--env", PLAIN.id, "--checkpoint", run, "--format", "torch")
    for arguments, message in [
        (("--env", "Other-v0", "--checkpoint", run, "--out", "a.onnx"), "does not know Other-v0"),
        ((*known, "--out", "a.onnx"), "a graph of --format torch is a file that ends in .pt2"),
        ((*known, "--out", "a.pt2", "--n-envs", "0"), "--n-envs 0: at least 1 is needed"),
        (
            (*known, "--out", "a.pt2", "--temperature", "-1"),
            "--temperature -1.0: use 0 for greedy actions, or 1e-06 and more",
        ),
        ((*known, "--out", "a.pt2", "--prompt", "text"), "was trained with --prompt none, not text"),
        (("--env", "x", "--checkpoint", tmp_path / "none", "--out", "a.pt2"), "no checkpoint at"),
    ]:
        code, error = failing(capsys, *arguments)
        assert code == 2 and message in error
    assert not list(tmp_path.glob("*.pt2"))


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"ONNX is missing .*pip install 'gato-agent\[export\]'"):
        export(checkpoint_of(PLAIN), PLAIN, tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_beyond_the_limit_of_a_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    checkpoint = Checkpoint(Gato.skeleton(GatoConfig.large()), {PLAIN.id: PLAIN}, name="big")
    with pytest.raises(UsageError, match=r"big: 1,[\d,]+ parameters are 4.\d GiB, and an ONNX file holds 2"):
        export(checkpoint, PLAIN, tmp_path / "step.onnx")


@pytest.mark.usefixtures("no_graph")
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    run = run_of(tmp_path, PLAIN)

    def full(files: dict[Path, bytes]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(next(iter(files))))

    monkeypatch.setattr(export_module, "write_files", full)
    out = tmp_path / "made" / "step.pt2"
    code, error = failing(capsys, "--env", PLAIN.id, "--checkpoint", run, "--format", "torch", "--out", out)
    assert code == 1 and f"{out}: No space left on device" in error
    assert not list(out.parent.iterdir())


def test_a_folder_that_is_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    run = run_of(tmp_path, PLAIN)
    out = tmp_path / "file" / "step.pt2"
    code, error = failing(capsys, "--env", PLAIN.id, "--checkpoint", run, "--format", "torch", "--out", out)
    assert code in (1, 2) and str(tmp_path / "file") in error


@pytest.mark.usefixtures("no_graph")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not the JSON of an exported graph"),
        ("[]", "is not the JSON of an exported graph"),
        ('{"format": 1}', "is not the JSON of an exported graph: it has no "),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "step.json").write_text(content)
    (tmp_path / "step.onnx").write_bytes(b"")
    with pytest.raises(GatoError, match=message):
        GraphActor.load(tmp_path / "step.onnx")


@pytest.mark.usefixtures("no_graph")
def test_a_graph_that_is_missing_damaged_or_of_another_version_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    graph = tmp_path / "step.onnx"
    with pytest.raises(UsageError, match="gato-agent export writes it beside the graph"):
        GraphActor.load(graph)
    export(checkpoint_of(PLAIN), PLAIN, graph)
    with pytest.raises(GatoError, match=r"step\.onnx cannot be loaded"):
        GraphActor.load(graph)
    about = json.loads((tmp_path / "step.json").read_text())
    graph.write_bytes(b"another")
    with pytest.raises(GatoError, match=r"step\.onnx is not the file that was exported: export it again"):
        GraphActor.load(graph)
    (tmp_path / "step.json").write_text(json.dumps({**about, "format": 2}))
    with pytest.raises(GatoError, match="has format 2 and this version reads 1: export again"):
        GraphActor.load(graph)
    graph.unlink()
    (tmp_path / "step.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match="no graph at"):
        GraphActor.load(graph)


@pytest.mark.usefixtures("no_graph")
def test_every_change_of_a_description_is_noticed(tmp_path: Path) -> None:
    """Bits that flip, with the digest; and forged values, which have none."""
    export(checkpoint_of(PLAIN), PLAIN, tmp_path / "step.onnx")
    path = tmp_path / "step.json"
    whole, rng = path.read_bytes(), random.Random(0)
    about = {key: value for key, value in json.loads(whole).items() if key != "digest"}
    for at in rng.sample(range(len(whole)), 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        with contextlib.suppress(GatoError):  # where a change of white space is none
            assert {key: value for key, value in read_description(path).items() if key != "digest"} == about
    forged = [{key: value} for key in about for value in (None, 3, [], {}, "x", [{}], [1])]
    forged += [{key: [{**about[key][0], name: value}]} for key in ("inputs", "outputs", "states")
               for name in about[key][0] for value in (None, -1, [-1], ["x"], [10**30], "x")]  # fmt: skip
    for change in forged:
        path.write_text(json.dumps({**about, **change}))
        with contextlib.suppress(GatoError):
            GraphActor(read_description(path), lambda arrays: arrays)


def test_arrays_that_do_not_fit_the_graph_are_named() -> None:
    actor = eager_actor(checkpoint_of(PLAIN), PLAIN)
    sample = stack(PLAIN.observation_space, [PLAIN.observation_space.sample()] * 2)
    with pytest.raises(UsageError, match="1 and 2 observations and episode starts, and the graph has 1 environments"):
        actor.act(batch(PLAIN.observation_space, sample), np.ones(1, bool))


def test_another_number_of_environments_has_a_way_out() -> None:
    with pytest.raises(UsageError, match="3 environments, and the graph has 1: export it with --n-envs 3"):
        eager_actor(checkpoint_of(PLAIN), PLAIN).reset(3)


def test_nothing_of_it_is_imported_by_who_does_not_use_it() -> None:
    program = (
        "import sys, gato_agent.cli, gato_agent.inference.agent, gato_agent.exporting.graph_actor\n"
        "print([name for name in ('onnx', 'onnxruntime', 'onnxscript') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
