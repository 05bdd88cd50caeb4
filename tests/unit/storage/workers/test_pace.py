"""The pace of jobs beside a user's own work."""

from __future__ import annotations

from seerdb.storage.workers.pace import (
    LONGEST_REST_SECONDS,
    NO_REST,
    REST,
    SHORT_STRETCH_SECONDS,
    STRETCH_SECONDS,
    GivingWay,
)
from seerdb.testing.clock import FakeClock


class Job:
    """Steps of a job, each of so many seconds, and how long the pace made it rest."""

    def __init__(self, *, urgent: bool) -> None:
        self.clock = FakeClock()
        self.urgent = urgent
        self.pace = GivingWay(self.clock, lambda: NO_REST if self.urgent else REST)

    def step(self, seconds: float) -> float:
        self.clock.advance(seconds)
        before = self.clock.monotonic()
        self.pace()
        return self.clock.monotonic() - before


def test_a_job_rests_after_each_stretch_of_work() -> None:
    job = Job(urgent=False)
    rests = [round(job.step(STRETCH_SECONDS / 2), 6) for _ in range(6)]
    assert rests == [0, REST * STRETCH_SECONDS] * 3


def test_stretches_may_be_shorter() -> None:
    clock = FakeClock()
    pace = GivingWay(clock, lambda: REST, SHORT_STRETCH_SECONDS)
    clock.advance(SHORT_STRETCH_SECONDS)
    pace()
    assert round(clock.slept, 6) == round(REST * SHORT_STRETCH_SECONDS, 6)


def test_a_job_that_somebody_waits_for_does_not_rest() -> None:
    job = Job(urgent=True)
    assert [job.step(0.05) for _ in range(3)] == [0, 0, 0]
    job.urgent = False
    assert round(job.step(0.05), 6) == round(REST * 0.05, 6), "it is asked anew each time"


def test_a_job_does_not_rest_for_long_after_one_long_call() -> None:
    job = Job(urgent=False)
    assert round(job.step(1.0), 6) == LONGEST_REST_SECONDS


def test_what_a_job_waits_for_is_rest() -> None:
    job = Job(urgent=False)
    job.clock.sleep(STRETCH_SECONDS)
    assert round(job.step(STRETCH_SECONDS), 6) == (REST - 1) * STRETCH_SECONDS
    job.clock.sleep(STRETCH_SECONDS * REST)
    assert job.step(STRETCH_SECONDS) == 0
