"""The JSON of requests and replies as typed structs, and bytes in JSON.

A key or value that is valid UTF-8 is a string under its own name; one that is not is base64
under the name with ``_base64``. Requests may use either form, but one of them once.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from seerdb import Batch, Entry, KeyVersion
from seerdb.errors import InvalidRequestError
from seerdb.options import MAX_TTL

MAX_KEYS = 10_000
"""Keys of one multi-get, and items of one page."""

MAX_JOBS = 64
"""Objects that one backup copies at once."""

Text: TypeAlias = str | UnsetType
Base64: TypeAlias = bytes | UnsetType
Key: TypeAlias = Annotated[str, Meta(min_length=1)] | UnsetType
KeyBase64: TypeAlias = Annotated[bytes, Meta(min_length=1)] | UnsetType


class Put(Struct, tag_field="op", tag="put", forbid_unknown_fields=True):
    """Set a key to a value, for ``ttl`` seconds or for good."""

    key: Key = UNSET
    key_base64: KeyBase64 = UNSET
    value: Text = UNSET
    value_base64: Base64 = UNSET
    ttl: Annotated[float, Meta(gt=0, le=MAX_TTL)] | UnsetType = UNSET

    def add_to(self, batch: Batch) -> None:
        """Append this operation to ``batch``."""
        batch.put(
            one_form("key", self.key, self.key_base64),
            one_form("value", self.value, self.value_base64),
            None if self.ttl is UNSET else self.ttl,
        )


class Merge(Struct, tag_field="op", tag="merge", forbid_unknown_fields=True):
    """Fold an operand into what a key holds, with the merge operator of the database."""

    key: Key = UNSET
    key_base64: KeyBase64 = UNSET
    operand: Text = UNSET
    operand_base64: Base64 = UNSET

    def add_to(self, batch: Batch) -> None:
        """Append this operation to ``batch``."""
        batch.merge(
            one_form("key", self.key, self.key_base64),
            one_form("operand", self.operand, self.operand_base64),
        )


class Delete(Struct, tag_field="op", tag="delete", forbid_unknown_fields=True):
    """Remove a key, whether or not it is there."""

    key: Key = UNSET
    key_base64: KeyBase64 = UNSET

    def add_to(self, batch: Batch) -> None:
        """Append this operation to ``batch``."""
        batch.delete(one_form("key", self.key, self.key_base64))


class DeleteRange(Struct, tag_field="op", tag="delete_range", forbid_unknown_fields=True):
    """Remove every key from ``start`` up to, not including, ``end``."""

    start: Key = UNSET
    start_base64: KeyBase64 = UNSET
    end: Key = UNSET
    end_base64: KeyBase64 = UNSET

    def add_to(self, batch: Batch) -> None:
        """Append this operation to ``batch``."""
        batch.delete_range(
            one_form("start", self.start, self.start_base64),
            one_form("end", self.end, self.end_base64),
        )


Operation: TypeAlias = Put | Merge | Delete | DeleteRange


class BatchRequest(Struct, forbid_unknown_fields=True):
    """Operations to commit together, all or none; of several on one key the last wins, except
    that a merge builds on those before it."""

    ops: Annotated[list[Operation], Meta(min_length=1)]
    durability: Literal["memory", "interval", "local", "object"] | None = None

    def batch(self) -> Batch:
        """The operations as a batch. Raises: ``InvalidRequestError``."""
        batch = Batch()
        for operation in self.ops:
            operation.add_to(batch)
        return batch


class BatchReply(Struct):
    """What a batch was committed as: its sequence number and how many operations it had."""

    seq: int
    count: int


class BackupRequest(Struct, forbid_unknown_fields=True):
    """Where a backup is to go, a URL or a directory of the server by its whole path, and what it is
    to be like: ``jobs`` objects are copied at once, at most ``rate`` bytes a second (0: as fast as
    it goes). With ``full``, what is there already is read and compared. ``store_options`` are what
    fsspec needs to know."""

    to: Annotated[str, Meta(pattern="^([a-z][a-z0-9+.-]*://|/).")]
    label: str = ""
    keep: bool = False
    full: bool = False
    jobs: Annotated[int, Meta(ge=1, le=MAX_JOBS)] = 8
    rate: Annotated[int, Meta(ge=0)] = 0
    store_options: dict[str, Any] = {}


class MultiGetRequest(Struct, forbid_unknown_fields=True):
    """The keys to read, all as strings or all as base64. Without ``fill_cache``, what has to be
    loaded for them is kept neither in memory nor on disk."""

    keys: (
        Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=MAX_KEYS)]
        | UnsetType
    ) = UNSET
    keys_base64: (
        Annotated[
            list[Annotated[bytes, Meta(min_length=1)]], Meta(min_length=1, max_length=MAX_KEYS)
        ]
        | UnsetType
    ) = UNSET
    fill_cache: bool = True

    def wanted(self) -> list[bytes]:
        """The keys as bytes. Raises: ``InvalidRequestError``."""
        if isinstance(self.keys, list) and self.keys_base64 is UNSET:
            return [key.encode() for key in self.keys]
        if isinstance(self.keys_base64, list) and self.keys is UNSET:
            return self.keys_base64
        raise InvalidRequestError("give either keys or keys_base64")


class Item(Struct, omit_defaults=True):
    """A key and what it holds; a ``value`` of ``null`` means that the key is not there, and
    without any value only keys were asked for."""

    key: Text = UNSET
    key_base64: Base64 = UNSET
    value: str | UnsetType | None = UNSET
    value_base64: Base64 = UNSET
    seq: int | UnsetType = UNSET


class Page(Struct):
    """A part of a scan; ``cursor`` asks for the next part, and is ``null`` at the end."""

    items: list[Item]
    cursor: str | None


class VersionItem(Struct, omit_defaults=True):
    """What a commit made of a key. Without a value it was deleted; without a time the log does not
    tell when, and a deletion may have been earlier, or an expiry."""

    seq: int
    time: str | None
    value: Text = UNSET
    value_base64: Base64 = UNSET
    deleted: bool = False


class History(Struct):
    """The versions of a key, oldest first."""

    versions: list[VersionItem]


class MultiGetReply(Struct):
    """One item for each key asked for, in that order."""

    items: list[Item]


BATCH_DECODER = msgspec.json.Decoder(BatchRequest)
MULTI_GET_DECODER = msgspec.json.Decoder(MultiGetRequest)


def one_form(name: str, text: str | UnsetType, encoded: bytes | UnsetType) -> bytes:
    """The bytes that a request gives as ``name`` or ``name_base64``.

    Raises: ``InvalidRequestError`` when it gives both or neither.
    """
    if text is UNSET and encoded is not UNSET:
        return encoded
    if text is not UNSET and encoded is UNSET:
        return text.encode()
    raise InvalidRequestError(f"give either {name} or {name}_base64")


def item_of(entry: Entry, *, keys_only: bool = False) -> Item:
    """The item of an entry that is there."""
    item = _key_item(entry.key)
    item.seq = entry.seq
    if not keys_only:
        try:
            item.value = entry.value.decode()
        except UnicodeDecodeError:
            item.value_base64 = entry.value
    return item


def version_item(version: KeyVersion) -> VersionItem:
    """The item of a version."""
    item = VersionItem(version.seq, None)
    if version.time is not None:
        item.time = f"{datetime.fromtimestamp(version.time, UTC):%FT%T.%f}Z"
    if version.value is None:
        item.deleted = True
        return item
    try:
        item.value = version.value.decode()
    except UnicodeDecodeError:
        item.value_base64 = version.value
    return item


def absent_item(key: bytes) -> Item:
    """The item of a key that is not there."""
    item = _key_item(key)
    item.value = None
    return item


def _key_item(key: bytes) -> Item:
    try:
        return Item(key=key.decode())
    except UnicodeDecodeError:
        return Item(key_base64=key)


def json_schemas(structs: Iterable[type[Struct]]) -> dict[str, Any]:
    """JSON Schema of the structs and all they hold, by name, for the OpenAPI document."""
    _, components = msgspec.json.schema_components(
        structs, ref_template="#/components/schemas/{name}"
    )
    for schema in components.values():
        if schema.get("additionalProperties") is False:  # a request, or a part of one
            _demand_one_form(schema)
    return components


def _demand_one_form(schema: dict[str, Any]) -> None:
    names = schema["properties"]
    forms = [
        {"oneOf": [{"required": [name]}, {"required": [f"{name}_base64"]}]}
        for name in names
        if f"{name}_base64" in names
    ]
    if forms:
        schema["allOf"] = forms
