"""Windows: a pure function of (seed, step), made of whole episodes' own tokens, aimed at the expert's actions."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from gato_agent.dataset.batch import CONDITIONAL_EVERY, Batch
from gato_agent.dataset.batches import BatchSampler
from gato_agent.dataset.task_tokens import TokenizedTask
from gato_agent.envs.errors import GatoError
from gato_agent.model.config import GatoConfig
from gato_agent.rollouts.storage.episode import Episode
from gato_agent.tokens.space_tokenizer import PAD, PATCH, VALUES, SpaceTokenizer
from gato_agent.tokens.timestep_layout import ACTION_GROUP, ALWAYS

VOCABULARY = GatoConfig.nano().vocabulary
STREAMS = pytest.mark.parametrize("task", [False, True], indirect=True, ids=["hidden", "visible"])
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
def task(request: pytest.FixtureRequest) -> TokenizedTask:
    """Actions through the transformer, hidden from later timesteps unless the parameter is True."""
    tokenizer = SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY, past_actions=getattr(request, "param", False))
    return TokenizedTask.of("toy", tokenizer, [episode(5, 0), episode(40, 1), episode(12, 2)])


def same(a: Batch, b: Batch) -> bool:
    flat = [tensors_of(batch) for batch in (a, b)]
    return all(torch.equal(p, q) for p, q in zip(*flat, strict=True))


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    """All tensors of a batch, in order."""
    targets = batch.targets
    rows = [part for ranges in targets.ranges for each in ranges for part in (each.rows, each.learned)]
    parts = [*vars(batch).values(), targets.position, targets.ids, targets.family, targets.weight, *rows]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def legal_of(batch: Batch) -> set[tuple[int, int]]:
    """Ranges of legal ids of all action tokens."""
    return {(each.low, each.high) for ranges in batch.targets.ranges for each in ranges}


def found_targets(batch: Batch) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Id and range of each action token, by flat place of the token that predicts it and its index in the action."""
    targets, by_position = batch.targets, dict[tuple[int, int], tuple[int, int, int]]()
    for at, ranges in enumerate(targets.ranges):
        for each in ranges:
            for row in each.rows.tolist():
                place = int(targets.position[row]) + targets.offset[at]
                assert (place, at) not in by_position
                by_position[place, at] = (int(targets.ids[row, at]), each.low, each.high)
    assert len(by_position) == targets.tokens
    return by_position


def test_a_batch_depends_on_seed_and_step_alone(task: TokenizedTask) -> None:
    sampler = BatchSampler([task], sequence_length=100, batch_size=3, seed=7)
    first = sampler.batch(4)
    sampler.batch(0)
    assert same(first, sampler.batch(4))
    assert same(first, BatchSampler([task], sequence_length=100, batch_size=3, seed=7).batch(4))
    assert not torch.equal(first.tokens, sampler.batch(5).tokens)
    assert not torch.equal(
        first.tokens, BatchSampler([task], sequence_length=100, batch_size=3, seed=8).batch(4).tokens
    )


def test_windows_are_full_and_begin_at_timesteps(task: TokenizedTask) -> None:
    batch = BatchSampler([task], sequence_length=100, batch_size=8, seed=0).batch(0)
    assert batch.tokens.shape == batch.local.shape == batch.segment.shape == (8, 100)
    assert (batch.tokens != PAD).all()
    begins = torch.cat((torch.ones(8, 1, dtype=torch.bool), batch.segment[:, 1:] != batch.segment[:, :-1]), dim=1)
    assert (batch.local[begins] == 0).all()
    assert batch.patches is not None and batch.intervals is not None
    assert len(batch.patches) == len(batch.intervals) == int((batch.tokens == PATCH).sum())


