"""Actor of an exported graph; an ONNX graph runs without PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from gymnasium.spaces import Text
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import read_own
from gato_agent.envs.io.strict_json import parse
from gato_agent.envs.spaces.flatten import Columns, batch, columns, leaves, space_from_json
from gato_agent.exporting.signature import FORMAT, TEXT_MODEL
from gato_agent.tokens.text_tokenizer import TextTokenizer

if TYPE_CHECKING:  # a graph of ONNX needs no PyTorch
    from torch.export import ExportedProgram

END = -1  # after the last piece of a text, and after the last character of an action's string
LARGEST = 2**31  # bytes of an ONNX file
KEYS = {"format", "task", "num_envs", "inputs", "outputs", "states", "observation_space", "action_space"}
Arrays = dict[str, NDArray[Any]]


class GraphActor:
    """Actor of an exported control step; an `Actor`.

        actor = GraphActor.load(Path("cartpole.onnx"))
        action = actor.act(observations, np.array([True]))

    Args:
        about: content of the JSON beside the graph.
        run: the graph, from its inputs to its outputs by name.
        text: tokenizer of the texts that the graph reads; None if it reads none.
        seed: of the sampling; environment i has its own random stream.

    Attributes:
        about: as given.
        observation_space: of one environment.
        action_space: of one environment.
    """

    def __init__(
        self, about: dict[str, Any], run: Callable[[Arrays], Arrays], text: TextTokenizer | None = None, seed: int = 0
    ) -> None:  # fmt: skip
        self.about, self._run, self._text, self._seed = about, run, text, seed
        self.observation_space = space_from_json(about["observation_space"])
        self.action_space = space_from_json(about["action_space"])
        self.reset(about["num_envs"])

    @classmethod
    def load(cls, graph: Path, seed: int = 0, num_threads: int = 1) -> Self:
        """Load an ONNX graph with the files beside it.

        Args:
            graph: file that `gato-agent export` wrote.
            seed: see `GraphActor`.
            num_threads: of ONNX Runtime, at least 1.

        Raises:
            UsageError: a file or the extra is missing, or the file is a torch graph.
            GatoError: a file is damaged, or of another version.
        """
        about, text = _beside(graph)
        if not graph.is_file():
            raise UsageError(f"no graph at {graph}: write one with gato-agent export")
        if graph.suffix == ".pt2":
            raise UsageError(f"{graph}: torch.export.load can run code of the file, so load it yourself if you trust "
                             "it: GraphActor.of_program(torch.export.load(path), path)")  # fmt: skip
        return cls(about, _onnx_graph(graph, num_threads), text, seed)

    @classmethod
    def of_program(cls, program: "ExportedProgram", graph: Path, seed: int = 0) -> Self:
        """Actor of a torch graph.

        Args:
            program: result of `torch.export.load`, which can run code of the file.
            graph: that file, for the files beside it.
            seed: see `GraphActor`.

        Raises:
            UsageError: a file is missing.
            GatoError: a file is damaged, or of another version.
        """
        about, text = _beside(graph)
        return cls(about, _torch_graph(program, about), text, seed)

    def reset(self, num_envs: int = 1) -> None:
        """Forget all episodes; raises UsageError for another number of environments than that of the graph."""
        if num_envs != self.about["num_envs"]:
            raise UsageError(f"{num_envs} environments, and the graph has {self.about['num_envs']}: export it with "
                             f"--n-envs {num_envs}")  # fmt: skip
        ports = {port["name"]: port for port in self.about["inputs"]}
        names = [state["input"] for state in self.about["states"]]
        self._memory = {name: np.zeros(ports[name]["shape"], ports[name]["dtype"]) for name in names}
        self._generators = [np.random.default_rng(self._seed + env_index) for env_index in range(num_envs)]

    def act(self, observation: Any, start: NDArray[np.bool_]) -> Any:
        """Choose one action per environment; see `Actor`.

        Raises:
            GatoError: an observation is not in the space.
        """
        observed = columns(self.observation_space, observation)
        fed = {
            port["name"]: self._input(port, observed, start) for port in self.about["inputs"] if port["role"] != "state"
        }
        result = self._run({**fed, **self._memory})
        if not result["valid"].all():
            env_index = int(np.argmin(result["valid"]))
            raise GatoError(f"{self.about['task']}: observation in environment {env_index} is not in the space")
        self._memory = {state["input"]: result[state["output"]] for state in self.about["states"]}
        acted = {port["leaf"]: result[port["name"]] for port in self.about["outputs"] if port["role"] == "action"}
        return batch(self.action_space, self._strings(acted))

    def _input(self, port: dict[str, Any], observed: Columns, start: NDArray[np.bool_]) -> NDArray[Any]:
        """Value of an input of the graph, other than the recurrent state."""
        if port["role"] == "start":
            return np.asarray(start, np.bool_)
        if port["role"] == "uniforms":
            return np.stack([generator.random(port["shape"][1]) for generator in self._generators])
        column = observed[port["leaf"]]
        return self.pieces(column, port["shape"][1]) if column.dtype == object else np.ascontiguousarray(column)

    def pieces(self, texts: NDArray[Any], room: int) -> NDArray[np.int64]:
        """Piece ids of texts, int64 [n, room], -1 after the last of each: what text inputs of the graph take.

        Raises:
            GatoError: a text has more pieces.
        """
        assert self._text is not None
        ids = np.full((len(texts), room), END)
        for row, text in enumerate(texts):
            pieces = self._text.encode(text)
            if len(pieces) > room:
                raise GatoError(f"{self.about['task']}: {text!a:.80} has {len(pieces)} pieces where {room} have room")
            ids[row, : len(pieces)] = pieces
        return ids

    def _strings(self, acted: Columns) -> Columns:
        """Columns of an action, with strings in place of code points."""
        for leaf in leaves(self.action_space):
            if isinstance(leaf.space, Text):
                strings = np.empty(len(acted[leaf.path]), dtype=object)
                strings[:] = ["".join(chr(point) for point in row if point != END) for row in acted[leaf.path].tolist()]
                acted[leaf.path] = strings
        return acted


def _onnx_graph(graph: Path, num_threads: int) -> Callable[[Arrays], Arrays]:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"ONNX Runtime is missing ({one_line(error)}): pip install 'gato-agent[export]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    try:
        session = onnxruntime.InferenceSession(read_own(graph, LARGEST), options)
    except Exception as error:  # the runtime has no common class of its own
        raise GatoError(f"{graph} cannot be loaded: {one_line(error):.200}") from error
    names = [port.name for port in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(names, arrays), strict=True))


def _torch_graph(program: "ExportedProgram", about: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    import torch

    module = program.module()
    inputs, outputs = ([port["name"] for port in about[ports]] for ports in ("inputs", "outputs"))

    def run(arrays: Arrays) -> Arrays:
        with torch.no_grad():
            results = module(*(torch.from_numpy(arrays[name]) for name in inputs))
        return {name: result.numpy() for name, result in zip(outputs, results, strict=True)}

    return run


def _beside(graph: Path) -> tuple[dict[str, Any], TextTokenizer | None]:
    """Content of the JSON beside a graph, and the tokenizer if the graph reads texts."""
    about = read_description(graph.with_suffix(".json"))
    return about, TextTokenizer.from_file(graph.with_suffix(TEXT_MODEL)) if about.get("text_model") else None


def read_description(path: Path) -> dict[str, Any]:
    """Content of the JSON beside a graph.

    Raises:
        UsageError: there is no such file.
        GatoError: it is damaged, or of another version.
    """
    try:
        about: dict[str, Any] = dict(parse(read_own(path).decode()))
    except FileNotFoundError as error:
        raise UsageError(f"no {path}: gato-agent export writes it beside the graph") from error
    except (ValueError, TypeError) as error:
        raise GatoError(f"{path} is not the JSON of an exported graph: {one_line(error):.200}") from error
    if missing := KEYS - about.keys():
        raise GatoError(f"{path} is not the JSON of an exported graph: it has no {min(missing)}")
    if about["format"] != FORMAT:
        raise GatoError(f"{path} has format {about['format']!r:.20} and this version reads {FORMAT}: export again")
    return about
