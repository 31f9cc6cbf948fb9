"""Muon: which parameters it updates, and that its steps are those of PyTorch."""

import pytest
import torch
from torch import nn

from gato_agent.commands.train import TrainConfig
from gato_agent.model.gato import Gato
from gato_agent.training.optimizer import Muon
from gato_agent.training.trainer import Trainer
from tests.helpers.random_batch import SHORT, random_batch


def test_muon_is_for_the_matrices_of_the_blocks() -> None:
    torch.manual_seed(0)
    trainer = Trainer(TrainConfig(optimizer="muon", warmup=0, learning_rate=1e-3, weight_decay=0.0), Gato(SHORT))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.update(random_batch())
    for name, parameter in trainer.model.named_parameters():
        known, matrix = trainer.optimizer.state[parameter].keys(), name.startswith("blocks") and parameter.ndim == 2
        assert known <= ({"momentum_buffer"} if matrix else {"exp_avg", "exp_avg_sq", "step"})
        if matrix:  # the larger directions move equally far, and all by about as much as in AdamW's steps
            change = (parameter - before[name]).detach()
            directions = torch.linalg.svdvals(change)
            assert directions[len(directions) // 4] > 0.6 * directions[0]
            assert 1e-4 < change.square().mean().sqrt() < 3e-4


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(48, 96), (96, 48)])
def test_muon_is_pytorchs(shape: tuple[int, int], precision: torch.dtype) -> None:
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    peer = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    muon = Muon([ours], 0.1, lambda step: 1e-2, precision)
    muon.param_groups[0]["lr"] = 1e-2
    for seed in range(5):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient, gradient.clone()
        muon.step(), peer.step()
    moved = (theirs - 1).abs().max().item()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * moved)  # its products are in bfloat16
