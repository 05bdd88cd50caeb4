"""Plain requests for single keys, answered where their bytes arrive.

Parsing a request into an ASGI scope and giving it a task costs several times what the database
needs to answer it. So a connection looks at arriving bytes first: one whole request for
``/v1/kv/{key}`` that asks for nothing but the key is answered at once (a read from memory) or
with its group (a write). Everything else goes to uvicorn, unchanged, and from there to
:class:`fast.FastPath`; both paths answer the same bytes. What is not to be let in is refused on
that way, in :mod:`intake`.

Written against uvicorn 0.54. Used of its ``HttpToolsProtocol``: the methods overridden below;
``cycle.response_complete``, ``flow``, ``loop``, ``transport``,
``server_state.total_requests``, ``timeout_keep_alive`` and ``timeout_keep_alive_task``.
"""

from __future__ import annotations

import math
import re
from typing import Any

from seerdb import Batch, NeedsIO
from seerdb.errors import InvalidRequestError
from seerdb_api.errors import reply_to
from seerdb_api.head import fields_of, plain_body_length
from seerdb_api.intake import GuardedProtocol
from seerdb_api.keys import ABSENT
from seerdb_api.percent import decoded
from seerdb_api.port import Outcome
from seerdb_api.reply import encoded, lines_of, seq_header
from seerdb_api.requests import request_id_for
from seerdb_api.service import stopped

MAX_PLAIN_BODY = 64 << 10
"""Larger values, in requests and in replies, are worth uvicorn's flow control."""

_LINE = re.compile(
    rb"(GET|PUT|HEAD|DELETE) /v1/kv/([A-Za-z0-9._~!$&'()*+,;=:@/%-]{1,8192}) HTTP/1\.1\r\n"
)
_FOUND = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"
    b'content-length: %d\r\netag: "%d"\r\nseerdb-seq: %d\r\n%b\r\n'
)
_WRITTEN = b"seerdb-durability: %b\r\nseerdb-epoch: %d\r\nseerdb-seq: %d\r\n%b\r\n"
_PUT = b'HTTP/1.1 204 No Content\r\netag: "%d"\r\n' + _WRITTEN
_DELETED = b"HTTP/1.1 204 No Content\r\n" + _WRITTEN
_CLOSE = b"connection: close\r\n"
_NEVER = -math.inf


