"""``/v1/kv``: scan a range, as pages or as a stream, and delete one."""

from __future__ import annotations

from collections.abc import Generator

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from seerdb import Batch
from seerdb_api.accept import prefers
from seerdb_api.conditions import refuse_conditions
from seerdb_api.errors import document_of, log_failure
from seerdb_api.freshness import FRESHNESS_HEADERS, FRESHNESS_PROBLEMS, wait_until_fresh
from seerdb_api.keyrange import range_to_delete
from seerdb_api.openapi import (
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    WRITTEN,
    Success,
    documented,
    header_parameter,
    json_content,
)
from seerdb_api.query import DURABILITY, byte_string, parse_query
from seerdb_api.reply import headers_of, json_reply, seq_header, to_json, to_response
from seerdb_api.requests import request_id_of
from seerdb_api.scan import SCAN_PARAMETERS, ScanQuery, read_chunks, read_page
from seerdb_api.schemas import Page
from seerdb_api.service import Service, service_of

router = APIRouter(tags=["ranges"])

NDJSON = "application/x-ndjson"
DELETE_PARAMETERS = (
    byte_string("start", "Delete from this key on; empty: from the first"),
    byte_string("end", "Delete up to, not including, this key"),
    byte_string("prefix", "Or delete every key that starts with this", "user:"),
    DURABILITY,
)
_LINES = {NDJSON: {"schema": {"type": "string"}, "example": '{"key":"a","value":"1","seq":7}\n'}}


class LineStream(StreamingResponse):
    """Chunks made in a thread and sent at the pace of the client.

    A failure after the first chunk ends the stream with a problem document as its last line;
    a client that goes away ends the scan.
    """

    def __init__(
        self, service: Service, first: bytes, chunks: Generator[bytes, None, None], request_id: str
    ) -> None:
        super().__init__((), media_type=NDJSON)
        self._service = service
        self._first = first
        self._chunks = chunks
        self._request_id = request_id

    async def stream_response(self, send: Send) -> None:
        """Send all chunks, then release the scan's view of the database."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        chunk = self._first
        try:
            while chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await self._next()
        finally:
            self._chunks.close()
        await send({"type": "http.response.body", "body": b""})

    async def _next(self) -> bytes:
        """The next chunk; after a failure its problem, and then nothing more."""
        try:
            return await self._service.read(next, self._chunks, b"")
        except Exception as error:  # noqa: BLE001 - the status is sent, the last line has to tell
            log_failure(error, self._request_id)
            return to_json(document_of(error, self._request_id)) + b"\n"


@router.get(
    "/v1/kv",
    **documented(
        query=SCAN_PARAMETERS,
        parameters=(
            header_parameter("Accept", f"`{NDJSON}`: a stream of all items, one to a line."),
            *FRESHNESS_HEADERS,
        ),
        success={
            200: Success("A page, or a stream", {**json_content(Page), **_LINES}, ("seerdb-seq",))
        },
        problems=(*READ_PROBLEMS, *FRESHNESS_PROBLEMS),
    ),
)
async def scan(request: Request) -> Response:
    """Keys and values of a range, in the order of the keys, as one consistent view for each
    page or stream. A stream that fails on the way has a problem document as its last line."""
    service = service_of(request)
    values, headers = (
        parse_query(request.scope["query_string"], SCAN_PARAMETERS),
        headers_of(request),
    )
    query = ScanQuery.of(values)
    await wait_until_fresh(service, headers, values)
    if not prefers(headers.get(b"accept", b""), NDJSON.encode(), b"application/json"):
        page, seq = await service.read(read_page, service.db, query)
        return to_response(json_reply(page, seq))
    seq = await service.read(query.seq, service.db)
    chunks = read_chunks(service.db, query)
    first = await service.read(next, chunks, b"")
    stream = LineStream(service, first, chunks, request_id_of(request))
    stream.raw_headers.append(seq_header(seq))
    return stream


@router.delete(
    "/v1/kv",
    **documented(
        query=DELETE_PARAMETERS,
        success={204: Success("Nothing is left of the range", headers=WRITTEN)},
        problems=WRITE_PROBLEMS,
    ),
)
async def delete_range(request: Request) -> Response:
    """Remove every key of a range in one step: `start` and `end`, or a `prefix`."""
    service = service_of(request)
    values = parse_query(request.scope["query_string"], DELETE_PARAMETERS)
    refuse_conditions(headers_of(request))
    batch = Batch()
    start, end = range_to_delete(values)
    batch.delete_range(start, end)
    durability = values.get("durability")
    await service.commit(batch, durability)
    return to_response((204, service.written(durability), b""))
