"""Matrix products that read weights of bfloat16, for GPUs, where reading them is what takes time."""

import torch
from torch import Tensor, nn


class Halved(nn.Module):
    """A matrix product that reads weights of bfloat16, and is otherwise of float32.

    Inputs are given as sums of two bfloat16, so that the weights, which are all that takes time, are read once and
    nothing else is rounded.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().bfloat16(), requires_grad=False)
        self.summed = linear.weight.is_cuda and hasattr(torch.ops.aten.mm, "dtype")  # of PyTorch 2.8 and later

    def forward(self, x: Tensor) -> Tensor:
        """float32 [..., inputs] -> float32 [..., outputs]."""
        rows = x.flatten(0, -2)
        high = rows.bfloat16()
        both = torch.cat((high, (rows - high).bfloat16()))
        if self.summed:
            found = torch.mm(both, self.weight.T, out_dtype=torch.float32)
        else:
            found = both.float() @ self.weight.T.float()
        return found.view(2, *x.shape[:-1], -1).sum(0)


def halve(model: nn.Module) -> None:
    """Make `Halved` of all linear layers, in place."""
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            setattr(model, name, Halved(module))
        else:
            halve(module)
