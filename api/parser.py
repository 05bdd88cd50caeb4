"""uvicorn's parser, which stays with HTTP/1.1 when a client offers another protocol.

A request may carry such an offer (``Upgrade``), as the first one of several clients that prefer
HTTP/2 always does. Not to take it up is to answer the request as if it had not been made (RFC 9110,
section 7.8). httptools, however, stops behind the head of such a request, and leaves all that
follows to the other protocol, the body too.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser


class Parser(HttpRequestParser):
    """Tells ``connection`` of the message whose head offers another protocol as complete, and then
    of a second one, which is the body of the first: its head is what ``head_of_body`` says."""

    def __init__(self, connection: Any, head_of_body: Callable[[], bytes]) -> None:
        self._connection = connection
        self._head_of_body = head_of_body
        self._begin()

    def _begin(self) -> None:
        super().__init__(self._connection)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it

    def feed_data(self, data: bytes | bytearray | memoryview | array[int]) -> None:
        """See httptools; never raises ``HttpParserUpgrade``."""
        rest = memoryview(data)
        while True:
            try:
                super().feed_data(rest)
            except HttpParserUpgrade as stop:
                rest = rest[stop.args[0] :]
                self._begin()  # else it takes nothing more behind a head that asks to close
                super().feed_data(self._head_of_body())
            else:
                return
