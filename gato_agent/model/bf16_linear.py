"""Linear layers with bfloat16 weights, for GPUs, where reading the weights takes most of the time."""

import torch
from torch import Tensor, nn


class BFloat16Linear(nn.Module):
    """Linear layer with bfloat16 weights and float32 inputs and outputs.

    Each input is split into a sum of two bfloat16, so that the weights are read once and nothing else is rounded.
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
            products = torch.mm(both, self.weight.T, out_dtype=torch.float32)
        else:
            products = both.float() @ self.weight.T.float()
        return products.view(2, *x.shape[:-1], -1).sum(0)


def use_bfloat16_weights(model: nn.Module) -> None:
    """Replace all linear layers by `BFloat16Linear`, in place."""
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            setattr(model, name, BFloat16Linear(module))
        else:
            use_bfloat16_weights(module)
