"""The Atari networks preprocess as in training, act as their checkpoints, and have one memory per environment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from gato_agent.envs.errors import GatoError, UsageError
from gato_agent.envs.loop import steps
from gato_agent.envs.make import make_vector
from gato_agent.rollouts.experts import atari_a3c as atari
from gato_agent.rollouts.experts.atari_a3c import AtariExpert, Net, convert, main, preprocess
from gato_agent.rollouts.experts.load import SHIPPED, load_expert
from gato_agent.rollouts.experts.sb3.policy import Policy
from tests.helpers.sb3_zips import SHARED, RunsCommand

SPACES = Box(0, 255, (210, 160, 3), np.uint8), Discrete(6)
GAMES = {"Breakout": 4, "Pong": 6, "SpaceInvaders": 6}
needs_checkpoints = pytest.mark.skipif(not (SHARED / "atari").is_dir(), reason="the checkpoints are not here")
each_game = pytest.mark.parametrize("game", GAMES)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def checkpoint_of(game: str) -> Path:
    (path,) = (SHARED / "atari" / game.lower()).glob("*.tar")
    return path


def frames(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(n, 210, 160, 3), dtype=np.uint8)


def saved(folder: Path, **changes: object) -> Path:
    torch.manual_seed(0)
    torch.save({**Net(6).state_dict(), "critic_linear.bias": torch.zeros(1), **changes}, folder / "net.tar")
    return folder / "net.tar"


@pytest.fixture
def small(tmp_path) -> Policy:
    return convert(saved(tmp_path), {})


def expert_of(policy: Policy, spaces=SPACES) -> AtariExpert:
    return AtariExpert(policy, *spaces, {"source": "net"})


def test_a_frame_is_cut_stretched_and_made_smaller():
    frame = np.zeros((210, 160, 3), np.uint8)
    frame[:35], frame[195:] = 255, 255  # outside the field
    frame[35:115] = (30, 60, 90)  # the upper half, of mean 60: the brightest that there is
    small = preprocess(frame)
    assert small.shape == (80, 80)
    assert small.dtype == np.float32
    assert (small[:39] == 1).all() and (small[41:] == 0).all()
    # The pixels of two rows meet under a triangle of four: 1/8, 3/8, 3/8, 1/8.
    np.testing.assert_allclose(small[39:41, 0], [7 / 8, 1 / 8], atol=1 / 255)
    assert not preprocess(np.full((210, 160, 3), 7, np.uint8)).any()


@needs_checkpoints
@each_game
def test_a_shipped_net_is_its_checkpoint_rounded(game):
    whole = torch.load(checkpoint_of(game), map_location="cpu", weights_only=True)  # noqa: TID251
    shipped = Policy.from_file(SHIPPED / f"ALE%2F{game}-v5.safetensors")
    again = convert(checkpoint_of(game), {}, sampled=bool(shipped.kwargs.get("sampled")))
    assert again.sha256 == shipped.sha256
    for key, array in atari._whole(shipped.weights).items():
        if key.startswith("gru.weight"):
            step = whole[key].abs().amax(1, keepdim=True).numpy() / 2047
            assert (np.abs(array - whole[key].numpy()) <= 0.51 * step).all()
        else:
            np.testing.assert_array_equal(array, whole[key].numpy())


@needs_checkpoints
@each_game
def test_a_shipped_net_chooses_as_its_checkpoint(game):
    pytest.importorskip("ale_py")
    whole = torch.load(checkpoint_of(game), map_location="cpu", weights_only=True)  # noqa: TID251
    exact = {key: value.numpy() for key, value in whole.items() if not key.startswith("critic")}
    envs = make_vector(f"ALE/{game}-v5", 1)
    spaces = envs.single_observation_space, envs.single_action_space
    policy = convert(checkpoint_of(game), {})
    rounded, reference = expert_of(policy, spaces), expert_of(replace(policy, weights=exact), spaces)
    reference.reset(1)
    same = []
    for step in steps(rounded, envs, [0]):
        same.append(step.action == reference.act(step.obs[None], np.array([step.t == 0]))[0])
        if step.t == 300:
            break
    assert np.mean(same) >= 0.99


@each_game
def test_the_nets_are_shipped_with_their_licence(game):
    pytest.importorskip("ale_py")
    envs = make_vector(f"ALE/{game}-v5", 2)
    expert = load_expert("catalogue", f"ALE/{game}-v5", envs.single_observation_space, envs.single_action_space)
    taken = [step for step, _ in zip(steps(expert, envs, [0, 1]), range(40), strict=False)]
    assert all(0 <= step.action < GAMES[game] for step in taken)
    assert Policy.from_file(SHIPPED / f"ALE%2F{game}-v5.safetensors").notes["licence"] == "Apache-2.0"
    assert "Apache License" in (SHIPPED / "LICENSE.baby-a3c").read_text()


@pytest.mark.slow
def test_pong_is_won():
    pytest.importorskip("ale_py")
    envs = make_vector("ALE/Pong-v5", 1)
    expert = load_expert("catalogue", "ALE/Pong-v5", envs.single_observation_space, envs.single_action_space)
    assert sum(step.reward for step in steps(expert, envs, [0])) > 5


def test_each_environment_has_a_memory_that_ends_with_its_episode(small):
    seen, expert = frames(8), expert_of(small)
    start, later = np.array([True]), np.array([False])

    def alone(indices: list[int]) -> torch.Tensor:
        expert.reset(1)
        for t, index in enumerate(indices):
            expert.act(seen[[index]], start if t == 0 else later)
        return expert._memory[0]

    expected = alone([0, 1, 2]), alone([5, 6])
    expert.reset(2)
    expert.act(seen[[0, 3]], np.array([True, True]))
    expert.act(seen[[1, 5]], np.array([False, True]))
    expert.act(seen[[2, 6]], np.array([False, False]))
    for env_index in range(2):
        torch.testing.assert_close(expert._memory[env_index], expected[env_index])


def test_sampled_actions_are_a_function_of_the_seed(small):
    sampled, seen = expert_of(replace(small, kwargs={"sampled": True})), frames(30)

    def actions(seed: int) -> list[int]:
        sampled.seed(seed)
        sampled.reset(1)
        return [int(sampled.act(seen[[t]], np.array([t == 0]))[0]) for t in range(30)]

    assert actions(1) == actions(1) != actions(2)
    assert len(set(actions(1))) > 1


def test_the_tool_converts_and_names_its_arguments(tmp_path):
    out = tmp_path / "net.safetensors"
    main([str(saved(tmp_path)), str(out), "licence=Apache-2.0", "sampled=yes"])
    policy = Policy.from_file(out)
    assert policy.notes == {"licence": "Apache-2.0"}
    assert policy.kwargs == {"sampled": True}
    assert "critic_linear.bias" not in policy.weights
    assert load_expert(str(out), "x", *SPACES).provenance["source"] == "net.safetensors"
    with pytest.raises(UsageError, match="usage"):
        main(["net.tar"])


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    canary = tmp_path / "canary"
    with pytest.raises(GatoError, match=r"net\.tar is damaged, or more than weights"):
        convert(saved(tmp_path, evil=RunsCommand(canary)), {})
    assert not canary.exists()
    (tmp_path / "net.tar").write_bytes(b"junk")
    with pytest.raises(GatoError, match=r"net\.tar is damaged"):
        convert(tmp_path / "net.tar", {})


def test_other_tasks_and_damage_are_named(small):
    for spaces in ((SPACES[0], Discrete(4)), (Box(0, 255, (84, 84), np.uint8), SPACES[1])):
        with pytest.raises(GatoError, match="expert net needs frames of 210 x 160 x 3 and 6 actions"):
            expert_of(small, spaces)
    for missing in ("conv2.bias", "gru.weight_hh.low"):
        weights = {key: array for key, array in small.weights.items() if key != missing}
        with pytest.raises(GatoError, match="expert net is damaged"):
            expert_of(replace(small, weights=weights))
