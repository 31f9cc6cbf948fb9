"""Windows: a pure function of (seed, step), made of whole episodes' own tokens, aimed at the expert's actions."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from gato_agent.config import GatoConfig
from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.episode import Episode
from gato_agent.spaces import PACK, PAD, PATCH, SpaceTokenizer
from gato_agent.tokenized import TokenizedTask
from gato_agent.windows import Batch, Windows

VOCABULARY = GatoConfig.nano().vocabulary
OBSERVATION = Dict({"camera": Box(0, 255, (16, 32, 3), np.uint8), "x": Box(-1, 1, (2,))})
ACTION = Dict({"a": Discrete(3), "b": Box(-1, 1, (1,))})


def episode(length: int, seed: int, *, noisy: bool = True) -> Episode:
    rng = np.random.default_rng(seed)
    observations = {
        "camera": rng.integers(0, 256, (length + 1, 16, 32, 3), dtype=np.uint8),
        "x": rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32),
    }
    actions, labels = (
        {"a": rng.integers(0, 3, length), "b": rng.uniform(-1, 1, (length, 1)).astype(np.float32)} for _ in range(2)
    )
    return Episode(
        observations=observations, actions=actions, labels=labels if noisy else None, rewards=np.ones(length),
        terminated=True, truncated=False, success=None, seed=seed, provenance={},
    )  # fmt: skip


@pytest.fixture
def task() -> TokenizedTask:
    tokenizer = SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY)
    return TokenizedTask.of("toy", tokenizer, [episode(5, 0), episode(40, 1), episode(12, 2)])


def same(a: Batch, b: Batch) -> bool:
    flat = [
        [x.tokens, x.local, x.segment, x.patches, x.intervals, *(p for t in x.targets for p in t[2:4])] for x in (a, b)
    ]
    return all(torch.equal(p, q) for p, q in zip(*flat, strict=True))


def test_a_batch_depends_on_seed_and_step_alone(task: TokenizedTask) -> None:
    windows = Windows([task], window=100, batch_size=3, seed=7)
    first = windows.batch(4)
    windows.batch(0)
    assert same(first, windows.batch(4))
    assert same(first, Windows([task], window=100, batch_size=3, seed=7).batch(4))
    assert not torch.equal(first.tokens, windows.batch(5).tokens)
    assert not torch.equal(first.tokens, Windows([task], window=100, batch_size=3, seed=8).batch(4).tokens)


def test_windows_are_full_and_begin_at_timesteps(task: TokenizedTask) -> None:
    batch = Windows([task], window=100, batch_size=8, seed=0).batch(0)
    assert batch.tokens.shape == batch.local.shape == batch.segment.shape == (8, 100)
    assert (batch.tokens != PAD).all()
    begins = torch.cat((torch.ones(8, 1, dtype=torch.bool), batch.segment[:, 1:] != batch.segment[:, :-1]), dim=1)
    assert (batch.local[begins] == 0).all()
    assert batch.patches is not None and batch.intervals is not None
    assert len(batch.patches) == len(batch.intervals) == int((batch.tokens == PATCH).sum())


def test_every_fragment_is_a_segment_of_its_own(task: TokenizedTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes that share a window do not see each other, even where they are of one task."""
    fragment, lengths = task.fragment, list[int]()

    def counted(rng: np.random.Generator, length: int) -> slice:
        where = fragment(rng, length)
        lengths.append((where.stop - where.start) * task.tokenizer.tokens_per_step)
        return where

    monkeypatch.setattr(task, "fragment", counted)
    segment = Windows([task], window=1000, batch_size=1).batch(0).segment[0].numpy()
    begins = np.cumsum(lengths)[:-1]
    assert len(begins) >= 3
    assert np.array_equal(np.flatnonzero(np.diff(segment)) + 1, begins)  # constant inside, another at each begin
    assert len(set(segment.tolist())) == len(lengths)  # and none comes back


