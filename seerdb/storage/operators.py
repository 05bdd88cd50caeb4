"""Merge operators: how operands are folded into a value; those built in, and people's own.

Operators may be code of a user, which may fail. Nothing is lost then: what does not fold stays
as it is (:func:`absorb`, :func:`settle`), and only a read that needs the result fails
(:func:`show`).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from seerdb.errors import InvalidRequestError, MergeError
from seerdb.options import MAX_VALUE_SIZE
from seerdb.storage.value import BELOW, Expiring, Merge, Operand, Shown, Value, Version

COMBINED_AT_ONCE = 1024
"""Operands of so many bytes are combined with each that comes, so that counters stay one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _itself(operand: bytes) -> bytes:
    return operand


@dataclass(frozen=True, slots=True)
class MergeOperator:
    """How a database folds what :meth:`DB.merge` is given.

    ``combine(older, newer)`` makes one of two neighbours: of a value and the operand after it,
    and of two operands. It must be associative, as operands are combined in any grouping, though
    never in another order. ``first(operand)`` is the value where there was none; it also is the
    check of an operand before it is written: refuse one by raising. Both must be pure and quick:
    they run inside writes and reads, in other threads and, if background work does, in other
    processes; they must not use the database.
    """

    combine: Callable[[bytes, bytes], bytes]
    first: Callable[[bytes], bytes] = _itself


def _int64(operand: bytes) -> bytes:
    if len(operand) != 8:
        raise ValueError(f"an int64 is 8 bytes, little-endian, not {len(operand)}")
    return operand


