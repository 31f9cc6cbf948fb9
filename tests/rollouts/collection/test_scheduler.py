"""Each seed is scheduled once, workers stay with their tasks, and tasks that only fail are dropped."""

from hypothesis import given
from hypothesis import strategies as st

from gato_agent.rollouts.collection.scheduler import HOPELESS, Scheduler


def test_each_begins_with_a_task_of_its_own_and_helps_when_it_is_done():
    scheduler = Scheduler([range(2), range(4)], workers=2)
    assert scheduler.next_chunk(None, []) == (0, (0,))
    assert scheduler.next_chunk(None, [0]) == (1, (0,))
    assert scheduler.next_chunk(0, [1]) == (0, (1,))
    assert scheduler.next_chunk(0, [1]) == (1, (1,))
    assert scheduler.next_chunk(1, [1]) == (1, (2,))
    assert scheduler
    assert scheduler.next_chunk(1, [1]) == (1, (3,))
    assert not scheduler
    assert scheduler.next_chunk(1, [1]) is None


def test_chunks_hold_many_short_episodes_and_few_at_the_end():
    scheduler = Scheduler([range(100)], workers=2)
    scheduler.played(0, 0.02)
    sizes = []
    while chunk := scheduler.next_chunk(0, []):
        sizes.append(len(chunk.seeds))
    assert sizes[0] == 25
    assert sizes[-1] == 1
    assert sum(sizes) == 100
    assert sizes == sorted(sizes, reverse=True)


def test_what_comes_back_is_scheduled_first():
    scheduler = Scheduler([range(10)], workers=1)
    scheduler.played(0, 0.09)
    assert scheduler.next_chunk(0, []) == (0, (0, 1, 2, 3, 4))
    scheduler.put_back(0, [3, 4])
    assert scheduler.next_chunk(0, []) == (0, (3, 4, 5, 6))


def test_a_task_that_only_fails_is_given_up_and_one_that_cannot_be_played_at_once():
    scheduler = Scheduler([range(100), range(100), range(100)], workers=1)
    for seed in range(HOPELESS):
        assert scheduler.next_chunk(0, []) == (0, (seed,))
        assert scheduler.failed(0, seed) == (0 if seed < HOPELESS - 1 else 100 - HOPELESS)
    assert scheduler.failed(1, None) == 0  # which is said already
    scheduler.put_back(0, [5])
    scheduler.played(2, 10.0)
    for seed in range(100):
        assert scheduler.next_chunk(2, []) == (2, (seed,))
        assert scheduler.failed(2, seed) == 0  # one episode was played, so each gets its try
    assert not scheduler


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 5), st.randoms())
def test_every_seed_is_scheduled_exactly_once(counts, workers, random):
    scheduler = Scheduler([range(count) for count in counts], workers)
    current: list[int | None] = [None] * workers
    dealt = []
    while scheduler:
        worker = random.randrange(workers)
        chunk = scheduler.next_chunk(current[worker], [job for job in current if job is not None])
        assert chunk is not None
        current[worker] = chunk.job
        dealt += [(chunk.job, seed) for seed in chunk.seeds]
        scheduler.played(chunk.job, random.random())
    assert sorted(dealt) == [(job, seed) for job, count in enumerate(counts) for seed in range(count)]
