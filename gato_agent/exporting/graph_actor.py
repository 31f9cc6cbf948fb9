"""Actor of an exported graph; an ONNX graph runs without PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from gymnasium.spaces import Text
from numpy.typing import NDArray

from gato_agent.envs.errors import GatoError, UsageError, one_line
from gato_agent.envs.files import read_own
from gato_agent.envs.spaces.flatten import Columns, batch, columns, leaves, space_from_json
from gato_agent.exporting.description import check_digest, read_description
from gato_agent.exporting.signature import TEXT_MODEL
from gato_agent.tokens.text_tokenizer import TextTokenizer

if TYPE_CHECKING:  # a graph of ONNX needs no PyTorch
    from torch.export import ExportedProgram

END = -1  # after the last piece of a text, and after the last character of an action's string
LARGEST = 2**31  # bytes of an ONNX file
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
        self._num_envs: int = about["num_envs"]
        try:
            self.reset(self._num_envs)
        except (MemoryError, ValueError) as error:
            raise GatoError(f"{about['task']}: the graph's memory is too large ({one_line(error):.200})") from error

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
        return cls(about, _onnx_graph(graph, about, num_threads), text, seed)

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
            UsageError: another number of observations or starts than the graph has environments.
            GatoError: an observation is not in the space, or the graph fails.
        """
        observed = columns(self.observation_space, observation)
        counts = {len(column) for column in observed.values()} | {np.size(start)}
        if counts != {self._num_envs}:
            raise UsageError(f"{self.about['task']}: {' and '.join(map(str, sorted(counts)))} observations and episode "
                             f"starts, and the graph has {self._num_envs} environments")  # fmt: skip
        fed = {
            port["name"]: self._input(port, observed, start) for port in self.about["inputs"] if port["role"] != "state"
        }
        try:
            result = self._run({**fed, **self._memory})
        except Exception as error:  # the runtimes have no common class of their own
            raise GatoError(f"{self.about['task']}: the graph cannot be run: {one_line(error):.300}") from error
        if not result["valid"].all():
            env_index = int(np.argmin(result["valid"]))
            raise GatoError(f"{self.about['task']}: observation in environment {env_index} is not in the space")
        self._memory = {state["input"]: result[state["output"]] for state in self.about["states"]}
        acted = {port["leaf"]: result[port["name"]] for port in self.about["outputs"] if port["role"] == "action"}
        return batch(self.action_space, self._strings(acted))

    def _input(self, port: dict[str, Any], observed: Columns, start: NDArray[np.bool_]) -> NDArray[Any]:
        """Value of an input of the graph, other than the recurrent state."""
        if port["role"] == "start":
            return np.asarray(start, np.bool_).reshape(-1)
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


def _onnx_graph(graph: Path, about: dict[str, Any], num_threads: int) -> Callable[[Arrays], Arrays]:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"ONNX Runtime is missing ({one_line(error)}): pip install 'gato-agent[export]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    data = read_own(graph, LARGEST)
    check_digest(graph, data, about, "graph")
    try:
        session = onnxruntime.InferenceSession(data, options)
    except Exception as error:  # the runtime has no common class of its own
        raise GatoError(f"{graph} cannot be loaded: {one_line(error):.200}") from error
    names = [port.name for port in session.get_outputs()]
    known = [(port.name, port.shape) for port in session.get_inputs()], names
    described = [(port["name"], port["shape"]) for port in about["inputs"]], [port["name"] for port in about["outputs"]]
    if known != described:
        raise GatoError(f"{graph} has other inputs or outputs than the JSON beside it: export it again")
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
    about, model = read_description(graph.with_suffix(".json")), graph.with_suffix(TEXT_MODEL)
    if not about.get("text_model"):
        return about, None
    text = TextTokenizer.from_file(model)
    check_digest(model, text.model, about, "text_model")
    return about, text
