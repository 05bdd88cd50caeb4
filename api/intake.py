"""What is refused while it is still bytes: heads without end, targets that name nothing, codings
that nobody undoes, requests to no host or to two, and whatever is no HTTP at all; and requests that
do not come to their end, of which a client that has vanished would leave its connection behind for
ever. Likewise for replies that are not taken: they keep memory, and streams of them the view of a
scan.

The parser holds what it has of a head until that is whole, and tells of a line once it is whole. So
what it told of is counted where it tells it, and what it has not told of by the pieces that came:
at most twice ``MAX_HEAD`` and one piece are ever held.

Written against uvicorn 0.54. Used of its ``HttpToolsProtocol``: the methods overridden below, of
which ``_start_asgi_task`` runs a request; ``cycle.disconnected``, ``keep_alive``,
``message_event``, ``response_complete``, ``response_started`` and ``scope``; ``config``, ``flow``,
``headers``, ``logger``, ``loop``, ``parser``, ``pipeline``, ``scope``,
``server_state.default_headers``, ``transport``, ``url``; and ``RequestResponseCycle``.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

from httptools import HttpParserInvalidURLError
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from seerdb_api.errors import (
    HEAD_TOO_LARGE,
    INVALID_REQUEST,
    TARGET_TOO_LONG,
    TOO_SLOW,
    UNKNOWN_CODING,
    Problem,
    RefusalError,
    reply_to,
)
from seerdb_api.fast import FastPath
from seerdb_api.head import MAX_LINES, names_host
from seerdb_api.parser import Parser
from seerdb_api.reply import Reply, encoded, lines_of, send_reply
from seerdb_api.requests import DROP, request_id_for

MAX_TARGET = 65_535
"""Bytes of path and query, which is also what uvicorn's parser can split."""
MAX_HEAD = 128 << 10
"""Bytes of target, names and values of one request."""
PATIENCE = 60.0
"""Seconds in which a head has to be there, and then each next piece of the body."""
UNREAD = 300.0
"""Seconds in which a client has to take something of what waits for it."""
UNREAD_TOO_MUCH = 10.0
"""The same while more waits for all clients than ``MOST_UNREAD``."""

