"""The benchmark runs, its rows are consistent, and wrong options are named."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from gato_agent.commands.bench.roofline import Roofline
from gato_agent.commands.bench.step import BenchConfig, bench, gpt2
from gato_agent.commands.bench.step_case import BenchCase, bound_of, counts
from gato_agent.commands.model_fields import ModelFields
from gato_agent.envs.errors import UsageError
from gato_agent.model.config import GatoConfig
from gato_agent.tokens.space_tokenizer import PAD, VALUES

CONFIG = GatoConfig(2, 2, 64, 128, 64, 64, (32, 64), 16)


def test_it_prints_and_writes_a_row_for_each_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    rows = bench(
        BenchConfig(size=("nano",), task=("2/1",), n_envs=(1, 2), context=32, repeats=3, json=file, device="cpu")
    )
    names = [row.decoder for row in rows if row.n_envs == 1]
    assert names[:4] == ["CPU decoder float32", "CPU decoder bfloat16", "CPU decoder int8", "pytorch"]
    assert "uncached" not in names  # the context was not full
    assert all(0 < row.median <= row.p99 and row.bound > 0 and row.context == 32 for row in rows)
    written = json.loads(file.read_text())
    assert [step["decoder"] for step in written["steps"]] == [row.decoder for row in rows]
    assert written["threads"] == 1
    assert "steps/s" in capsys.readouterr().out


def test_a_prompt_is_held_beside_what_came_later() -> None:
    config = BenchConfig(size=("nano",), context=48, prompt=9, repeats=3, compare=False, device="cpu", task=("17/2",))
    rows = bench(dataclasses.replace(config, precision=("float32", "int8")))
    assert [row.decoder for row in rows] == ["CPU decoder float32", "CPU decoder int8"]
    with pytest.raises(UsageError, match="prompt"):
        bench(dataclasses.replace(config, prompt=-1))


def test_a_shape_takes_as_many_passes_as_it_does_in_play() -> None:
    shape = '{"values_per_token": 8, "action_decoder": true, "context": 64}'
    rows = bench(
        BenchConfig(size=("nano",), task=("17/3",), model=ModelFields(**json.loads(shape)), repeats=3, device="cpu")
    )
    assert [row.decoder for row in rows][-1] == "pytorch" and all(row.context == 64 for row in rows)
    config = GatoConfig.nano().reshaped(shape)
    job = BenchCase(config, 17, 3, 2, "cpu")
    seen = job.prefill()
    assert job.passes == [3] and seen.value_groups is not None and seen.value_groups.shape == (2 * 3, 8)
    assert (seen.tokens[:, :3] == VALUES).all() and (seen.tokens[:, 3:] >= 0).all()
    assert ((seen.value_groups.view(2, 24) == PAD) == (torch.arange(24) >= 17)).all()
    assert BenchCase(config, 17, 33, 2, "cpu").passes == [3 + 1]  # a separator predicts the last action token
    stream = config.reshaped('{"action_decoder": false}')
    assert BenchCase(stream, 17, 3, 2, "cpu").passes == [3 + 1, 1, 1]
    assert BenchCase(stream.reshaped('{"past_actions": true}'), 17, 3, 2, "cpu").passes == [1 + 3 + 1, 1, 1]


def test_the_floor_grows_with_what_must_be_read_and_done() -> None:
    roofline = Roofline("cpu")
    roofline.bandwidth = lambda size: 1e9  # type: ignore[method-assign]
    roofline.peak = lambda dtype: 1e9  # type: ignore[method-assign]
    parameters = 2 * (4 * 64**2 + 64 * 128 + 64 * 64)
    one = BenchCase(CONFIG, 4, 1, 1, "cpu")
    assert bound_of(roofline, one, 64, "float32") == pytest.approx((10 * parameters + 20 * 2 * 2 * 64 * 64 / 2) / 1e9)
    assert bound_of(roofline, BenchCase(CONFIG, 4, 2, 1, "cpu"), 64, "float32") > bound_of(roofline, one, 64, "float32")
    assert bound_of(roofline, BenchCase(CONFIG, 4, 1, 9, "cpu"), 64, "float32") > bound_of(roofline, one, 64, "float32")
    roofline.peak = lambda dtype: 1e15  # type: ignore[method-assign]
    assert bound_of(roofline, one, 64, "bfloat16") == pytest.approx(bound_of(roofline, one, 64, "float32") / 2)
    roofline.launch = 1.0
    assert bound_of(roofline, one, 64, "bfloat16") == 1.0


def test_the_peer_has_as_many_weights_as_ours() -> None:
    transformers = pytest.importorskip("transformers")
    step = gpt2(BenchCase(CONFIG, 4, 3, 2, "cpu"), 32)
    assert step is not None
    with torch.inference_mode():
        step()
        step()  # on a cache cut back to where it was
    shape = transformers.GPT2Config(n_layer=1, n_embd=64, n_inner=96, n_head=2)
    matrices = [p for p in transformers.GPT2Model(shape).h.parameters() if p.ndim == 2]
    assert sum(p.numel() for p in matrices) == 4 * 64**2 + 64 * 128 + 64 * 64


def test_more_observations_than_a_model_has_places_for_are_refused() -> None:
    with pytest.raises(UsageError, match="--task 17/1: a model of this size has 16 positions for an observation"):
        BenchCase(CONFIG, 17, 1, 1, "cpu")


@pytest.mark.parametrize("task", ["17", "a/b", "0/1", "1/2/3", "-1/2"])
def test_a_wrong_task_is_named(task: str) -> None:
    with pytest.raises(UsageError, match="--task"):
        counts(task)