def test_every_episode_segment_has_its_own_number(task: TokenizedTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes in one sequence do not attend to each other, even if they are of one task."""
    segment_at, lengths = task.segment_at, list[int]()

    def counted(rng: np.random.Generator, length: int) -> slice:
        rows = segment_at(rng, length)
        lengths.append((rows.stop - rows.start) * task.tokenizer.layout.length)
        return rows

    monkeypatch.setattr(task, "segment_at", counted)
    segment = BatchSampler([task], sequence_length=1000, batch_size=1).batch(0).segment[0].numpy()
    begins = np.cumsum(lengths)[:-1]
    assert len(begins) >= 3
    assert np.array_equal(np.flatnonzero(np.diff(segment)) + 1, begins)  # constant inside, another at each begin
    assert len(set(segment.tolist())) == len(lengths)  # and none comes back


@STREAMS
def test_targets_are_the_labels_and_what_stays_are_the_executed_actions(task: TokenizedTask) -> None:
    """Every segment is found in the episodes, with its patches in order and each label one token ahead.

    Actions that no later timestep attends to are read by their own alone, and are the labels, too.
    """
    tokenizer, layout = task.tokenizer, task.tokenizer.layout
    step = layout.length
    executed = np.concatenate([tokenizer.encode_actions(episode(n, i).actions) for i, n in enumerate((5, 40, 12))])
    assert np.array_equal(task.rows[:, -2:], task.labels if layout.hides_actions else executed)
    assert not np.array_equal(executed, task.labels)
    batch = BatchSampler([task], sequence_length=90, batch_size=6, seed=1).batch(3)
    targets = found_targets(batch)
    shown = task.seen(slice(None))[0].reshape(len(task.rows), -1)
    rows = {row.tobytes() + patch.tobytes(): n for n, (row, patch) in enumerate(zip(task.rows, shown, strict=True))}
    patches = iter(batch.patches.numpy() if batch.patches is not None else ())
    checked = 0
    for b in range(6):
        tokens, local = batch.tokens[b].numpy().astype(np.int32), batch.local[b].numpy()
        for at in np.flatnonzero(local == 0):
            count = int((tokens[at : at + step] == PATCH).sum())
            shown = np.array([next(patches) for _ in range(count)])
            if at + step > 90:
                continue
            n = rows[tokens[at : at + step].tobytes() + shown.tobytes()]
            for i in range(tokenizer.n_act):
                label, low, high = targets.pop((b * 90 + at + layout.predictor(i), i))
                assert label == task.labels[n, i]
                assert (low, high) == tuple(tokenizer.legal[i])
                checked += 1
    assert checked > 50
    assert all(place % 90 > 90 - step for place, _ in targets)  # the last timesteps, which the end of the sequence cuts


@STREAMS
def test_positions_count_what_stays_and_hidden_tokens_end_with_their_timestep(task: TokenizedTask) -> None:
    layout = task.tokenizer.layout
    batch = BatchSampler([task], sequence_length=90, batch_size=6, seed=1).batch(3)
    if not layout.hides_actions:
        assert batch.index is None and batch.until is None
        return
    assert batch.index is not None and batch.until is not None
    for segment, index, until in zip(batch.segment, batch.index, batch.until, strict=True):
        for number in segment.unique():
            places = (segment == number).nonzero().flatten()
            step, at = np.divmod(np.arange(len(places)), layout.length)
            assert index[places].tolist() == (step * layout.n_obs + at).tolist()
            last = places[0].item() + step * layout.length + layout.length - 1
            assert until[places].tolist() == np.where(at < layout.n_obs, ALWAYS, last).tolist()


@pytest.mark.parametrize(
    ("values_per_token", "n_act", "more"),
    [(64, 2, 0), (64, 32, 0), (64, 33, 1), (64, 70, 2), (1, 2, 1), (1, 32, 1), (1, 65, 3)],
)
def test_an_action_decoder_reads_the_last_tokens_and_no_action_is_in_the_stream(
    values_per_token: int, n_act: int, more: int
) -> None:
    """From the last group of values if there is one, and from separators; each predicts up to 32 action tokens."""
    space = Dict({"a": Discrete(3), "b": Box(-1, 1, (n_act - 1,))})
    tokenizer = SpaceTokenizer(OBSERVATION, space, VOCABULARY, values_per_token=values_per_token, action_decoder=True)
    rng, shown = np.random.default_rng(0), episode(30, 0, noisy=False)
    shown.actions["b"] = rng.uniform(-1, 1, (30, n_act - 1)).astype(np.float32)
    task = TokenizedTask.of("toy", tokenizer, [shown])
    n, layout = tokenizer.n_obs, tokenizer.layout
    assert layout.length == n + more and (values_per_token == 1 or n == 2 + 1)  # two patches, a group of values
    assert (task.rows[:, n:] == VOCABULARY.separator).all() and task.labels.shape == (30, n_act)
    batch = BatchSampler([task], sequence_length=100, batch_size=4, seed=0).batch(0)
    assert (batch.value_groups is None) == (values_per_token == 1)
    assert batch.value_groups is None or len(batch.value_groups) == (batch.tokens == VALUES).sum()
    assert batch.index is None and batch.until is None
    assert batch.targets.offset == [at // ACTION_GROUP for at in range(n_act)]
    for (place, at), (label, low, high) in found_targets(batch).items():
        assert batch.local.flatten()[place] == n - (values_per_token > 1) + at // ACTION_GROUP
        assert high - low == (3 if at == 0 else 1024) and low <= label < high
    assert batch.targets.tokens >= 4 * n_act * (100 // layout.length - 1)


def test_actions_of_other_lengths_share_a_batch(task: TokenizedTask) -> None:
    """Those of most tokens come first, so that the rows with a token are the first ones, of any kind of ids."""
    single = SpaceTokenizer(OBSERVATION, Dict({"a": Discrete(5)}), VOCABULARY)
    other = TokenizedTask.of("other", single, [episode(40, 5)])
    other.family = 2
    batch = BatchSampler([other, task], sequence_length=200, batch_size=10, seed=0).batch(0)
    targets = batch.targets
    assert targets.families == 3 and set(targets.family.tolist()) == {0, 2}
    of_two = int((targets.family == 0).sum())
    assert targets.count(0) == len(targets.position) > targets.count(1) == of_two > 0
    assert (targets.family[:of_two] == 0).all() and (targets.ids[of_two:, 1] == 0).all()
    assert targets.tokens == targets.count(0) + targets.count(1) == targets.weighed
    assert {(each.low, each.high) for each in targets.ranges[0]} == {
        tuple(part.legal[0]) for part in (single, task.tokenizer)
    }
    rows = torch.cat([each.rows for each in targets.ranges[0]])
    assert sorted(rows.tolist()) == list(range(len(targets.position)))


def test_the_conditional_part_learns_from_rows_that_follow_from_the_step(task: TokenizedTask) -> None:
    """As many of each kind, in steps of the same size from a beginning that is drawn for each batch."""
    sampler = BatchSampler([task], sequence_length=200, batch_size=4, seed=0)
    for targets in (sampler.batch(step).targets for step in range(10)):
        for ranges in targets.ranges:
            for each in ranges:
                assert each.rows.tolist() == sorted(each.rows.tolist())
                learned = each.rows[each.rows % CONDITIONAL_EVERY == targets.begin]
                assert torch.equal(each.learned, learned)
    assert {sampler.batch(step).targets.begin for step in range(10)} == set(range(CONDITIONAL_EVERY))


def test_a_batch_moves_to_a_device_whole(task: TokenizedTask) -> None:
    batch = BatchSampler([task], sequence_length=90, batch_size=3, seed=1).batch(3)
    assert same(batch, batch.to("cpu"))
    moved = batch.to("meta")
    assert [part.shape for part in tensors_of(moved)] == [part.shape for part in tensors_of(batch)]
    assert all(part.is_meta for part in tensors_of(moved))


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
        seen[task.segment_at(rng, count * tokenizer.layout.length)] += 1
    per_episode = np.split(seen, task.ends[:-1])
    usual = np.concatenate([rows[count:] for rows in per_episode])
    assert usual.min() > 0.9 * usual.max()
    for rows in per_episode:
        assert (rows > 0.9 * usual.mean()).all()
        assert rows.max() < 2.1 * usual.mean()
        assert rows[-1] < 1.1 * usual.mean() or len(rows) < count


@pytest.mark.parametrize("length", [1, 40, 100, 1000])
def test_the_mean_segment_is_that_of_many(task: TokenizedTask, length: int) -> None:
    rng, width = np.random.default_rng(0), task.tokenizer.layout.length
    drawn = [task.segment_at(rng, length) for _ in range(20_000)]
    mean = width * np.mean([rows.stop - rows.start for rows in drawn])
    assert task.mean_segment(length) == pytest.approx(mean, rel=0.02)


def test_segments_stay_inside_one_episode(task: TokenizedTask) -> None:
    rng = np.random.default_rng(0)
    for length in (1, 50, 1000):
        for _ in range(500):
            rows = task.segment_at(rng, length)
            assert rows.stop > rows.start
            assert np.searchsorted(task.ends, rows.start, "right") == np.searchsorted(task.ends, rows.stop - 1, "right")


def test_tasks_are_mixed_by_weight(task: TokenizedTask) -> None:
    tokenizer = SpaceTokenizer(Box(-1, 1, (3,)), Discrete(2), VOCABULARY)
    other = TokenizedTask.of("other", tokenizer, [
        Episode(
            observations={"": np.zeros((31, 3), np.float32)}, actions={"": np.zeros(30, np.int64)}, labels=None,
            rewards=np.ones(30), terminated=True, truncated=False, success=None, seed=0, provenance={},
        )
    ])  # fmt: skip
    sampler = BatchSampler([task, other], sequence_length=200, batch_size=4, seed=0, weights=[0.0, 1.0])
    assert all(sampler.batch(i).patches is None for i in range(5))
    mixed = BatchSampler([task, other], sequence_length=200, batch_size=4, seed=0).batch(0)
    assert {(low - VOCABULARY.discrete, high - low) for low, high in legal_of(mixed)} >= {(0, 2), (0, 3)}
    long = BatchSampler([task, other], sequence_length=2000, batch_size=100, seed=0, weights=[1.0, 3.0]).batch(0)
    steps = sum(len(each.rows) for each in long.targets.ranges[0] if each.high - each.low == 2)
    assert steps * tokenizer.layout.length / long.tokens.numel() == pytest.approx(0.75, abs=0.05)


def test_short_segments_put_more_into_a_sequence_and_keep_the_mixture(task: TokenizedTask) -> None:
    tokenizer = SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY)  # seven tokens a timestep
    other = TokenizedTask.of("other", tokenizer, [episode(300, 5)])
    count = {
        min_segment: BatchSampler([other], sequence_length=400, batch_size=50, seed=0, min_segment=min_segment)
        .batch(0)
        .segment[:, -1]
        .sum()
        for min_segment in (0, 400, 10)
    }
    assert count[0] == count[400] < count[10] / 2
    mixed = BatchSampler([task, other], sequence_length=2000, batch_size=60, seed=0, min_segment=10, weights=[1.0, 3.0])
    mixed.tasks[1].family = 1
    batch = mixed.batch(0)
    steps = [int((batch.targets.family == family).sum()) for family in (0, 1)]
    assert steps[1] / sum(steps) == pytest.approx(0.75, abs=0.1)  # the longest ones are cut at ends of windows
    longest = np.bincount(batch.segment[0].numpy()).max()
    assert 7 <= longest <= 2000


def test_timesteps_weigh_the_same_whatever_the_number_of_their_action_tokens(task: TokenizedTask) -> None:
    tokenizer = SpaceTokenizer(OBSERVATION, Dict({"a": Discrete(5)}), VOCABULARY)
    one = TokenizedTask.of("one", tokenizer, [episode(40, 5)])
    batch = BatchSampler([task, one], sequence_length=200, batch_size=20, loss_per_timestep=True).batch(0)
    targets = batch.targets
    weights = {
        (at, each.low, each.high): targets.weight[each.rows].unique().tolist()
        for at, ranges in enumerate(targets.ranges) for each in ranges
    }  # fmt: skip
    assert [weights[at, low, high] for at, (low, high) in enumerate(task.tokenizer.legal.tolist())] == [[0.5], [0.5]]
    assert [weights[at, low, high] for at, (low, high) in enumerate(tokenizer.legal.tolist())] == [[1.0]]
    assert targets.weighed == len(targets.position) < targets.tokens
    assert BatchSampler([task], sequence_length=200, batch_size=2).batch(0).targets.weight.unique().tolist() == [1.0]


def test_an_observation_that_cannot_be_tokenised_is_named() -> None:
    bad = episode(4, 3)
    bad.observations["x"][2, 1] = np.nan
    with pytest.raises(GatoError, match=r"toy: seed 3, step 2: .*x"):
        TokenizedTask.of("toy", SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY), [bad])
    with pytest.raises(GatoError, match="no episodes"):
        TokenizedTask.of("toy", SpaceTokenizer(OBSERVATION, ACTION, VOCABULARY), [])
