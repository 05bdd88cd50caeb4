"""What a version of a key may hold besides plain bytes or a deletion, and its bytes in a table.

:class:`BlobPointer` (``pointer.py``) stands for the bytes of a large value, as a value of its own,
of an :class:`Expiring` one, or, while a read has them in hand, as the base of a merge.

:class:`Expiring` is a value with an end. :class:`Merge` is operands that are not folded yet, over
what they are to be folded onto: something further down (``BELOW``, then the merge is *open*), or a
base that is known but did not fold, because the operator refused. Putting versions together
(:func:`stack`) needs no operator and loses nothing; folding is in ``operators.py``.

**Expiry.** Time is cut into whole seconds: a value expires at the first whole second that is at
least its lifetime away. Each operand carries the second of its commit. An operand that was
committed before its base expired becomes part of the base and goes with it; one committed later
began anew. So what a version shows depends on nothing but its operations, until all of it expires
at once. For the sake of operands that are above, a value that has expired may stay as an
:class:`Expiring` that is empty.

Stored values, all integers little-endian::

    PUT, DELETE         the value; nothing
    PUT_WITH_EXPIRY     expires      u64     second since 1970
                        value        the rest
    BLOB                the pointer
    BLOB_WITH_EXPIRY    expires      u64     second since 1970
                        pointer      the rest
    MERGE in a log      the operand; its second is that of the record's time
    MERGE in a table    base         u8      0 below, else the kind of the base
                        length       u32     of the base's stored value
                        count        u32     of operands, at least 1
                        seconds      u64 x count     ascending
                        lengths      u32 x count
                        base, operands   joined, oldest operand first

The base of a stored merge is never a pointer. Part of the WAL and table formats: do not change.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum
from itertools import accumulate, pairwise
from typing import Final, Literal, NamedTuple, TypeAlias

from seerdb.errors import CorruptionError
from seerdb.storage.entry import BLOB, BLOB_WITH_EXPIRY, DELETE, MERGE, PUT, PUT_WITH_EXPIRY
from seerdb.storage.pointer import BlobPointer

SECOND_US = 1_000_000

_EXPIRY = struct.Struct("<Q")
EXPIRY_SIZE = _EXPIRY.size
_MERGE = struct.Struct("<BII")
_OPERAND_SIZE = 8 + 4
_EXPIRING_BASE = bytes((PUT_WITH_EXPIRY,))
_ENDING = bytes((PUT_WITH_EXPIRY, BLOB_WITH_EXPIRY))


class _Base(Enum):
    BELOW = 0


BELOW: Final = _Base.BELOW
"""The base of operands that is further down, if anywhere."""


class Expiring(NamedTuple):
    """A value that is there until the second ``expires`` begins."""

    value: bytes | BlobPointer
    expires: int


class Operand(NamedTuple):
    """An operand and the second of its commit; of several that were combined, the last one's."""

    second: int
    operand: bytes


class Merge(NamedTuple):
    """Operands, oldest first, that are to be folded onto ``base``; ``None``: onto nothing."""

    base: bytes | BlobPointer | Expiring | Literal[_Base.BELOW] | None
    operands: tuple[Operand, ...]


Value: TypeAlias = bytes | BlobPointer | Expiring | Merge | None
"""What a version holds; ``None`` says that the key was deleted."""

Version: TypeAlias = tuple[int, Value]
"""Seq and value of one version of a key."""

Shown: TypeAlias = tuple[int, bytes | None]
"""A version as people see it: folded, and deleted if it has expired."""


def is_open(value: Value) -> bool:
    """Whether more of the value is further down."""
    return isinstance(value, Merge) and value.base is BELOW


def stack(newer: Value, older: Value) -> Value:
    """An open merge together with what was found under it (``None``: nothing)."""
    assert isinstance(newer, Merge)
    if isinstance(older, Merge):
        return Merge(older.base, older.operands + newer.operands)
    return Merge(older, newer.operands)


def pointer_in(value: Value) -> BlobPointer | None:
    """What stands for bytes of ``value`` that lie in a blob; ``None`` when all are there."""
    if isinstance(value, Merge):
        value = None if value.base is BELOW else value.base
    if isinstance(value, Expiring):
        value = value.value
    return value if isinstance(value, BlobPointer) else None


def with_bytes(value: Value, data: bytes | BlobPointer) -> Value:
    """``value`` with other bytes, or a pointer to them. Requires: it has some of its own, which
    are neither a deletion nor further down."""
    if isinstance(value, Expiring):
        return Expiring(data, value.expires)
    if isinstance(value, Merge):
        base = value.base
        return value._replace(
            base=Expiring(data, base.expires) if isinstance(base, Expiring) else data
        )
    return data


