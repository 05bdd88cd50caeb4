"""Many who wait for a commit cost what one does."""

from __future__ import annotations

import asyncio

import pytest

from seerdb_api.arrivals import Arrivals
from seerdb_api.errors import BEHIND, RefusalError
from seerdb_api.freshness import wait_until_fresh
from seerdb_api.service import Service
from seerdb_api.settings import ServiceSettings
from tests.api.fake_database import FakeDatabase

LATE = float("inf")


class Shown:
    """A number that counts who looks at it."""

    def __init__(self) -> None:
        self.number = self.looks = 0

    def __call__(self) -> int:
        self.looks += 1
        return self.number


def test_each_is_told_when_its_number_is_reached() -> None:
    async def story() -> None:
        shown = Shown()
        arrivals = Arrivals(shown)
        waits = [asyncio.create_task(arrivals.wait(wanted, LATE)) for wanted in (3, 1, 2)]
        await asyncio.sleep(0)
        shown.number = 2
        assert await waits[1]
        assert await waits[2]
        assert not waits[0].done()
        shown.number = 3
        assert await waits[0]

    asyncio.run(story())


def test_what_is_there_is_not_waited_for() -> None:
    async def story() -> None:
        assert await Arrivals(lambda: 7).wait(7, ends=0)
        assert not await Arrivals(lambda: 7).wait(8, ends=0)

    asyncio.run(story())


def test_nobody_waits_on_when_it_ends() -> None:
    async def story() -> None:
        arrivals = Arrivals(lambda: 7)
        wait = asyncio.create_task(arrivals.wait(8, LATE))
        await asyncio.sleep(0)
        arrivals.end()
        assert not await wait
        assert not await arrivals.wait(8, LATE)
        assert await arrivals.wait(7, LATE)

    asyncio.run(story())


def test_those_who_have_left_are_forgotten() -> None:
    async def story() -> None:
        shown = Shown()
        arrivals = Arrivals(shown)
        left = asyncio.create_task(arrivals.wait(1, LATE))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        stays = asyncio.create_task(arrivals.wait(9, LATE))
        await asyncio.sleep(0)
        shown.number = 9
        assert await stays

    asyncio.run(story())


def test_reads_that_wait_for_what_does_not_come_look_once_for_all() -> None:
    waiters = 200

    class CountedDatabase(FakeDatabase):
        looks = Shown()

        @property
        def visible_seq(self) -> int:
            return self.looks()

        @visible_seq.setter
        def visible_seq(self, seq: int) -> None:
            self.looks.number = seq

    async def story() -> int:
        service, db = Service(ServiceSettings()), CountedDatabase()
        service.start(db)
        asked = {"min_seq": 10**9, "timeout": 0.2}
        results = await asyncio.gather(
            *(wait_until_fresh(service, {}, asked) for _ in range(waiters)), return_exceptions=True
        )
        assert all(isinstance(each, RefusalError) and each.problem is BEHIND for each in results)
        return db.looks.looks

    assert asyncio.run(story()) < 6 * waiters  # as each began and ended, and 40 for all of them
