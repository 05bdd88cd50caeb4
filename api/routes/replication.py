"""``/v1/replication``: the log as followers read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from seerdb.errors import SeerDBError
from seerdb.ids import MAX_SEQ
from seerdb_api.errors import log_failure
from seerdb_api.openapi import READ_ONLY, READ_PROBLEMS, Success, documented
from seerdb_api.port import LogCursor
from seerdb_api.query import parse_query, whole_number
from seerdb_api.reply import seq_header
from seerdb_api.requests import drop_of, request_id_of
from seerdb_api.service import Service, service_of

router = APIRouter(tags=["replication"])

MEDIA_TYPE = "application/vnd.seerdb.log"
POLL_SECONDS = 0.01
"""How often a stream that has sent everything looks for more."""
HEARTBEAT_SECONDS = 1.0
SEND_SECONDS = 10.0
"""A follower that takes nothing for so long is dropped."""
FULL_BYTES = 512 << 10
"""After so much at once there is probably more."""

FROM = whole_number("from", "The first seq that is wanted; by default 1", MAX_SEQ)


class LogStream(StreamingResponse):
    """The log, without end, at the pace of its follower: nothing is kept in memory for it.
    ``drop`` ends the connection of one that takes nothing."""

    def __init__(
        self, service: Service, cursor: LogCursor, request_id: str, drop: Callable[[], None]
    ) -> None:
        super().__init__((), media_type=MEDIA_TYPE)
        self._service = service
        self._cursor = cursor
        self._request_id = request_id
        self._drop = drop

    async def stream_response(self, send: Send) -> None:
        """Send until the follower goes away, or the log or the server ends."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        try:
            await self._send_log(send)
        except (SeerDBError, TimeoutError) as error:
            log_failure(error, self._request_id)
            if isinstance(error, TimeoutError):
                self._drop()
        finally:
            self._cursor.close()
        await self._end(send)

    async def _end(self, send: Send) -> None:
        """Send the end, for which what was sent before has to be taken."""
        late = asyncio.get_running_loop().call_later(SEND_SECONDS, self._drop)
        try:
            await send({"type": "http.response.body", "body": b""})
        finally:
            late.cancel()

    async def _send_log(self, send: Send) -> None:
        cursor, service = self._cursor, self._service
        now = asyncio.get_running_loop().time
        await _send(send, cursor.greeting())
        beat_at = now() + HEARTBEAT_SECONDS
        while not service.is_stopping:
            sent = await service.read(cursor.read) if cursor.has_news else b""
            if now() >= beat_at:
                beat_at = now() + HEARTBEAT_SECONDS
                sent += await service.read(cursor.heartbeat)
            if sent:
                await _send(send, sent)
            if len(sent) < FULL_BYTES:
                await asyncio.sleep(POLL_SECONDS)


async def _send(send: Send, data: bytes) -> None:
    message = {"type": "http.response.body", "body": data, "more_body": True}
    await asyncio.wait_for(send(message), SEND_SECONDS)


@router.get(
    "/v1/replication/log",
    **documented(
        query=(FROM,),
        success={
            200: Success(
                "The log, as docs/formats describes it, without end",
                {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
                ("seerdb-seq",),
            )
        },
        problems=(*READ_PROBLEMS, READ_ONLY),
    ),
)
async def follow_log(request: Request) -> Response:
    """The durable log from a seq on: what is there at once, and then what comes, with a heartbeat
    each second. What the local log has no more is left out: the bucket has it."""
    seq = parse_query(request.scope["query_string"], (FROM,)).get("from", 1)
    service = service_of(request)
    cursor = await service.read(service.db.follow, seq)
    stream = LogStream(service, cursor, request_id_of(request), drop_of(request))
    stream.raw_headers.append(seq_header(service.db.visible_seq))
    return stream
