"""The oracle: what a database must answer, kept as plainly as possible.

A :class:`Model` is a dict after each commit, all of them kept. Nothing in it is shared with the
engine's code. The log of a database is a sequence, so what a crash leaves is the state after
some commit: never less than what was acknowledged at a level that survives that kind of crash,
never more than what was attempted.

::

    model = Model()
    model.attempt([("put", b"k", b"v")])            # before the call
    model.acknowledge(db.put(b"k", b"v"), "local")  # after it
    low, high = model.may_survive("local")          # after a crash: which seqs are right
    model.settle(db.visible_seq)                    # what the crash took is history
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import ceil, floor
from typing import NamedTuple

from seerdb.options import Durability

Operation = tuple[str, bytes, bytes]
"""``put`` key value, ``delete`` key b"", ``delete_range`` start end, ``merge`` key operand (which
appends), ``put_ttl`` key value (for :data:`LIFETIME` seconds)."""

LIFETIME = 10.0

LEVELS = [level.value for level in Durability]


class Value(NamedTuple):
    """A value and the seq of the commit that wrote it."""

    value: bytes
    seq: int


Contents = dict[bytes, Value]


class _Stored(NamedTuple):
    value: bytes
    seq: int
    expires: int | None


_State = dict[bytes, _Stored]


def _no_time() -> float:
    return 0.0


class Model:
    """A dict with its history. Requires: one writer, as seqs are predicted.

    ``now`` tells the seconds by which values expire; it never goes back.
    """

    def __init__(self, now: Callable[[], float] = _no_time) -> None:
        self.now = now
        self._states: list[_State] = [{}]
        self._safe = dict.fromkeys(LEVELS, 0)
        self._attempted = False

    def copy(self) -> Model:
        """A model that goes its own way from here."""
        twin = Model(self.now)
        twin._states = list(self._states)
        twin._safe = dict(self._safe)
        twin._attempted = self._attempted
        return twin

    @property
    def seq(self) -> int:
        """Of the newest commit, attempted ones included."""
        return len(self._states) - 1

    def attempt(self, operations: Iterable[Operation]) -> None:
        """The next commit begins; whether it succeeds is open until it is acknowledged."""
        if self._attempted:
            raise AssertionError("the commit before has neither succeeded nor failed")
        contents = dict(self._states[-1])
        for operation in operations:
            _apply(contents, operation, len(self._states), self.now())
        self._states.append(contents)
        self._attempted = True

    def attempt_restore(self, at: int) -> None:
        """As :meth:`attempt`, of a commit that has all be again what it was after the commit
        ``at``."""
        self.attempt([])
        self._states[-1] = dict(self._states[at])

    def acknowledge(self, seq: int, level: str) -> None:
        """The commit was acknowledged with ``seq``; everything before is as safe as it is."""
        assert self._attempted
        assert seq == self.seq, f"seq {seq} was given out instead of {self.seq}"
        self._attempted = False
        self.secure(seq, level)

    def refuse(self) -> None:
        """The commit failed and has changed nothing."""
        assert self._attempted
        self._states.pop()
        self._attempted = False

    def secure(self, seq: int, level: str) -> None:
        """Everything up to ``seq`` survives what ``level`` says, for example by a flush."""
        for each in LEVELS[: LEVELS.index(level) + 1]:
            self._safe[each] = max(self._safe[each], seq)

    def lose_disk(self) -> None:
        """Nothing is safe any more but what ``object`` says."""
        self._safe = dict.fromkeys(LEVELS, self._safe["object"])

    def may_survive(self, level: str) -> tuple[int, int]:
        """Lowest and highest seq that may be the newest after a crash from which everything
        acknowledged at ``level`` must return."""
        return self._safe[level], self.seq

    def settle(self, seq: int) -> None:
        """Recovery has found the commits up to ``seq`` and made them durable."""
        del self._states[seq + 1 :]
        self._attempted = False
        self._safe = dict.fromkeys(LEVELS, 0) | {"object": self._safe["object"]}
        self.secure(seq, "local")

    def contents(self, at: int | None = None, now: float | None = None) -> Contents:
        """Everything there is after the commit ``at`` (the newest), at the time ``now``."""
        return _shown(self._states[-1 if at is None else at], self.now() if now is None else now)

    def keys(self) -> list[bytes]:
        """Every key that there ever was, sorted."""
        return sorted(set().union(*self._states))

    def get(self, key: bytes, at: int | None = None, now: float | None = None) -> bytes | None:
        """As ``DB.get``."""
        found = self.contents(at, now).get(key)
        return None if found is None else found.value

    def scan(
        self,
        start: bytes | None = None,
        end: bytes | None = None,
        *,
        prefix: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        at: int | None = None,
        now: float | None = None,
    ) -> list[tuple[bytes, bytes]]:
        """As ``DB.scan``."""
        found = [
            (key, value)
            for key, (value, _) in sorted(self.contents(at, now).items(), reverse=reverse)
            if (start is None or key >= start)
            and (end is None or key < end)
            and (prefix is None or key.startswith(prefix))
        ]
        return found if limit is None else found[:limit]


def contents_after(commits: Iterable[tuple[int, Iterable[Operation]]]) -> Contents:
    """What is there after commits of any seqs, for a log from which some were lost."""
    contents: _State = {}
    for seq, operations in commits:
        for operation in operations:
            _apply(contents, operation, seq, 0.0)
    return _shown(contents, 0.0)


def _shown(state: _State, now: float) -> Contents:
    return {
        key: Value(value, seq)
        for key, (value, seq, expires) in state.items()
        if expires is None or floor(now) < expires
    }


def _apply(contents: _State, operation: Operation, seq: int, now: float) -> None:
    kind, key, value = operation
    if kind == "put":
        contents[key] = _Stored(value, seq, None)
    elif kind == "put_ttl":
        contents[key] = _Stored(value, seq, ceil(now + LIFETIME))
    elif kind == "merge":
        found = contents.get(key)
        if found is None or (found.expires is not None and floor(now) >= found.expires):
            found = _Stored(b"", 0, None)
        contents[key] = _Stored(found.value + value, seq, found.expires)
    elif kind == "delete":
        contents.pop(key, None)
    else:
        for each in [each for each in contents if key <= each < value]:
            del contents[each]