def expires_at(now_us: int, lifetime_us: int) -> int:
    """The second in which a value expires that is written now."""
    return -(-(now_us + lifetime_us) // SECOND_US)


def pack_expiring(expires: int, value: bytes) -> bytes:
    """The stored value of a PUT_WITH_EXPIRY."""
    return _EXPIRY.pack(expires) + value


def unpack_expiring(stored: bytes) -> tuple[bytes, int]:
    """Value and second of a PUT_WITH_EXPIRY. Raises ``CorruptionError`` when it is too short."""
    if len(stored) < _EXPIRY.size:
        raise CorruptionError("a value that expires is too short to say when")
    return stored[_EXPIRY.size :], _EXPIRY.unpack_from(stored)[0]


def encode_values(values: Sequence[Value]) -> tuple[bytes, list[bytes]]:
    """Kinds and stored values, as tables hold them."""
    encoded = [_encode(value) for value in values]
    return bytes(kind for kind, _ in encoded), [stored for _, stored in encoded]


def _encode(value: Value) -> tuple[int, bytes]:
    if value is None:
        return DELETE, b""
    if type(value) is bytes:
        return PUT, value
    if isinstance(value, BlobPointer):
        return BLOB, value.stored
    if isinstance(value, Expiring):
        if isinstance(value.value, BlobPointer):
            return BLOB_WITH_EXPIRY, pack_expiring(value.expires, value.value.stored)
        return PUT_WITH_EXPIRY, pack_expiring(value.expires, value.value)
    assert isinstance(value, Merge)
    return MERGE, _encode_merge(value)


def _encode_merge(merge: Merge) -> bytes:
    base = (0, b"") if merge.base is BELOW else _encode(merge.base)
    operands = [each.operand for each in merge.operands]
    count = len(operands)
    header = _MERGE.pack(base[0], len(base[1]), count)
    seconds = [each.second for each in merge.operands]
    columns = struct.pack(f"<{count}Q{count}I", *seconds, *map(len, operands))
    return b"".join((header, columns, base[1], *operands))


def expiries(kinds: bytes, stored: Sequence[bytes]) -> list[int]:
    """When those entries of a table expire that do, or have a base that does.

    Raises ``CorruptionError`` when one does not fit together.
    """
    found = []
    for kind, value in zip(kinds, stored, strict=True):
        if kind in _ENDING:
            found.append(unpack_expiring(value)[1])
        elif kind == MERGE and value[:1] == _EXPIRING_BASE:
            base = _decode_merge(value).base
            assert isinstance(base, Expiring)
            found.append(base.expires)
    return found


def expiry_marks(expiries: Sequence[int], entries: int) -> tuple[int, int]:
    """The first of them, and by when half of all ``entries`` have expired; 0: never."""
    if not expiries:
        return 0, 0
    in_order, half = sorted(expiries), -(-entries // 2)
    return in_order[0], in_order[half - 1] if half <= len(in_order) else 0


def decode_value(kind: int, stored: bytes) -> Value:
    """The value of a table's entry. Requires: a kind that tables hold as entries.

    Raises ``CorruptionError`` when ``stored`` does not fit together.
    """
    if kind == PUT:
        return stored
    if kind == DELETE:
        return None
    if kind == PUT_WITH_EXPIRY:
        return Expiring(*unpack_expiring(stored))
    if kind == BLOB:
        return BlobPointer.read(stored)
    if kind == BLOB_WITH_EXPIRY:
        pointer, expires = unpack_expiring(stored)
        return Expiring(BlobPointer.read(pointer), expires)
    return _decode_merge(stored)


def _decode_merge(stored: bytes) -> Merge:
    size = len(stored)
    kind, length, count = _MERGE.unpack_from(stored) if size >= _MERGE.size else (0, 0, 0)
    start = _MERGE.size + count * _OPERAND_SIZE
    if count and start + length <= size:
        numbers = struct.unpack_from(f"<{count}Q{count}I", stored, _MERGE.size)
        bounds = list(accumulate(numbers[count:], initial=start + length))
        if bounds[-1] == size:
            operands = [stored[low:high] for low, high in pairwise(bounds)]
            base = _decode_base(kind, stored[start : start + length])
            return Merge(base, tuple(map(Operand, numbers[:count], operands)))
    raise CorruptionError("the lengths in a merge do not add up to its size")


def _decode_base(kind: int, stored: bytes) -> bytes | Expiring | Literal[_Base.BELOW] | None:
    if kind == 0:
        return BELOW
    if kind == PUT:
        return stored
    if kind == DELETE:
        return None
    if kind == PUT_WITH_EXPIRY:
        return Expiring(*unpack_expiring(stored))
    raise CorruptionError(f"a merge has a base of unknown kind {kind}")
