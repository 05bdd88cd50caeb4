"""Replies that are ready in one pass of the event loop, sent together at its end.

A reply wakes its client, and where that has no processor of its own it takes the server's: replies
that are sent one by one, between requests, cost a change of processes each. Of those sent in one
go, most reach a client that is awake.
"""

from __future__ import annotations

import asyncio

MOST_WAITING = 64
"""Replies that are held at once, so that the first waits a fraction of a millisecond at most."""


class Outbox:
    """Belongs to one event loop.

    Who writes to a transport otherwise, or closes it, in a pass in which it may have a reply here,
    calls :meth:`send` before: the replies of a connection keep their order.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def post(self, transport: asyncio.Transport, reply: bytes) -> None:
        """Send ``reply`` when this pass of the loop has dealt with all that came in."""
        waiting = self._waiting
        if not waiting:
            asyncio.get_running_loop().call_soon(self.send)
        waiting.append((transport, reply))
        if len(waiting) >= MOST_WAITING:
            self.send()

    def send(self) -> None:
        """Send what waits, but for those who are gone."""
        waiting, self._waiting = self._waiting, []
        for transport, reply in waiting:
            if not transport.is_closing():
                transport.write(reply)
