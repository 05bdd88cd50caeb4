"""GET, HEAD, PUT and DELETE of one key: the hot path, written for few steps per request.

The key is what stands after ``/v1/kv/`` in the raw path, percent-decoded to bytes: it may hold
``/``, NUL and invalid UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Scope

from seerdb import Batch, Entry, NeedsIO
from seerdb.errors import ConflictError, InvalidRequestError
from seerdb.options import MAX_KEY_SIZE
from seerdb_api.body import read_body
from seerdb_api.conditions import (
    READ_CONDITIONS,
    WRITE_CONDITIONS,
    etag,
    expected_seq,
    names_tag,
    requested_range,
)
from seerdb_api.errors import (
    METHOD_NOT_ALLOWED,
    NO_SUCH_KEY,
    NO_SUCH_PATH,
    PRECONDITION_FAILED,
    RefusalError,
    problem_reply,
)
from seerdb_api.freshness import (
    EPOCH_HEADER,
    FRESHNESS,
    MIN_SEQ_HEADER,
    wait_until_fresh,
)
from seerdb_api.percent import decoded
from seerdb_api.query import AS_OF, DURABILITY, FILL_CACHE, TTL, parse_query
from seerdb_api.reply import Header, Reply, by_name, seq_header
from seerdb_api.service import Service

PREFIX = b"/v1/kv/"
ROUTE = "/v1/kv/{key}"
"""The name of these requests in metrics and logs."""
METHODS = ("DELETE", "GET", "HEAD", "PUT")
GET_PARAMETERS = (FILL_CACHE, AS_OF, *FRESHNESS)
PUT_PARAMETERS = (DURABILITY, TTL)
DELETE_PARAMETERS = (DURABILITY,)
ABSENT = problem_reply(NO_SUCH_KEY, "there is no such key")
"""What a read of an absent key is answered with, but for its seq."""

_BYTES: Header = (b"content-type", b"application/octet-stream")
_MISMATCH = "the key does not have the seq that the request expects"


class Keys:
    """Answers requests for single keys from the database of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, scope: Scope, receive: Receive) -> Reply:
        """The reply to one request. Raises what :func:`errors.reply_to` turns into one."""
        key = key_of(scope["raw_path"])
        method = scope["method"]
        headers = by_name(scope["headers"])
        if method in ("GET", "HEAD"):
            query = scope["query_string"]
            values = parse_query(query, GET_PARAMETERS) if query else {}
            if MIN_SEQ_HEADER in headers or EPOCH_HEADER in headers or "min_seq" in values:
                await wait_until_fresh(self._service, headers, values)
            if "as_of" in values:
                return await self._get_as_of(key, method, headers, values)
            return await self._get(key, method, headers, values.get("fill_cache", True))
        if method not in METHODS:
            allowed = ((b"allow", ", ".join(METHODS).encode()),)
            raise RefusalError(METHOD_NOT_ALLOWED, f"a key takes {', '.join(METHODS)}", allowed)
        known = PUT_PARAMETERS if method == "PUT" else DELETE_PARAMETERS
        values = parse_query(scope["query_string"], known)
        durability = values.get("durability")
        expect = None
        if not WRITE_CONDITIONS.isdisjoint(headers):
            seq = expected_seq(headers)
            expect = None if seq is None else (key, seq)
        if method == "DELETE":
            return await self._delete(key, durability, expect)
        value = await read_body(headers, receive, self._service.settings.body_limit)
        batch = Batch()
        batch.put(key, value, values.get("ttl"))
        seq, sent = await self._commit(batch, durability, expect)
        return 204, [(b"etag", etag(seq)), *sent], b""

    async def _get(
        self,
        key: bytes,
        method: str,
        headers: Mapping[bytes, bytes],
        fill: bool,  # noqa: FBT001
    ) -> Reply:
        db = self._service.db
        seq = db.visible_seq
        entry = db.try_get_entry(key)
        if isinstance(entry, NeedsIO):
            entry = await self._service.read(db.get_entry, key, fill_cache=fill)
        return _found(entry, seq, method, headers)

    async def _get_as_of(
        self, key: bytes, method: str, headers: Mapping[bytes, bytes], values: Mapping[str, Any]
    ) -> Reply:
        db, as_of, fill = self._service.db, values["as_of"], values.get("fill_cache", True)

        def read() -> tuple[Entry | None, int]:
            [entry] = db.multi_get_entries([key], fill_cache=fill, as_of=as_of)
            return entry, db.seq_at(as_of)

        entry, seq = await self._service.read(read)
        return _found(entry, seq, method, headers)

    async def _delete(
        self, key: bytes, durability: str | None, expect: tuple[bytes, int] | None
    ) -> Reply:
        batch = Batch()
        batch.delete(key)
        _, sent = await self._commit(batch, durability, expect)
        return 204, sent, b""

    async def _commit(
        self, batch: Batch, durability: str | None, expect: tuple[bytes, int] | None
    ) -> tuple[int, list[Header]]:
        service = self._service
        try:
            seq = await service.commit(batch, durability, expect)
        except ConflictError as error:
            if expect is None:
                raise
            raise RefusalError(PRECONDITION_FAILED, _MISMATCH) from error
        return seq, service.written(durability)


def key_of(raw_path: bytes, prefix: bytes = PREFIX) -> bytes:
    """The key that a raw path names after ``prefix``. Raises: ``InvalidRequestError`` for a size
    out of bounds or an escape that is none."""
    if not raw_path.startswith(prefix):
        detail = f"a key stands after {prefix.decode()}, which is spelled plainly"
        raise RefusalError(NO_SUCH_PATH, detail)
    key = decoded(raw_path[len(prefix) :])
    if not 0 < len(key) <= MAX_KEY_SIZE:
        raise InvalidRequestError(f"a key has 1 to {MAX_KEY_SIZE:,} bytes, not {len(key):,}")
    return key


def _found(entry: Entry | None, seq: int, method: str, headers: Mapping[bytes, bytes]) -> Reply:
    """The reply to a read that found ``entry`` in the state of ``seq``, or a later one."""
    if entry is None:
        if b"if-match" in headers:
            raise RefusalError(PRECONDITION_FAILED, _MISMATCH)
        status, sent, body = ABSENT
        return status, [*sent, seq_header(seq)], body
    value, at = entry.value, entry.seq
    sent = [(b"etag", etag(at)), seq_header(at if at > seq else seq)]
    if not READ_CONDITIONS.isdisjoint(headers):
        return _conditional(method, headers, value, at, sent)
    return 200, [_BYTES, (b"content-length", b"%d" % len(value)), *sent], value


def _conditional(
    method: str, headers: Mapping[bytes, bytes], value: bytes, seq: int, sent: list[Header]
) -> Reply:
    """The reply to a read with preconditions or a range, in the order RFC 9110 gives them."""
    if b"if-match" in headers and not names_tag(headers[b"if-match"], seq, weak=False):
        raise RefusalError(PRECONDITION_FAILED, _MISMATCH)
    if b"if-none-match" in headers and names_tag(headers[b"if-none-match"], seq, weak=True):
        return 304, sent, b""
    chosen = requested_range(headers, seq, len(value)) if method == "GET" else None
    if chosen is None:
        return 200, [_BYTES, (b"content-length", b"%d" % len(value)), *sent], value
    part = value[chosen.start : chosen.stop]
    where = b"bytes %d-%d/%d" % (chosen.start, chosen.stop - 1, len(value))
    return (
        206,
        [_BYTES, (b"content-length", b"%d" % len(part)), (b"content-range", where), *sent],
        part,
    )
