"""A scan as pages with cursors, or as one unbounded stream of lines.

Everything here runs in a thread: each step of a scan may wait for disk or bucket.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from seerdb import Entry
from seerdb.errors import InvalidRequestError
from seerdb_api.cursor import decode_cursor, encode_cursor, query_identity
from seerdb_api.freshness import FRESHNESS
from seerdb_api.keyrange import KeyRange, range_to_scan
from seerdb_api.port import Database
from seerdb_api.query import AS_OF, FILL_CACHE, Parameter, boolean, byte_string, whole_number
from seerdb_api.schemas import MAX_KEYS, Item, Page, item_of

DEFAULT_LIMIT = 1_000
PAGE_BYTES = 8 << 20
"""Keys and values of a page; a single larger item makes a page of its own."""
CHUNK_BYTES = 256 << 10
"""Keys and values that a stream encodes and sends at a time."""
ITEM_BYTES = 32
"""Counted for each item besides its key and value: about what JSON puts around them."""

SCAN_PARAMETERS: tuple[Parameter, ...] = (
    byte_string("prefix", "Only keys that start with this", "user:"),
    byte_string("start", "Only keys from this one on"),
    byte_string("end", "Only keys before this one"),
    whole_number(
        "limit",
        f"Most items of a page (by default {DEFAULT_LIMIT:,}). A stream takes any number, "
        "and without one it is unbounded.",
        MAX_KEYS,
    ),
    boolean("reverse", "Descending order of keys."),
    boolean("keys_only", "Leave the values out."),
    FILL_CACHE,
    AS_OF,
    Parameter(
        "cursor",
        "Go on where the page ended that gave this cursor; the other parameters stay as they "
        "were, except `limit`, `keys_only`, `fill_cache`, `min_seq` and `timeout`. With `as_of`, "
        "all pages are of one instant.",
        bytes,
        {"type": "string"},
    ),
    *FRESHNESS,
)


@dataclass(frozen=True)
class ScanQuery:
    """What a scan asks for."""

    keys: KeyRange
    """What is left to read, after the cursor."""
    identity: int
    reverse: bool
    keys_only: bool
    limit: int | None
    fill_cache: bool
    as_of: int | datetime | None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ScanQuery:
        """From the query parameters. Raises: ``InvalidRequestError`` for a foreign cursor."""
        keys, reverse = range_to_scan(values), values.get("reverse", False)
        identity = query_identity(keys, reverse=reverse)
        if "cursor" in values:
            last = decode_cursor(values["cursor"], identity)
            keys = keys.before(last) if reverse else keys.after(last)
        keys_only, limit = values.get("keys_only", False), values.get("limit")
        fill_cache = values.get("fill_cache", True)
        as_of = values.get("as_of")
        return cls(keys, identity, reverse, keys_only, limit, fill_cache, as_of)

    def entries(self, db: Database, limit: int | None) -> Generator[Entry, None, None]:
        """The entries that ``db`` holds now, at most ``limit``."""
        if self.keys.empty:
            return
        yield from db.scan_entries(
            self.keys.start or None,
            self.keys.end,
            reverse=self.reverse,
            limit=limit,
            keys_only=self.keys_only,
            fill_cache=self.fill_cache,
            as_of=self.as_of,
        )

    def seq(self, db: Database) -> int:
        """What the entries show every commit up to, at least."""
        return db.visible_seq if self.as_of is None else db.seq_at(self.as_of)


def read_page(db: Database, query: ScanQuery) -> tuple[bytes, int]:
    """One page as JSON, and the seq of which it holds at least every commit."""
    limit = DEFAULT_LIMIT if query.limit is None else query.limit
    if limit > MAX_KEYS:
        raise InvalidRequestError(f"limit is at most {MAX_KEYS:,} for a page; a stream has none")
    seq, size = query.seq(db), 0
    items: list[Item] = []
    cursor, last = None, b""
    entries = query.entries(db, limit + 1)
    try:
        for entry in entries:
            size += len(entry.key) + len(entry.value) + ITEM_BYTES
            if items and (len(items) == limit or size > PAGE_BYTES):
                cursor = encode_cursor(query.identity, last)
                break
            items.append(item_of(entry, keys_only=query.keys_only))
            last, seq = entry.key, max(seq, entry.seq)
    finally:
        entries.close()
    return msgspec.json.encode(Page(items, cursor)), seq


def read_chunks(db: Database, query: ScanQuery) -> Generator[bytes, None, None]:
    """All items as lines of JSON, in chunks of whole lines that are worth sending."""
    encoder = msgspec.json.Encoder()
    items: list[Item] = []
    size = 0
    for entry in query.entries(db, query.limit):
        items.append(item_of(entry, keys_only=query.keys_only))
        size += len(entry.key) + len(entry.value) + ITEM_BYTES
        if size >= CHUNK_BYTES:
            yield encoder.encode_lines(items)
            items, size = [], 0
    if items:
        yield encoder.encode_lines(items)