class KeyProtocol(GuardedProtocol):
    """One connection. Requires: no ``Date`` or ``Server`` headers, no access log, no limit of
    concurrency."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        fast = self._fast
        self._now = fast.now
        self._outbox = fast.outbox
        self._record = fast.record
        self._lag_headers = fast.service.lag_headers
        settings = fast.service.settings
        self._durability = settings.options.durability.encode()
        self._body_limit = min(settings.body_limit, MAX_PLAIN_BODY)
        self._held = b""  # a plain request whose body has not come
        self._write: tuple[bytes, bytes, float] | None = None  # unanswered: method, head, start
        self._after = b""  # what came while a write waits
        self._last = False  # close once it is answered
        self._rested = _NEVER  # when the last plain request was answered

    def data_received(self, data: bytes) -> None:
        """Take what the client sent: answer it, keep it for later or hand it to uvicorn."""
        if self._write is not None:
            self._after += data
            self.flow.pause_reading()
            return
        held, self._held = self._held, b""
        if held:
            data = held + data
        if not self._answered(data, may_hold=not held):
            self._outbox.send()
            super().data_received(data)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more; one that waits for a reply may still read."""
        self._outbox.send()
        self._last = True
        return True if self._write is not None else super().eof_received()

    def shutdown(self) -> None:
        """The server stops: close, after the reply to the request that is being served."""
        self._outbox.send()
        self._last = True
        if self._write is not None:
            return
        held, self._held = self._held, b""
        if held:
            super().data_received(held)
        super().shutdown()

    def give_up(self) -> None:
        """The server waits no longer for a write: tell the client so, and close."""
        if self._write is not None:
            self.finish(stopped())

    def timeout_keep_alive_handler(self) -> None:
        """Close if nothing came since the last reply.

        Plain requests leave the timer running, as setting one costs more than they do.
        """
        self.timeout_keep_alive_task = None
        if self._write is not None:
            return
        left = self._rested + self.timeout_keep_alive - self._now()
        if left > 0:
            self._watch(left)
        else:
            super().timeout_keep_alive_handler()

    def _look(self) -> None:
        """What is held at a look goes to uvicorn's parser, of which the next look knows."""
        held, self._held = self._held, b""
        if held:
            super().data_received(held)
        super()._look()

    def _owing_since(self) -> float | None:
        is_plain = self._write is not None or (self._rested > _NEVER and not self._parsing)
        return None if is_plain else super()._owing_since()

    def _answered(self, data: bytes, *, may_hold: bool) -> bool:
        """Whether ``data`` was one plain request and is taken care of."""
        line = _LINE.match(data)
        if line is None or not self._idle():
            return False
        start = line.end()  # of the header lines; without their end, nothing of them is plain
        end = data.find(b"\r\n\r\n", start - 2) + 4
        head = data[start:end]
        length = plain_body_length(head)
        if length is None or length > self._body_limit:
            return False
        missing = end + length - len(data)
        if missing:
            hold = may_hold and missing > 0
            if hold:
                self._hold(data)
            return hold
        method, key = line.groups()
        if b"%" in key:
            try:
                key = decoded(key)
            except InvalidRequestError:  # the other path will meet it, and answers it
                return False
        if method in (b"GET", b"HEAD"):
            return not length and self._read(method, key)
        return (method == b"PUT" or not length) and self._submitted(method, key, head, data[end:])

    def _idle(self) -> bool:
        """Whether nothing before this request is unfinished, and the client reads its replies."""
        cycle = self.cycle
        return (
            not self._parsing
            and (cycle is None or cycle.response_complete)  # type: ignore[redundant-expr]
            and not self.flow.write_paused
            and not self.transport.is_closing()
        )

    def _hold(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._held = data

    def _read(self, method: bytes, key: bytes) -> bool:
        started = self._now()
        db = self._service.db
        try:
            seq = db.visible_seq
            entry = db.try_get_entry(key)
        except Exception:  # noqa: BLE001 - the other path will meet it, and answers it
            return False
        if entry is None:
            status, headers, body = ABSENT
            sent = encoded((status, [*headers, seq_header(seq), *self._lag_headers()], body))
            if method == b"HEAD":
                sent = sent[: -len(body)]
        elif isinstance(entry, NeedsIO):
            return False
        else:
            value, at = entry.value, entry.seq
            size = len(value)
            if size > MAX_PLAIN_BODY:
                return False
            status = 200
            lag = lines_of(self._lag_headers()) if self._service.is_replica else b""
            sent = _FOUND % (size, at, at if at > seq else seq, lag)
            if method == b"GET":
                sent += value
        self._outbox.post(self.transport, sent)
        self._rest(method, status, started)
        return True

    def _submitted(self, method: bytes, key: bytes, head: bytes, value: bytes) -> bool:
        started = self._now()
        batch = Batch()
        if method == b"PUT":
            batch.put(key, value)
        else:
            batch.delete(key)
        self._service.submit(batch, None, None, self.finish)
        self._write = (method, head, started)
        return True

    def finish(self, outcome: Outcome) -> None:
        """Answer the write that waits, then go on with what came after it; nothing, where it was
        given up.

        A client that has gone is not answered; its write is counted all the same.
        """
        if self._write is None:
            return
        method, head, started = self._write
        self._write = None
        service = self._service
        seq = service.db.visible_seq
        status = 204
        close = _CLOSE if self._last else b""
        if isinstance(outcome, Exception):
            request_id = request_id_for(dict(fields_of(head)))
            reply = reply_to(outcome.with_traceback(None), request_id, seq)
            status = reply[0]
            sent = encoded(reply, lines_of(self._lag_headers()) + close)
        elif method == b"PUT":
            sent = _PUT % (outcome, self._durability, service.epoch, seq, close)
        else:
            sent = _DELETED % (self._durability, service.epoch, seq, close)
        self._rest(method, status, started)
        if self.transport.is_closing():
            return
        self.transport.write(sent)
        if self._last:
            self.transport.close()
        elif self._after:
            after, self._after = self._after, b""
            self.flow.resume_reading()
            self.data_received(after)

    def _rest(self, method: bytes, status: int, started: float) -> None:
        """Count a plain request that was answered, and wait for the next one."""
        self.server_state.total_requests += 1
        self._rested = now = self._now()
        self._record(method.decode(), status, now - started)
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._watch(self.timeout_keep_alive)

    def _watch(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )
