"""VecNormalize statistics are found wherever SB3, the zoo and the hub write them, or the zip is refused."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from gato_agent.envs.errors import UsageError
from gato_agent.rollouts.experts.load import load_expert
from gato_agent.rollouts.experts.sb3.run_files import look_beside
from gato_agent.rollouts.experts.sb3.vecnormalize import read_pickle, write_npz
from tests.helpers.sb3_zips import ENV, SMALL, SPACES, acts_behind, load, made, put, refusal

LAYOUTS = {  # zip, statistics
    "SB3's examples": ("model.zip", "vec_normalize.pkl"),
    "SB3's examples, other name": ("ppo_pendulum.zip", "vecnormalize.pkl"),
    "SB3, named after the model": ("ppo_pendulum.zip", "ppo_pendulum_vecnormalize.pkl"),
    "named before the model": ("ppo_pendulum.zip", "vec_normalize_ppo_pendulum.pkl"),
    "statistics of the model": ("ppo_pendulum.zip", "ppo_pendulum_stats.pkl"),
    "the model's name": ("best.zip", "best.pkl"),
    "own name": ("model.zip", "vec_normalize_stats.pkl"),
    "any name": ("model.zip", "env.pickle"),
    "no suffix": ("model.zip", "normalizer"),
    "checkpoint": ("rl_model_10000_steps.zip", "rl_model_vecnormalize_10000_steps.pkl"),
    "checkpoint of another name": ("walker_500_steps.zip", "walker_vecnormalize_500_steps.pkl"),
    "checkpoint, the zoo's callback": ("rl_model_10000_steps.zip", "vecnormalize_10000_steps.pkl"),
    "checkpoint, the zoo's callback, its prefix": ("rl_model_10000_steps.zip", "rl_model_10000_steps.pkl"),
    "checkpoint of the zoo": ("Pendulum-v1_1/rl_model_10000_steps.zip", "Pendulum-v1_1/Pendulum-v1/vecnormalize.pkl"),
    "zoo": ("ppo/Pendulum-v1_1/Pendulum-v1.zip", "ppo/Pendulum-v1_1/Pendulum-v1/vecnormalize.pkl"),
    "zoo, best": ("ppo/Pendulum-v1_1/best_model.zip", "ppo/Pendulum-v1_1/Pendulum-v1/vecnormalize.pkl"),
    "zoo, another version": ("ppo/Pendulum-v0_1/best_model.zip", "ppo/Pendulum-v0_1/Pendulum-v0/vecnormalize.pkl"),
    "hub": ("hub/ppo-Pendulum-v1/ppo-Pendulum-v1.zip", "hub/ppo-Pendulum-v1/vec_normalize.pkl"),
    "ours": ("model.zip", "obs_norm.npz"),
}  # fmt: skip


@pytest.mark.parametrize("zip_", ["normalised.zip", "silent.zip"])
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_statistics_are_found_in_every_layout(tmp_path: Path, layout: str, zip_: str) -> None:
    at, lies = LAYOUTS[layout]
    model = put(zip_, tmp_path / at)
    if lies.endswith(".npz"):
        (tmp_path / lies).write_bytes(write_npz(read_pickle(made()["1.pkl"])))  # type: ignore[arg-type]
    else:
        put("1.pkl", tmp_path / lies)
    assert acts_behind(load(model), model, 1)
    assert acts_behind(load(model.parent), model, 1)  # named by its folder
    assert acts_behind(load(model, statistics="none"), model, None)
    assert acts_behind(load(model, statistics=str(made()["2.pkl"])), model, 2)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "checkpoint" not in name and "any" not in name])
def test_a_zip_that_was_trained_without_is_not_normalised_in_silence(tmp_path: Path, layout: str) -> None:
    at, lies = LAYOUTS[layout]
    model, other = put("plain.zip", tmp_path / at), put("1.pkl", tmp_path / lies.replace(".npz", ".pkl"))
    said = refusal(load, model)
    if said:
        assert f"{model} was trained without VecNormalize, and {other} lies beside it" in said
        assert "--expert-statistics PATH, or none" in said
    else:
        assert acts_behind(load(model), model, None)
    assert acts_behind(load(model, statistics="none"), model, None)


def test_a_zip_without_statistics(tmp_path: Path) -> None:
    for name in ("plain.zip", "silent.zip"):
        model = put(name, tmp_path / name)
        assert acts_behind(load(model), model, None)
    model = put("normalised.zip", tmp_path / "runs" / "model.zip")
    with pytest.raises(
        UsageError, match=r"model\.zip was trained with VecNormalize, and its statistics are not beside"
    ):
        load(model)
    elsewhere = put("1.pkl", tmp_path / "kept.pkl")
    with pytest.raises(UsageError, match=rf"name them with --expert-statistics .*\(perhaps {elsewhere}\)"):
        load(model)
    assert acts_behind(load(model, statistics=str(elsewhere)), model, 1)
    assert acts_behind(load(model, statistics="none"), model, None)


TWO = {"vecnormalize.pkl": "1.pkl", "vec_normalize.pkl": "2.pkl"}
STEPS = {"rl_model_vecnormalize_10_steps.pkl": "1.pkl", "vecnormalize.pkl": "2.pkl"}
AMBIGUOUS: dict[str, tuple[str, dict[str, str], str]] = {  # zip, others, message
    "two of other names": ("model.zip", {"a.pkl": "1.pkl", "b.pkl": "2.pkl"}, "may have been trained .*a.pkl, .*b"),
    "another zip": ("model.zip", {"x.pkl": "1.pkl", "other.zip": "silent.zip"}, "may have been trained with .*x.pkl"),
    "two standard ones": ("model.zip", TWO, "different statistics"),
    "two folders": ("model.zip", {"vecnormalize.pkl": "1.pkl", "model/vecnormalize.pkl": "2.pkl"}, "different stat"),
    "another step": ("rl_model_20_steps.zip", STEPS, "no statistics of its own step"),
    "Stable Baselines 2": ("model.zip", {"obs_rms.pkl": "1.pkl"}, "may have been trained with .*obs_rms.pkl"),
}


@pytest.mark.parametrize("zip_", ["normalised.zip", "silent.zip"])
@pytest.mark.parametrize("case", list(AMBIGUOUS))
def test_what_is_not_clear_is_refused_by_name(tmp_path: Path, case: str, zip_: str) -> None:
    name, others, message = AMBIGUOUS[case]
    model = put(zip_, tmp_path / name)
    for other, source in others.items():
        put(source, tmp_path / other)
    with pytest.raises(UsageError, match=rf"{name} .*{message}.*--expert-statistics PATH, or none") as caught:
        load(model)
    assert "\n" not in str(caught.value)
    assert acts_behind(load(model, statistics=str(made()["1.pkl"])), model, 1)


def test_equal_statistics_are_one(tmp_path: Path) -> None:
    model = put("normalised.zip", tmp_path / "model.zip")
    for name in ("vecnormalize.pkl", "vec_normalize.pkl", "model/vecnormalize.pkl"):
        put("1.pkl", tmp_path / name)
    assert acts_behind(load(model), model, 1)


def test_other_files_are_none_of_them(tmp_path: Path) -> None:
    model = put("silent.zip", tmp_path / "model.zip")
    (tmp_path / "replay_buffer.pkl").write_bytes(pickle.dumps({"observations": np.zeros(3)}))
    (tmp_path / "evaluations.npz").write_bytes(b"PK")
    (tmp_path / "notes.pkl").write_bytes(b"VecNormalize is not used")
    (tmp_path / "run").mkdir()
    put("silent.zip", tmp_path / "run" / "model.zip")
    put("1.pkl", tmp_path / "run" / "vecnormalize.pkl")  # that run's
    assert acts_behind(load(model), model, None)


def test_rewards_alone_need_none(tmp_path: Path) -> None:
    envs = VecNormalize(DummyVecEnv([lambda: gym.make(ENV)]), norm_obs=False)
    PPO("MlpPolicy", envs, **SMALL).learn(16).save(tmp_path / "model.zip")
    with pytest.raises(UsageError, match="with VecNormalize"):  # the zip does not say of what
        load(tmp_path / "model.zip")
    envs.save(str(tmp_path / "vecnormalize.pkl"))
    assert acts_behind(load(tmp_path / "model.zip"), tmp_path / "model.zip", None)


@pytest.mark.parametrize("option", ["missing.pkl", "."])
def test_an_option_that_names_nothing(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match="there is no such file; use none"):
        load(made()["silent.zip"], statistics=str(tmp_path / option))
    for spec in ("random", "catalogue", "scripted", "train"):
        with pytest.raises(UsageError, match=f"--expert {spec} takes no --expert-statistics"):
            load_expert(spec, ENV, *SPACES, statistics="none")


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([
        "model.zip", "best_model.zip", "rl_model_10_steps.zip", "rl_model_20_steps.zip", "Pendulum-v1/x.zip",
        "vecnormalize.pkl", "vec_normalize.pkl", "stats.pkl", "model_vecnormalize.pkl", "best_model_vecnormalize.pkl",
        "rl_model_vecnormalize_10_steps.pkl", "rl_model_vecnormalize_20_steps.pkl", "Pendulum-v1/vecnormalize.pkl",
        "Pendulum-v0/vecnormalize.pkl", "model/vecnormalize.pkl", "obs_rms.pkl", "best_model.pkl",
    ]), st.sampled_from([1, 2])), unique_by=lambda pair: pair[0], max_size=6),
    st.sampled_from([True, False, None]), st.sampled_from(["model.zip", "best_model.zip", "rl_model_10_steps.zip"]),
)  # fmt: skip
def test_whatever_lies_beside_it_is_taken_rightly_or_refused(
    tmp_path_factory: pytest.TempPathFactory, others: list[tuple[str, int]], behind: bool | None,
    name: str,
) -> None:  # fmt: skip
    """Only files of the zip's name or step, or unambiguous statistics, are used."""
    folder = tmp_path_factory.mktemp("layout")
    model = put("silent.zip", folder / name)
    for other, mean in others:
        put("silent.zip" if other.endswith(".zip") else f"{mean}.pkl", folder / other)
    lying = {other: mean for other, mean in others if other.endswith(".pkl")}
    if said := refusal(look_beside, model, ENV, behind):
        assert str(folder) in said
        assert "--expert-statistics" in said
        assert lying or behind
        return
    found = look_beside(model, ENV, behind).normalize
    if found is None:
        assert behind is not True
        assert (
            behind is False or not set(lying) - {"Pendulum-v0/vecnormalize.pkl", "model/vecnormalize.pkl"} or not lying
        )
        return
    assert behind is not False
    own = {"model.zip": "model_vecnormalize.pkl", "best_model.zip": "best_model_vecnormalize.pkl",
           "rl_model_10_steps.zip": "rl_model_vecnormalize_10_steps.pkl"}[name]  # fmt: skip
    if own in lying:
        assert found.mean[""][0] == lying[own]
    else:
        assert found.mean[""][0] in lying.values()


