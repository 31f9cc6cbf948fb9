"""Several processes train one model: the steps are those of one process, whole or in parts, and resume exactly."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.commands.train import TrainConfig, train
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.load import load_data
from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.model.config import GatoConfig
from gato_agent.model.gato import Gato
from gato_agent.training import fsdp as sharded
from gato_agent.training.distributed import Distributed, clip
from gato_agent.training.trainer import Trainer


def losses(out: Path) -> list[float]:
    entries = [json.loads(line) for line in (out / "log.jsonl").open()]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
    return [entry["loss"] for entry in entries]


def torchrun(config: TrainConfig, *more: str) -> list[float]:
    """Train in two processes; the losses that were logged."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = f"--data {config.data} --out {config.out} --steps {config.steps} --batch-size {config.batch_size}"
    command += ["-m", "gato_agent", "train", *arguments.split(), "--num-threads", "1", "--device", "cpu", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return losses(config.out)


def in_halves(config: TrainConfig) -> list[float]:
    """Losses of one process that takes the same steps: it adds up the gradients of what two would have seen."""
    torch.set_num_threads(1)
    size = GatoConfig.nano()
    tokenized = load_data(config.data, size, None).tokenized
    sampler = BatchSampler(tokenized, sequence_length=2 * size.context, batch_size=config.batch_size)
    torch.manual_seed(config.seed)
    trainer = Trainer(config, Gato(size))
    found = []
    for step in range(config.steps):
        parts = [sampler.batch(step, part, 2) for part in range(2)]
        count = sum(part.targets.tokens for part in parts)
        trainer.optimizer.zero_grad()
        total = torch.zeros(())
        for part in parts:
            part_losses = trainer._loss(part)
            (part_losses.total / count).backward()
            total += part_losses.families.sum()
        trainer._clip()
        for group in trainer.optimizer.param_groups:
            group["lr"] = config.rate(step)
        trainer.optimizer.step()
        found.append(total.item() / count)
    return found


@pytest.mark.parametrize(("kind", "steps"), [
    ("", 4), pytest.param("--fsdp", 4, marks=pytest.mark.slow),
    pytest.param("", 50, marks=pytest.mark.slow), pytest.param("--fsdp", 50, marks=pytest.mark.slow),
])  # fmt: skip
def test_two_processes_take_the_steps_of_one(kind: str, steps: int, data: Path, tmp_path: Path) -> None:
    """One process that sees the same windows in the same order is the same to the last bit.

    One that multiplies all windows at once rounds otherwise, and each step multiplies the difference: it is below 1e-6
    for some twenty steps only.
    """
    config = TrainConfig(data=data, out=tmp_path / "two", steps=steps, batch_size=3, num_threads=1, device="cpu")
    found = torchrun(config, *kind.split())
    np.testing.assert_allclose(found, in_halves(config), rtol=1e-9)
    if steps > 4:
        return
    one = dataclasses.replace(config, out=tmp_path / "one")
    train(one)
    np.testing.assert_allclose(found, losses(one.out), rtol=1e-6)
    parted = dataclasses.replace(config, out=tmp_path / "parted")
    torchrun(parted, *kind.split(), "--minutes", "0")
    assert torchrun(parted, *kind.split(), "--resume") == found
    assert (parted.out / "model.safetensors").read_bytes() == (config.out / "model.safetensors").read_bytes()
    weights, others = (Checkpoint.load(run.out).model.state_dict() for run in (config, one))
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-3, atol=1e-5)
    if kind:
        (part,) = config.out.glob("state-*")
        assert sharded.saved(config.out) == (4, part)
        assert len(list(part.glob("*.safetensors"))) == 2
        held = sharded.names(part)
        assert {name.partition(".")[0] for name in held} == {"model", "exp_avg", "exp_avg_sq", "step"}
        assert "model.embedding.patch.stem.weight" in held
        assert "exp_avg.embedding.patch.stem.weight" not in held  # no images: it never had a gradient
        marginal = "exp_avg.action_decoder.marginal"
        assert f"{marginal}.0.weight" in held and f"{marginal}.31.weight" not in held
        # One action token has none before it: no correction ever had a gradient.
        assert not any(name.startswith("exp_avg.action_decoder.correction") for name in held)


def test_gradients_are_clipped_to_a_norm() -> None:
    model = torch.nn.Linear(3, 2)
    for factor, kept in ((0.1, 0.1), (5.0, 1.0)):
        model.weight.grad, model.bias.grad = torch.zeros(2, 3), torch.zeros(2)
        model.weight.grad[0, 0], model.bias.grad[1] = 0.6 * factor, 0.8 * factor
        norm = clip(model.parameters(), 1.0, Distributed())
        assert norm.item() == pytest.approx(factor)
        assert model.weight.grad[0, 0].item() == pytest.approx(0.6 * kept, rel=1e-5)
        assert model.bias.grad.tolist() == [0.0, pytest.approx(0.8 * kept, rel=1e-5)]


def test_a_model_in_parts_needs_processes_and_a_pointer_that_can_be_read(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UsageError, match=r"--fsdp .* torchrun -m gato_agent train"):
        train(TrainConfig(data=data, out=tmp_path, fsdp=True))
    assert sharded.saved(tmp_path) is None
    (tmp_path / "state.json").write_text('{"step": 3, "folder": "state-3"}')
    assert sharded.saved(tmp_path) == (3, tmp_path / "state-3")
    (tmp_path / "state.json").write_text('{"step": 3, "folder": "../elsewhere"}')
    with pytest.raises(UsageError, match=r"state\.json has the name '\.\./elsewhere', which no file may name"):
        sharded.saved(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(GatoError, match=r"state\.json is damaged"):
        sharded.saved(tmp_path)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(GatoError, match=r"part is damaged, or of another model"):
        sharded.load(tmp_path / "part", {"x": torch.zeros(1)})


def test_parts_without_gradients_are_clipped_to_nothing() -> None:
    assert clip([], 1.0, Distributed()) == clip(torch.nn.Linear(3, 2).parameters(), 1.0, Distributed()) == 0