def _add(older: bytes, newer: bytes) -> bytes:
    total = int.from_bytes(_int64(older), "little") + int.from_bytes(_int64(newer), "little")
    return (total & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little")


def _append(older: bytes, newer: bytes) -> bytes:
    return older + newer


def _max(older: bytes, newer: bytes) -> bytes:
    return newer if newer > older else older


def _min(older: bytes, newer: bytes) -> bytes:
    return newer if newer < older else older


def _members(operand: bytes) -> bytes:
    return b"\n".join(sorted({*operand.split(b"\n")} - {b""}))


def _union(older: bytes, newer: bytes) -> bytes:
    return b"\n".join(sorted({*older.split(b"\n"), *newer.split(b"\n")} - {b""}))


BUILT_IN = {
    "int64_add": MergeOperator(_add, _int64),
    "append": MergeOperator(_append),
    "max": MergeOperator(_max),
    "min": MergeOperator(_min),
    "set_union": MergeOperator(_union, _members),
}
"""int64_add: 8 bytes, little-endian, two's complement; wraps around. max, min: by the order of
bytes. set_union: members are lines; the result is sorted, without empty lines."""

_registered = dict(BUILT_IN)


def register_merge_operator(
    name: str, operator: MergeOperator | Callable[[bytes, bytes], bytes]
) -> None:
    """Make an operator known under ``name`` in this process, so that databases may name it.

    A function alone is its ``combine``. Registering the same again does nothing. Thread-safe.
    Raises ``InvalidRequestError`` for a bad name, or one that means another operator.
    """
    if not _is_name(name):
        raise InvalidRequestError(
            f"the name of a merge operator is 1 to 64 letters, digits, '.', '_', '-', not {name!r}"
        )
    if not isinstance(operator, MergeOperator):
        operator = MergeOperator(operator)
    for function in (operator.combine, operator.first):
        if not callable(function):
            raise InvalidRequestError(f"a merge operator is made of functions, not {function!r}")
    if _registered.setdefault(name, operator) != operator:
        raise InvalidRequestError(f"merge operator {name!r} is another one already")


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def find_operator(name: str) -> MergeOperator:
    """The operator of that name. Raises ``InvalidRequestError`` when this process has none."""
    operator = _registered.get(name)
    if operator is None:
        raise InvalidRequestError(
            f"there is no merge operator {name!r}; known are {', '.join(_registered)}; make "
            "others known with seerdb.register_merge_operator before the database is opened"
        )
    return operator


class _Elsewhere(pickle.Unpickler):
    """What a worker process can find, which does not run the program that started it."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__":
            raise pickle.UnpicklingError(f"{name} is in the program itself, not in a module")
        return super().find_class(module, name)


def check_portable(name: str, operator: MergeOperator) -> None:
    """Raise ``InvalidRequestError`` unless other processes can use the operator."""
    try:
        _Elsewhere(BytesIO(pickle.dumps(operator))).load()
    except Exception as error:  # whatever pickling a user's object raises
        raise InvalidRequestError(
            f"merge operator {name!r} cannot go to worker processes: {error}; make it of "
            "functions at the top of a module, or use background='thread'"
        ) from error


def check_operand(operator: MergeOperator, operand: bytes) -> None:
    """Raise ``InvalidRequestError`` unless the operator takes ``operand`` as a first one."""
    try:
        _checked(operator.first(operand))
    except Exception as error:  # whatever a user's code raises
        raise InvalidRequestError(f"the merge operator refuses the operand: {error}") from error


def absorb(value: Value, operand: Operand, operator: MergeOperator | None) -> Value:
    """What a key holds after a merge, if it held ``value``. What is alike in size is combined, and
    folded onto what is known; a base that is far larger than its operands waits for more of them,
    or for :func:`folded`."""
    base, before = value if isinstance(value, Merge) else (value, ())
    if operator is None:
        return Merge(base, (*before, operand))
    is_over = isinstance(base, Expiring) and base.expires <= operand.second
    kept = list(before)
    _push(kept, operand, operator, across_seconds=base is not BELOW and not is_over)
    merge = _unexpired(Merge(base, tuple(kept)), operand.second)
    return merge if isinstance(merge, Merge) and not _is_due(merge) else _try_fold(merge, operator)


def _is_due(merge: Merge) -> bool:
    """Whether its base is there, and not far larger than what is folded onto it."""
    if merge.base is BELOW or len(merge.operands) > 1:
        return False
    base = merge.base.value if isinstance(merge.base, Expiring) else merge.base
    return not isinstance(base, bytes) or len(base) <= _alike(merge.operands[0])


def folded(value: Value, operator: MergeOperator | None) -> Value:
    """The same value, folded if all of it is there and if that goes."""
    if not isinstance(value, Merge) or value.base is BELOW:
        return value
    return _try_fold(_unexpired(value, value.operands[-1].second), operator)


def settle(
    value: Value,
    operator: MergeOperator | None,
    *,
    second: int,
    forgotten: int,
    bottom: bool,
    expiring_below: bool,
) -> Value:
    """What a compaction keeps of ``value``: of what has expired nothing but when, operands are
    folded, or combined while their base may be further down.

    ``forgotten``: what expired until then becomes a delete, for nothing that was merged before
    is above. ``expiring_below``: a base may expire; then operands of different seconds stay
    apart.
    """
    if isinstance(value, Merge):
        if value.base is not BELOW or bottom:
            base = None if value.base is BELOW else value.base
            value = _try_fold(_unexpired(Merge(base, value.operands), second), operator)
        elif operator is not None:
            joined = _joined(value.operands, operator, across_seconds=not expiring_below)
            value = Merge(BELOW, tuple(joined))
    if isinstance(value, Expiring) and value.expires <= second:
        return None if value.expires <= forgotten else Expiring(b"", value.expires)
    return value


def show(key: bytes, version: Version, operator: MergeOperator | None, second: int) -> Shown:
    """The version as it is read in ``second``. Raises ``MergeError`` when it does not fold."""
    seq, value = version
    if isinstance(value, Merge):
        base = None if value.base is BELOW else value.base
        try:
            value = _fold(_unexpired(Merge(base, value.operands), second), operator)
        except Exception as error:  # whatever a user's code raises
            raise MergeError(
                f"the operands of key {key!r} do not fold: {error}; they are kept; put or delete "
                "the key to begin anew"
            ) from error
    if isinstance(value, Expiring):
        value = value.value if second < value.expires else None
    assert value is None or type(value) is bytes
    return seq, value


def _unexpired(merge: Merge, second: int) -> Merge | Expiring:
    """A merge that is not open without what expired: its base, and what was merged into that."""
    base = merge.base
    if not isinstance(base, Expiring) or second < base.expires:
        return merge
    later = tuple(each for each in merge.operands if each.second >= base.expires)
    return Merge(None, later) if later else Expiring(b"", base.expires)


def _fold(merge: Merge | Expiring, operator: MergeOperator | None) -> bytes | Expiring:
    """Requires: the merge is not open. Raises whatever the operator does."""
    if isinstance(merge, Expiring):
        return merge
    if operator is None:
        raise InvalidRequestError("the database has no merge operator")
    value, expires = merge.base, None
    if isinstance(value, Expiring):
        value, expires = value
    for _, operand in _joined(merge.operands, operator, across_seconds=True):
        if value is None:
            value = _checked(operator.first(operand))
        else:
            assert type(value) is bytes
            value = _checked(operator.combine(value, operand))
    assert type(value) is bytes
    return value if expires is None else Expiring(value, expires)


def _try_fold(merge: Merge | Expiring, operator: MergeOperator | None) -> Value:
    try:
        return _fold(merge, operator)
    except Exception:  # noqa: BLE001 - a read tells; the operands stay
        return merge


def _joined(
    operands: Iterable[Operand], operator: MergeOperator, *, across_seconds: bool
) -> list[Operand]:
    """As few as can be made of them. Each byte is copied about log n times: what is alike in size
    is combined first, and then the newest, which are the smallest."""
    kept: list[Operand] = []
    for operand in operands:
        _push(kept, operand, operator, across_seconds=across_seconds)
    joined = kept[-1:]
    for older in reversed(kept[:-1]):
        newer = joined.pop()
        joined += _neighbours(older, newer, operator, across_seconds=across_seconds)
    return joined[::-1]


def _push(
    kept: list[Operand], operand: Operand, operator: MergeOperator, *, across_seconds: bool = False
) -> None:
    """Add a newer operand, combined with those before it that are not far larger: to combine it
    with all of them, each time, would take time in proportion to the square of their number."""
    while kept and len(kept[-1].operand) <= _alike(operand):
        newer, *older = _neighbours(kept[-1], operand, operator, across_seconds=across_seconds)
        if older:
            break
        operand = newer
        kept.pop()
    kept.append(operand)


def _alike(operand: Operand) -> int:
    """Up to which size what is before an operand is not far larger."""
    return max(COMBINED_AT_ONCE, 2 * len(operand.operand))


def _neighbours(
    older: Operand, newer: Operand, operator: MergeOperator, *, across_seconds: bool
) -> list[Operand]:
    """Both as one, or, where that cannot be, the newer and the older."""
    combined = None
    if across_seconds or older.second == newer.second:
        combined = _try_combine(operator, older, newer)
    return [newer, older] if combined is None else [combined]


def _try_combine(operator: MergeOperator, older: Operand, newer: Operand) -> Operand | None:
    try:
        return Operand(newer.second, _checked(operator.combine(older.operand, newer.operand)))
    except Exception:  # noqa: BLE001 - a read tells; the operands stay
        return None


def _checked(result: bytes) -> bytes:
    """Raise unless it is a value. What people's code returns is not to be trusted."""
    if type(result) is not bytes:
        raise TypeError(f"the merge operator returned {type(result).__name__}, not bytes")
    if len(result) > MAX_VALUE_SIZE:
        raise ValueError(f"the merge operator made {len(result):,} bytes of it")
    return result