def test_targets_are_the_labels_and_inputs_the_executed_actions(task: TokenizedTask) -> None:
    """Every fragment is found in the episodes, with its patches in order and each label one token ahead."""
    tokenizer, step = task.tokenizer, task.tokenizer.tokens_per_step
    batch = Windows([task], window=90, batch_size=6, seed=1).batch(3)
    targets = {int(p): (int(i), t.low, t.high) for t in batch.targets for p, i in zip(t.position, t.id, strict=True)}
    shown = task.seen(slice(None))[0].reshape(len(task.rows), -1)
    rows = {row.tobytes() + patch.tobytes(): n for n, (row, patch) in enumerate(zip(task.rows, shown, strict=True))}
    patches = iter(batch.patches.numpy() if batch.patches is not None else ())
    found = 0
    for b in range(6):
        tokens, local = batch.tokens[b].numpy().astype(np.int32), batch.local[b].numpy()
        for at in np.flatnonzero(local == 0):
            count = int((tokens[at : at + step] == PATCH).sum())
            shown = np.array([next(patches) for _ in range(count)])
            if at + step > 90:
                continue
            n = rows[tokens[at : at + step].tobytes() + shown.tobytes()]
            for i in range(tokenizer.n_act):
                label, low, high = targets.pop(b * 90 + at + tokenizer.n_obs + i)
                assert label == task.labels[n, i]
                assert (low, high) == tuple(tokenizer.legal[i])
                found += 1
    assert found > 50
    assert all(p % 90 > 90 - step for p in targets)  # what is left belongs to timesteps cut by the window's end


