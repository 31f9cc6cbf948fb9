"""A stand-in for CUDA graphs without a GPU: traces of operators, which hold no Python state either."""

from collections.abc import Sequence

from torch.fx.experimental.proxy_tensor import make_fx

from gato_agent.inference.decoders.cuda_graph_decoder import GraphDecoder
from gato_agent.inference.decoders.cuda_graphs import GraphStep
from gato_agent.inference.decoders.decoder import Legal, Precision
from gato_agent.model.gato import Gato


class TracedDecoder(GraphDecoder):
    """A `GraphDecoder` whose steps are traced with FX, operator by operator, and replayed on the same tensors.

    Reading a value from a tensor fails while tracing, and a value outside of tensors stays as it was traced: a step
    that replays correctly as a trace does so as a CUDA graph.
    """

    def __init__(self, model: Gato, legal: Legal, precision: Precision = "float32", digits: Sequence[int] = ()) -> None:
        super().__init__(model, legal, precision, digits, capture=self._trace)
        self.traces = 0

    def _trace(self, step: GraphStep) -> GraphStep:
        cache = self.cache
        state = cache.k, cache.v, cache.index, cache.next_position, self._action
        saved = [part.clone() for part in state]
        trace = make_fx(step)()  # runs it, unlike a capture
        for part, before in zip(state, saved, strict=True):
            part.copy_(before)
        self.traces += 1
        return trace  # type: ignore[no-any-return]
