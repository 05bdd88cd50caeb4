"""One operation of a table or a log, as JSON and as a line for people."""

from __future__ import annotations

from typing import Any

from seerdb.cli.arguments import escaped
from seerdb.cli.output import item, named
from seerdb.clock import when
from seerdb.storage.entry import (
    BLOB,
    BLOB_WITH_EXPIRY,
    DELETE,
    DELETE_RANGE,
    MERGE,
    PUT,
    PUT_WITH_EXPIRY,
)
from seerdb.storage.pointer import BlobPointer
from seerdb.storage.value import BELOW, SECOND_US, Expiring, Merge, Value

_NAMES = {
    PUT: "put",
    DELETE: "delete",
    DELETE_RANGE: "delete_range",
    MERGE: "merge",
    PUT_WITH_EXPIRY: "put",
    BLOB: "put",
    BLOB_WITH_EXPIRY: "put",
}
_BYTES_SHOWN = 60
"""Of a key or value in a line for people; JSON has all of them."""


def operation_fields(kind: int, key: bytes, value: Value) -> dict[str, Any]:
    """An operation, much as ``POST /v1/batch`` takes it."""
    name = _NAMES[kind]
    if isinstance(value, Merge):
        operands = [named("operand", each.operand) for each in value.operands]
        return {"op": name, **named("key", key), **_base(value), "operands": operands}
    if isinstance(value, Expiring):
        whole = operation_fields(kind, key, value.value)
        return {**whole, "expires": value.expires}
    if isinstance(value, BlobPointer):
        return {"op": name, **named("key", key), **value.place._asdict()}
    if kind == DELETE_RANGE:
        return {"op": name, **named("start", key), **named("end", value or b"")}
    return {"op": name, **(named("key", key) if kind == DELETE else item(key, value or b""))}


def _base(merge: Merge) -> dict[str, Any]:
    """What operands are to be folded onto, where that is known."""
    base = merge.base
    if base is BELOW or base is None:
        return {} if base is BELOW else {"base": None}
    if isinstance(base, Expiring):
        base, expires = base
        assert type(base) is bytes
        return {**named("base", base), "expires": expires}
    assert type(base) is bytes
    return named("base", base)


def operation_text(kind: int, key: bytes, value: Value) -> str:
    """An operation in one line, its parts separated by tabs."""
    if isinstance(value, Merge):
        shown = "\t".join(short(each.operand) for each in value.operands)
    elif isinstance(value, Expiring):
        shown = f"{_content(value.value)}\texpires {when(value.expires * SECOND_US)}"
    else:
        shown = _content(value or b"")
    return f"{_NAMES[kind]}\t{short(key)}\t{shown}".rstrip("\t")


def _content(value: bytes | BlobPointer) -> str:
    if isinstance(value, bytes):
        return short(value)
    place = value.place
    return f"{place.length:,} bytes at {place.offset:,} of blob {place.blob}"


def short(data: bytes) -> str:
    """The beginning of a key or value, escaped."""
    return escaped(data[:_BYTES_SHOWN]) + "…" * (len(data) > _BYTES_SHOWN)
