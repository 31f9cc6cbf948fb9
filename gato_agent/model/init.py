"""Initial weights of a model."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gato_agent.tokens.space_tokenizer import BINS

if TYPE_CHECKING:
    from gato_agent.model.gato import Gato


class NoInitialisation(TorchFunctionMode):
    """Mode that skips torch.nn.init: on the meta device it has no effect but slow imports."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def initialise(model: "Gato") -> None:
    """Set initial weights: standard deviation 0.02 for tables, 1/sqrt(fan-in) for matrices.

    The last matrix of a residual branch is scaled down by depth.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            depth = (2 * model.config.layers) ** -0.5 if name.endswith(".out") else 1.0
            nn.init.normal_(module.weight, std=depth * module.in_features**-0.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    vocabulary = model.config.vocabulary
    with torch.no_grad():
        model.embedding.table.weight[vocabulary.continuous : vocabulary.discrete] = 0.02 * smooth_bin_table(
            model.config.width
        )
        if model.config.values_per_token > 1:
            values = model.embedding.value_group.value.weight
            values.normal_()
            values[0] = 0  # of PAD
            values[1 : 1 + BINS] = smooth_bin_table(values.shape[1])


def smooth_bin_table(width: int) -> Tensor:
    """Initial embeddings of the 1,024 bins, of unit variance, similar for neighbouring bins.

    Random Fourier features (Rahimi & Recht 2007) of the bin's centre, from one to a hundred waves across [-1, 1].
    """
    value = torch.linspace(-1, 1, BINS).unsqueeze(1)
    waves = 100 ** torch.rand(width)
    return 2**0.5 * torch.cos(torch.pi * waves * value + 2 * torch.pi * torch.rand(width))  # [bins, width]
