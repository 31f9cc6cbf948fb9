"""A CUDA graph's part without a GPU: a tape of operators, which knows nothing of Python's variables either."""

from torch.fx.experimental.proxy_tensor import make_fx

from gato_agent.inference.cuda_graph_decoder import GraphDecoder
from gato_agent.inference.cuda_graphs import GraphStep
from gato_agent.inference.decoder import Legal, Precision
from gato_agent.model.gato import Gato


class TracedDecoder(GraphDecoder):
    """A `GraphDecoder` whose steps are recorded with FX, operator by operator, and replayed on the same tensors.

    A value that is read from a tensor while recording would stop it, and one that is not kept in a tensor would stay
    as it was at that time: what a tape can replay, a CUDA graph can.
    """

    def __init__(self, model: Gato, legal: Legal, precision: Precision = "float32") -> None:
        super().__init__(model, legal, precision, capture=self._tape)
        self.tapes = 0

    def _tape(self, step: GraphStep) -> GraphStep:
        cache = self.cache
        state = cache.k, cache.v, cache.index, cache.next_position, self._action
        kept = [part.clone() for part in state]
        tape = make_fx(step)()  # runs it, unlike a recording
        for part, before in zip(state, kept, strict=True):
            part.copy_(before)
        self.tapes += 1
        return tape  # type: ignore[no-any-return]
