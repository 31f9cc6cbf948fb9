"""Agents on the Hugging Face hub, which is on this machine here: one file and a card go up, one file comes down."""

import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from gato_agent import Agent
from gato_agent.checkpoints.checkpoint import Checkpoint
from gato_agent.checkpoints.hub import card, push
from gato_agent.cli import main
from gato_agent.commands.evaluate import EvaluateConfig, evaluate
from gato_agent.envs.errors import GatoError, UsageError
from tests.helpers.hub_server import Hub, serving

huggingface_hub = pytest.importorskip("huggingface_hub")
REPO = "someone/cartpole"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path / "hub") as hub:
        hub.use(monkeypatch, tmp_path / "cache")
        yield hub


@pytest.fixture
def remote(hub: Hub) -> Path:
    """The hub's repositories, as folders."""
    return hub.root / "models"


def test_an_agent_comes_back_as_it_went(hub: Hub, remote: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    evaluate(EvaluateConfig(env=("CartPole-v1",), episodes=2, json=results))
    agent = Agent.from_pretrained(None, "CartPole-v1")
    assert agent.push_to_hub(REPO, results, token="right") == f"{hub.address}/{REPO}"
    assert "| CartPole-v1 | 2 |" in (remote / REPO / "README.md").read_text()
    assert sorted(path.name for path in (remote / REPO).iterdir()) == ["README.md", "model.safetensors"]
    back = Agent.from_pretrained(REPO, "CartPole-v1")
    assert back.checkpoint.tasks == agent.checkpoint.tasks
    for name, weight in agent.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], weight)
    main_says(["evaluate", "--checkpoint", f"hub:{REPO}", "--env", "CartPole-v1", "--episodes", "2", "--json",
               str(tmp_path / "again.json"), "--workers", "0"])  # fmt: skip
    (first,), (again,) = (json.loads(path.read_text())["tasks"] for path in (results, tmp_path / "again.json"))
    assert first["mean"] == again["mean"]


@pytest.mark.slow
def test_fresh_processes_send_an_agent_up_and_play_it(hub: Hub, tmp_path: Path) -> None:
    """In processes that have not imported the package yet, which brings its modules only when they are asked for."""
    program = f"""if True:
        from gato_agent.checkpoints.checkpoint import Checkpoint
        from gato_agent.checkpoints.hub import push
        push(Checkpoint.load(None), {REPO!r})"""
    done = hub.run(tmp_path / "home", "-c", program, HF_TOKEN="right")
    assert done.returncode == 0, done.stderr
    words = ("-m", "gato_agent", "play", "--env", "CartPole-v1", "--render", "none", "--checkpoint")
    done = hub.run(tmp_path / "home", *words, f"hub:{REPO}")
    assert done.returncode == 0, done.stderr
    missing = hub.run(tmp_path / "home", *words, "hub:someone/else")
    assert missing.returncode == 2
    assert "hub:someone/else is no repository that can be read (RepositoryNotFoundError" in missing.stderr


def main_says(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0


def test_the_card_says_what_it_scored(tmp_path: Path) -> None:
    scores = {"task": "CartPole-v1", "episodes": 50, "mean": 491.6, "std": 30.0, "ci95": [480.9, 499.6]}
    unknown = {**scores, "task": "Mine-v0", "normalized": None}
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"tasks": [{**scores, "normalized": 0.983}, unknown]}))
    made = card(Checkpoint.load(None), REPO, tmp_path)
    assert "| CartPole-v1 | 50 | 491.6 | 480.9 to 499.6 | 0.983 |" in made.text
    assert "| Mine-v0 | 50 | 491.6 | 480.9 to 499.6 | - |" in made.text
    assert f'Agent.from_pretrained("{REPO}", env)' in made.text
    assert made.data.library_name == "gato-agent"
    first, second = huggingface_hub.ModelCard(str(made)).data.eval_results  # read again as the hub does
    assert (first.dataset_name, first.metric_type, first.metric_value) == (
        "CartPole-v1", "mean_reward", "491.60 +/- 30.00"
    )  # fmt: skip
    assert second.dataset_name == "Mine-v0"
    assert "## Scores" not in card(Checkpoint.load(None), REPO).text
    for damaged in ("{}", "not JSON", '{"tasks": [{"task": "A"}]}'):
        file.write_text(damaged)
        with pytest.raises(GatoError, match=r"results\.json is not JSON of `gato-agent evaluate`"):
            card(Checkpoint.load(None), REPO, file)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(Evil()), b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "],
    ids=["pickle", "empty", "other"],
)
def test_nothing_that_comes_down_is_run(
    content: bytes, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (remote / REPO).mkdir(parents=True)
    (remote / REPO / "model.safetensors").write_bytes(content)
    with pytest.raises(GatoError, match=r"model\.safetensors"):
        Agent.from_pretrained(REPO, "CartPole-v1")
    assert not Path("owned").exists()


def test_what_is_not_there_is_named(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"hub:someone/cartpole is no repository that can be read"):
        Agent.from_pretrained(REPO, "CartPole-v1")
    (remote / REPO).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"hub:someone/cartpole has no model\.safetensors"):
        Agent.from_pretrained(REPO, "CartPole-v1")
    monkeypatch.chdir(tmp_path)
    Checkpoint.load(None).save(tmp_path / "runs" / "mine")  # a folder goes before a repository of the same name
    assert Agent.from_pretrained("runs/mine", "CartPole-v1").checkpoint.name == "runs/mine"
    (tmp_path / "runs" / "cartpole").mkdir()
    with pytest.raises(UsageError, match=r"^no folder rnus/mine, and on the hub: hub:rnus/mine is no repository"):
        Agent.from_pretrained("rnus/mine", "CartPole-v1")
    with monkeypatch.context() as patch:
        patch.setattr("gato_agent.checkpoints.hub.Checkpoint.load", MagicMock(side_effect=AssertionError))
        for typed, hint in (("runs/cartpoel", r" \(did you mean runs.cartpole\?\)"), ("runs/x", "")):
            with pytest.raises(UsageError, match=rf"^no folder {typed}{hint}; a repository on the hub is hub:{typed}$"):
                Agent.from_pretrained(typed, "CartPole-v1")  # without a look at the hub
    with pytest.raises(UsageError, match=r"no checkpoint at runs.yours"):
        Checkpoint.load("runs/yours")


def test_what_cannot_go_up_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"push_to_hub not a name: HFValidationError"):
        push(Checkpoint.load(None), "not a name", token="right")
    with pytest.raises(GatoError, match=r"push_to_hub someone/cartpole: .*401.* and a token\?"):
        push(Checkpoint.load(None), REPO, token="wrong")
    hub.broken = 403
    with pytest.raises(GatoError, match=r"push_to_hub someone/cartpole: .*403.* and a token\?"):
        push(Checkpoint.load(None), REPO, token="right")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # it tries again and again
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(GatoError, match=r"push_to_hub someone/cartpole: .*is there a network"):
        push(Checkpoint.load(None), REPO, token="right")


def test_the_name_of_a_checkpoint_is_where_it_came_from(remote: Path) -> None:
    push(dataclasses.replace(Checkpoint.load(None), name=""), REPO, token="right")
    assert Checkpoint.load(f"hub:{REPO}").name == f"hub:{REPO}"