@pytest.mark.parametrize(("pack", "parallel", "more"), [(64, 32, 0), (64, 2, 0), (64, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_parallel_actions_are_predicted_at_once_and_never_read(pack: int, parallel: int, more: int) -> None:
    """From the last pack if there is one, and from separators; each token predicts up to `parallel` of the two."""
    tokenizer = SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY, pack=pack, parallel=parallel)
    task = TokenizedTask.of("toy", tokenizer, [episode(30, 0)])
    n = tokenizer.n_obs
    assert tokenizer.tokens_per_step == n + more and (pack == 1 or n == 2 + 1)  # two patches, a pack
    batch = Windows([task], window=100, batch_size=4, seed=0).batch(0)
    assert (batch.packs is None) == (pack == 1)
    assert batch.packs is None or len(batch.packs) == (batch.tokens == PACK).sum()
    for low, high, position, ids, _, place, _ in batch.targets:
        action = 0 if high - low == 3 else 1
        local = batch.local.flatten()[position]
        assert place == action % parallel
        assert (local == n - (pack > 1) + action // parallel).all()
        assert ((low <= ids) & (ids < high)).all()
    asked = torch.cat([target.position * parallel + target.place for target in batch.targets])
    assert len(asked) == len(asked.unique()) >= 2 * (100 // tokenizer.tokens_per_step - 1)


def test_clean_episodes_are_their_own_labels() -> None:
    tokenizer = SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY)
    task = TokenizedTask.of("toy", tokenizer, [episode(9, 0, noisy=False)])
    assert np.array_equal(task.labels, task.rows[:, -2:])


def test_timesteps_are_seen_equally_often_but_for_the_first() -> None:
    """In long episodes and in short ones, which noise and failures make and which teach the most."""
    tokenizer = SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY)
    lengths = (60, 5, 40, 12, 1)
    task = TokenizedTask.of("toy", tokenizer, [episode(n, i) for i, n in enumerate(lengths)])
    rng, count = np.random.default_rng(0), 10
    seen = np.zeros(len(task.rows))
    for _ in range(30_000):
        seen[task.fragment(rng, count * tokenizer.tokens_per_step)] += 1
    per_episode = np.split(seen, task.ends[:-1])
    usual = np.concatenate([rows[count:] for rows in per_episode])
    assert usual.min() > 0.9 * usual.max()
    for rows in per_episode:
        assert (rows > 0.9 * usual.mean()).all()
        assert rows.max() < 2.1 * usual.mean()
        assert rows[-1] < 1.1 * usual.mean() or len(rows) < count


@pytest.mark.parametrize("length", [1, 40, 100, 1000])
def test_the_mean_fragment_is_that_of_many(task: TokenizedTask, length: int) -> None:
    rng, width = np.random.default_rng(0), task.tokenizer.tokens_per_step
    drawn = [task.fragment(rng, length) for _ in range(20_000)]
    mean = width * np.mean([where.stop - where.start for where in drawn])
    assert task.mean_fragment(length) == pytest.approx(mean, rel=0.02)


def test_fragments_stay_inside_one_episode(task: TokenizedTask) -> None:
    rng = np.random.default_rng(0)
    for length in (1, 50, 1000):
        for _ in range(500):
            where = task.fragment(rng, length)
            assert where.stop > where.start
            assert np.searchsorted(task.ends, where.start, "right") == np.searchsorted(
                task.ends, where.stop - 1, "right"
            )


def test_tasks_are_mixed_by_weight(task: TokenizedTask) -> None:
    tokenizer = SpaceTokenizer(Box(-1, 1, (3,)), Discrete(2), VOCABULARY)
    other = TokenizedTask.of("other", tokenizer, [
        Episode(
            observations={"": np.zeros((31, 3), np.float32)}, actions={"": np.zeros(30, np.int64)}, labels=None,
            rewards=np.ones(30), terminated=True, truncated=False, success=None, seed=0, provenance={},
        )
    ])  # fmt: skip
    windows = Windows([task, other], window=200, batch_size=4, seed=0, weights=[0.0, 1.0])
    assert all(windows.batch(i).patches is None for i in range(5))
    mixed = Windows([task, other], window=200, batch_size=4, seed=0).batch(0)
    assert {(t.low - VOCABULARY.discrete, t.high - t.low) for t in mixed.targets} >= {(0, 2), (0, 3)}
    long = Windows([task, other], window=2000, batch_size=100, seed=0, weights=[1.0, 3.0]).batch(0)
    steps = sum(len(t.id) for t in long.targets if t.high - t.low == 2)
    assert steps * tokenizer.tokens_per_step / long.tokens.numel() == pytest.approx(0.75, abs=0.05)


def test_short_fragments_put_more_into_a_window_and_keep_the_mixture(task: TokenizedTask) -> None:
    tokenizer = SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY)  # seven tokens a timestep
    other = TokenizedTask.of("other", tokenizer, [episode(300, 5)])
    count = {
        shortest: Windows([other], window=400, batch_size=50, seed=0, shortest=shortest).batch(0).segment[:, -1].sum()
        for shortest in (0, 400, 10)
    }
    assert count[0] == count[400] < count[10] / 2
    mixed = Windows([task, other], window=2000, batch_size=60, seed=0, shortest=10, weights=[1.0, 3.0])
    mixed.tasks[1].family = 1
    batch = mixed.batch(0)
    steps = [sum(len(t.id) for t in batch.targets if t.family == family) for family in (0, 1)]
    assert steps[1] / sum(steps) == pytest.approx(0.75, abs=0.1)  # the longest ones are cut at ends of windows
    longest = np.bincount(batch.segment[0].numpy()).max()
    assert 7 <= longest <= 2000


def test_timesteps_weigh_the_same_whatever_the_number_of_their_action_tokens(task: TokenizedTask) -> None:
    tokenizer = SpaceTokenizer(OBSERVATION, Dict({"a": Discrete(5)}), VOCABULARY)
    one = TokenizedTask.of("one", tokenizer, [episode(40, 5)])
    batch = Windows([task, one], window=200, batch_size=20, by_timestep=True).batch(0)
    weights = {(t.low, t.high): t.weight for t in batch.targets}
    assert [weights[low, high] for low, high in task.tokenizer.legal.tolist()] == [0.5, 0.5]
    assert [weights[low, high] for low, high in tokenizer.legal.tolist()] == [1.0]
    assert {t.weight for t in Windows([task], window=200, batch_size=2).batch(0).targets} == {1.0}


def test_an_observation_that_cannot_be_tokenised_is_named() -> None:
    bad = episode(4, 3)
    bad.observations["x"][2, 1] = np.nan
    with pytest.raises(GatoError, match=r"toy: seed 3, step 2: .*x"):
        TokenizedTask.of("toy", SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY), [bad])
    with pytest.raises(GatoError, match="no episodes"):
        TokenizedTask.of("toy", SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY), [])
