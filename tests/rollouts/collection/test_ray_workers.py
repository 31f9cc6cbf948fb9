"""The pool of Ray workers, tested with a fake of Ray: assignment of chunks and failures of workers."""

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import pytest

from gato_agent.envs.errors import GatoError
from gato_agent.rollouts.collection.episode_worker import CollectJob, Failed
from gato_agent.rollouts.collection.ray_pool import _Pool, _Worker
from gato_agent.rollouts.collection.scheduler import Chunk, Scheduler
from gato_agent.rollouts.experts.load import RandomExpert
from gato_agent.rollouts.storage.writer import Played
from tests.helpers.faulty_env import WORKER

EXPERT = RandomExpert(gym.spaces.Discrete(2), 0).provenance


class RayError(Exception):
    """Ray's exception for an actor that has died."""


class FakeRay:
    """Fake of Ray whose actors return at once; the first `starting` start, others stay pending or `fail`."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, starting: int, fail: bool = False, slow: int = 0) -> None:
        self.starting, self.fail, self.slow = starting, fail, slow
        self.made = 0
        self.played: list[int] = []
        self.answers: dict[Any, Any] = {}

    def remote(self, **_: Any) -> Any:
        return lambda _: SimpleNamespace(remote=self.make)

    def make(self, *_: Any) -> Any:
        number, self.made = self.made, self.made + 1
        return SimpleNamespace(
            ready=SimpleNamespace(remote=lambda: self.promise(number, None)),
            play=SimpleNamespace(remote=lambda chunk: self.promise(number, self.play(number, chunk))),
        )

    def promise(self, number: int, answer: Any) -> Any:
        reference = (number, len(self.answers))
        self.answers[reference] = answer
        return reference

    def play(self, number: int, chunk: Chunk) -> list[Played]:
        self.played.append(number)
        return [Played(chunk.job, seed, b"", 1, 0.0, 1.0) for seed in chunk.seeds]

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        self.slow -= 1
        done = [each for each in references if (each[0] < self.starting or self.fail) and self.slow < 0]
        return done[:1], references

    def get(self, reference: Any) -> Any:
        if reference[0] >= self.starting:
            raise RayError("it died")
        return self.answers[reference]


def pool(ray: FakeRay, size: int) -> _Pool:
    return _Pool(ray, [], Scheduler([range(5)], size), size, 5.0)


def test_only_workers_that_have_started_get_work():
    ray = FakeRay(starting=1)
    results = [result for group in pool(ray, 4).results() for result in group]
    assert sorted(result.seed for result in results) == [0, 1, 2, 3, 4]
    assert set(ray.played) == {0}


def test_a_turn_is_given_at_every_poll_whether_anything_ended_or_not():
    groups = list(pool(FakeRay(starting=1, slow=3), 1).results())
    assert groups[:3] == [[], [], []]
    assert [len(group) for group in groups].count(1) == 5


def test_workers_that_cannot_be_started_are_done_without_as_long_as_there_is_one():
    results = [result for group in pool(FakeRay(starting=1, fail=True), 3).results() for result in group]
    assert len(results) == 5
    with pytest.raises(GatoError, match=r"^no worker could be started on the Ray cluster: RayError: it died$"):
        list(pool(FakeRay(starting=0, fail=True), 3).results())


def test_an_environment_that_exits_costs_its_seed_and_the_worker_goes_on(tmp_path):
    kwargs = {"fault": "sys.exit", "seed": 3}
    header = {"env_id": "Worker-v0", "env_kwargs": kwargs, "noise": False, "versions": {}}
    worker = _Worker([job := CollectJob(WORKER, "random", 0, tmp_path, None, 1, header | {"expert": EXPERT})], 60.0)
    *before, failed, after = worker.play(Chunk(0, (1, 2, 3, 4)))
    assert [result.seed for result in before] == [1, 2]
    assert failed == Failed(0, 3, f"{job.env_id}: step 2 of seed 3 raised SystemExit: 7")
    assert isinstance(after, Played) and after.seed == 4
