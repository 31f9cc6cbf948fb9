"""The benchmark of training runs, its figures are consistent, and the plain loop computes what the model does."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from gato_agent.commands.bench.plain_loop import PlainLoop
from gato_agent.commands.bench.roofline import Roofline
from gato_agent.commands.bench.train import TrainBenchConfig, bench_train, made_up
from gato_agent.envs.errors import UsageError
from gato_agent.model.config import SIZES, GatoConfig

SHORT = dataclasses.replace(GatoConfig.nano(), context=32, layers=2)
on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_a_gpu)])
def test_it_prints_and_writes_a_row(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "nano", dataclasses.replace(SIZES["nano"], config=SHORT))
    monkeypatch.setattr(Roofline, "peak", lambda self, dtype: 1e11)
    file = tmp_path / "bench.json"
    rows = bench_train(TrainBenchConfig(size=("nano",), batch_size=2, repeats=1, json=file, device=device))
    assert [row.precision for row in rows] == ["float32", "bfloat16"]
    assert json.loads(file.read_text())["rows"] == [dataclasses.asdict(row) for row in rows]
    for row in rows:
        assert row.tokens_per_second == pytest.approx(2 * 64 / row.step)
        assert 0 < row.loader < 1
        assert row.logits > 0  # how much it is worth is for the benchmark to say: a busy machine would fail this
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["batch_size", "observations", "actions", "repeats"])
def test_an_option_below_1_is_named(option: str) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} 0: at least 1 is needed"):
        bench_train(TrainBenchConfig(**{option: 0}))  # type: ignore[arg-type]


def test_the_plain_loop_computes_what_the_model_does() -> None:
    torch.manual_seed(0)
    batch = made_up(TrainBenchConfig(batch_size=2), SHORT).batch(0)
    loop = PlainLoop(SHORT, "cpu", "float32", batch, causal=False)
    expected = loop.model.eval()(loop.tokens, local=batch.local).flatten(0, 1)
    torch.testing.assert_close(loop.hidden(), expected, atol=1e-5, rtol=1e-4)
    before = loop.model.blocks[0].attention.qkv.weight.detach().clone()
    for step in (loop.step, loop.everywhere):
        step()
        assert not torch.equal(before, loop.model.blocks[0].attention.qkv.weight)
