"""Waiting for a number to be reached: one look for all who wait, however many they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

POLL_SECONDS = 0.005
"""How often it is looked while somebody waits."""


class Arrivals:
    """Who waits until ``shown`` tells some number or more. Belongs to one event loop.

    Whoever waits costs nothing until the least number that is waited for is reached: clients that
    ask for what does not come, or that went away meanwhile, are not felt by the others.
    """

    def __init__(self, shown: Callable[[], int]) -> None:
        self._shown = shown
        self._waiting: dict[asyncio.Future[bool], int] = {}
        self._least = 0  # at most the least number of those
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def reached(self, wanted: int) -> bool:
        """Whether it is there."""
        return self._shown() >= wanted

    async def wait(self, wanted: int, ends: float) -> bool:
        """Whether ``wanted`` was reached before it was ``ends`` by the loop, or :meth:`end`."""
        if self._ended or self.reached(wanted):
            return self.reached(wanted)
        arrival: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._least = min(self._least, wanted) if self._waiting else wanted
        self._waiting[arrival] = wanted
        if self._timer is None:
            self._look_later()
        try:
            async with asyncio.timeout_at(ends):
                return await arrival
        except TimeoutError:
            return self.reached(wanted)
        finally:
            self._waiting.pop(arrival, None)

    def end(self) -> None:
        """Have nobody wait any more."""
        self._ended = True
        self._settle(list(self._waiting), there=False)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(POLL_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        shown = self._shown()
        if shown >= self._least:
            arrived = [each for each, wanted in self._waiting.items() if wanted <= shown]
            self._settle(arrived, there=True)
            self._least = min(self._waiting.values(), default=0)
        if self._waiting:
            self._look_later()

    def _settle(self, arrived: list[asyncio.Future[bool]], *, there: bool) -> None:
        for each in arrived:
            del self._waiting[each]
            if not each.done():
                each.set_result(there)