def test_what_a_model_in_python_lacks_is_asked_for(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "loads.py").write_text(
        "from stable_baselines3 import PPO\nimport gymnasium as gym\n"
        "from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize\n"
        f"zip_, pkl = {str(made()['normalised.zip'])!r}, {str(made()['1.pkl'])!r}\n"
        "def bare(): return PPO.load(zip_, device='cpu')\n"
        "def whole(): return PPO.load(zip_, device='cpu', env=VecNormalize.load(pkl, DummyVecEnv([lambda: gym.make("
        f"{ENV!r})])))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="--expert loads:bare was trained with VecNormalize, and has no statistics"):
        load(Path("loads:bare"))
    assert acts_behind(load(Path("loads:bare"), statistics="none"), made()["normalised.zip"], None)
    assert acts_behind(load(Path("loads:bare"), statistics=str(made()["2.pkl"])), made()["normalised.zip"], 2)
    assert acts_behind(load(Path("loads:whole")), made()["normalised.zip"], 1)


def test_zips_of_other_programs_do_not_count(tmp_path: Path) -> None:
    model = put("silent.zip", tmp_path / "model.zip")
    put("1.pkl", tmp_path / "env.pkl")
    with zipfile.ZipFile(tmp_path / "train_eval_metrics.zip", "w") as file:
        file.writestr("evaluations.npz", b"")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    assert acts_behind(load(model), model, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    model = put("silent.zip", tmp_path / "model.zip")
    tmp_path.chmod(0o100)
    try:
        assert acts_behind(load(model), model, None)
    finally:
        tmp_path.chmod(0o700)