_HEAD_LIMITS = f"a request has at most {MAX_LINES} header lines and {MAX_HEAD:,} bytes of them"
_TARGET_LIMIT = f"path and query have at most {MAX_TARGET:,} bytes"
_FRAGMENT = "the request target holds a #, which is no part of one; in a key it is %23"
_NO_URL = "the request target is neither a path nor a URL with a host and a port up to 65,535"
_SLOW = "the head of a request has to be there within {0:g} seconds, and so each piece of its body"
_VERSIONS = ("1.0", "1.1")
_VERSION = "HTTP/1.1 is spoken here, and HTTP/1.0, but not HTTP/{0}"
_HOST = "a request names its host once, as HOST or HOST:PORT; only with HTTP/1.0 it need not"
_CUT = "the connection ended within this request"
_CODING = "the one transfer coding that is known here is chunked"
_CODING_HEADER = b"transfer-encoding"
_FRAMING = (b"content-length", _CODING_HEADER)
_CLOSE = b"connection: close\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """A connection that answers with a problem what it does not let in, after the requests that
    came whole before it, and closes. Requires: the configured app is a :class:`fast.FastPath`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config.app, FastPath)
        self.parser = Parser(self, self._head_of_body)
        self._fast = config.app
        self._service = self._fast.service
        self._parsing = False  # uvicorn's parser is inside of a message
        self._headed = False  # of which it has told the whole head
        self._told = 0  # bytes of its head so far
        self._lines = 0  # header lines of it so far
        self._untold = 0  # bytes that came since the parser last told of anything
        self._wrong: RefusalError | None = None  # what a callback has refused
        self._refused = False  # nothing more is taken
        self._begun = self._heard = self._fast.now()  # a request; any of its bytes
        self._untaken, self._untaken_since = 0, 0.0  # bytes that the client does not take
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None  # uvicorn knows the one that came last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._look_in(PATIENCE)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._timer is not None:
            self._timer.cancel()
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        self._fast.unread.end(self)
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more; one that waits for replies to what came whole may still read.
        That it is gone shows when there is something for it."""
        running, is_cut = self._running, self._parsing and not self._refused
        is_owed = running is not None and not running.response_complete
        if not self.pipeline and (not is_owed or (is_cut and self._headed)):
            return None
        if is_cut:
            self._refuse(RefusalError(INVALID_REQUEST, _CUT))
        elif not self._refused:
            self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """The client does not take what there is for it."""
        super().pause_writing()
        self._takes_nothing()
        self._fast.unread.begin(self, self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client has taken most of what waited for it."""
        self._untaken = 0
        self._fast.unread.end(self)
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Have uvicorn's parser look at what came."""
        if self._refused:
            return
        self._untold += len(data)
        self._heard = self._fast.now()
        super().data_received(data)
        if self._untold > MAX_HEAD and not self._refused:
            self._refuse(RefusalError(HEAD_TOO_LARGE, _HEAD_LIMITS))

    def on_message_begin(self) -> None:
        """The parser saw the first byte of a request, or begins with the body of one that offers
        another protocol; see :mod:`parser`."""
        if self._parsing:
            return
        self._parsing, self._headed = True, False
        self._begun = self._heard
        self._told = self._lines = self._untold = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """The parser saw some of a target."""
        if self._headed:
            return
        self._untold = 0
        self._told += len(url)
        super().on_url(url)
        if len(self.url) > MAX_TARGET:
            raise self._not_taken(TARGET_TOO_LONG, _TARGET_LIMIT)
        if b"#" in url:
            raise self._not_taken(INVALID_REQUEST, _FRAGMENT)

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser saw a header line, which has whitespace after its value yet; those of a
        trailer count, and mean nothing."""
        self._untold = 0
        self._told += len(name) + len(value)
        self._lines += 1
        if self._told > MAX_HEAD or self._lines > MAX_LINES:
            raise self._not_taken(HEAD_TOO_LARGE, _HEAD_LIMITS)
        if self._headed:
            return
        value = value.rstrip(b" \t")
        is_coding = len(name) == len(_CODING_HEADER) and name.lower() == _CODING_HEADER
        if is_coding and value.lower() != b"chunked":
            raise self._not_taken(UNKNOWN_CODING, _CODING)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The parser saw the end of a head."""
        if self._headed:
            return
        self._headed = True
        version = self.parser.get_http_version()
        if version not in _VERSIONS:  # 0.9 is a line that breaks off before its version
            raise self._not_taken(INVALID_REQUEST, _VERSION.format(version))
        hosts = [value for name, value in self.headers if name == b"host"]
        if not names_host(hosts, is_optional=version == "1.0"):
            raise self._not_taken(INVALID_REQUEST, _HOST)
        scope: Any = self.scope
        scope[DROP] = self.transport.abort
        try:
            super().on_headers_complete()
        except HttpParserInvalidURLError as error:
            raise self._not_taken(INVALID_REQUEST, _NO_URL) from error

    def on_body(self, body: bytes) -> None:
        """The parser saw some of a body."""
        self._untold = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser saw the last byte of a request, or of the head of one that offers another
        protocol."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._parsing = False

    def _head_of_body(self) -> bytes:
        """A head that says of what follows it what the last one said."""
        framing = [line for line in self.headers if line[0] in _FRAMING]
        close = b"" if self.cycle.keep_alive else _CLOSE
        return b"POST / HTTP/1.1\r\n%b%b\r\n" % (lines_of(framing), close)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser did not take; uvicorn calls this where it hears of it."""
        error = sys.exception()
        detail = f"this is no HTTP/1.1 request: {error or msg}"
        self._refuse(self._wrong or RefusalError(INVALID_REQUEST, detail))

    def _owing_since(self) -> float | None:
        """When the client last sent of what it owes of a request, or of its head when it began;
        ``None`` where it owes nothing, or sends no more because nothing is taken."""
        if self._refused or self.flow.read_paused:
            return None
        if self._parsing:
            return self._heard if self._headed else self._begun
        cycle: RequestResponseCycle | None = self.cycle
        return self._begun if cycle is None else None

    def _takes_nothing(self) -> bool:
        """Whether the client has taken nothing for long of what waits for it."""
        is_slow = self.flow.write_paused or self.transport.is_closing()
        untaken = self.transport.get_write_buffer_size() if is_slow else 0
        now = self._fast.now()
        if untaken != self._untaken:
            self._untaken, self._untaken_since = untaken, now
        patience = UNREAD_TOO_MUCH if self._fast.unread.is_too_much else UNREAD
        return untaken > 0 and now - self._untaken_since >= patience

    def drop_if_stuck(self) -> None:
        """Hang up on a client that has taken nothing for long of what waits for it."""
        if self._takes_nothing():
            self.transport.abort()

    def drop_if_replying(self) -> None:
        """Hang up on a client that has not got, or not taken, all of a reply that has begun."""
        cycle: RequestResponseCycle | None = self.cycle
        has_begun = cycle is not None and cycle.response_started and not cycle.response_complete
        if has_begun or self.transport.get_write_buffer_size():
            self.transport.abort()

    def _look(self) -> None:
        """Hang up on a client that has been owing for long, or takes nothing."""
        if self._takes_nothing():
            self.transport.abort()
            return
        since = self._owing_since()
        left = PATIENCE if since is None else since + PATIENCE - self._fast.now()
        if left <= 0:
            self._hang_up()
            left = PATIENCE
        self._look_in(left)

    def _hang_up(self) -> None:
        if self._parsing:
            self._refuse(RefusalError(TOO_SLOW, _SLOW.format(PATIENCE)))
        else:
            self.transport.close()

    def _look_in(self, seconds: float) -> None:
        # One look at a time for as long as it is open: nothing is to be set or ended by a request.
        self._timer = self.loop.call_later(seconds, self._look)

    def _not_taken(self, problem: Problem, detail: str) -> RefusalError:
        """What a callback raises to end the parsing, which the parser does not hand on."""
        self._wrong = RefusalError(problem, detail)
        return self._wrong

    def _refuse(self, error: RefusalError) -> None:
        """Answer with ``error`` when it is its turn, and close."""
        self._refused = self._parsing = True
        request_id = request_id_for(dict(self.headers or ()))
        reply = reply_to(error, request_id, self._service.db.visible_seq)
        app = partial(self._send, reply)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.scope is self.scope:  # it is its body that is wrong
            if self.pipeline and self.pipeline[0][0] is cycle:
                cycle.keep_alive = False
                self.pipeline[0] = (cycle, app)
                return
            if cycle.response_started:
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        elif cycle is not None and not cycle.response_complete:
            self.flow.pause_reading()
            self.pipeline.appendleft((self._last_cycle(), app))
            return
        else:
            self._count(reply)
        self.transport.write(encoded(reply, _CLOSE))
        self.transport.close()

    async def _send(self, reply: Reply, scope: Scope, _receive: Receive, send: Send) -> None:
        """An application that answers with ``reply`` whatever was asked."""
        self._count(reply)
        await send_reply(reply, scope["method"], send)

    def _count(self, reply: Reply) -> None:
        self._fast.record_refused(reply[0], self._fast.now() - self._begun)

    def _last_cycle(self) -> RequestResponseCycle:
        """What uvicorn runs an application in, for one that reads nothing of its request."""
        scope: Any = {**self.scope, "method": "GET"}
        return RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
