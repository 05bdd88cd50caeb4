"""What reads look at: memtables and a layout, swapped as a whole, and the visible seq.

:class:`State` is immutable. :class:`LiveState` holds the current one; its lock is the one
under which memtables change, states are swapped and snapshots are taken. It is held for
memory operations only, never for I/O. Readers take the current state without it.
"""

from __future__ import annotations

import threading

from seerdb.storage.memtable import Memtable
from seerdb.storage.read.layout import Layout


class State:
    """The memtables (``sealed`` newest first) and tables of one moment. Immutable."""

    __slots__ = ("active", "layout", "memtables", "sealed")

    def __init__(self, active: Memtable, sealed: tuple[Memtable, ...], layout: Layout) -> None:
        self.active = active
        self.sealed = sealed
        self.layout = layout
        self.memtables = (active, *sealed)

    def seals(self, seq: int) -> bool:
        """Whether sealed memtables hold what was committed up to ``seq``. Requires: they were
        sealed then."""
        return bool(self.sealed) and self.sealed[-1].last_seq <= seq

    @property
    def special(self) -> bool:
        """Whether some version alone does not tell what its key holds: it may expire, or is
        open. Exact for what is visible in a snapshot of this state."""
        return self.layout.special or any(memtable.special for memtable in self.memtables)

    @property
    def plain(self) -> bool:
        """Whether what is found is what people see: bytes, or a deletion. Exact as above."""
        return not (self.special or self.layout.pointed)


class LiveState:
    """The current state. ``lock`` guards every change; see the module docstring."""

    def __init__(self, state: State, visible_seq: int) -> None:
        self.lock = threading.Lock()
        self.current = state
        self.visible_seq = visible_seq

    def snapshot(self) -> tuple[State, int]:
        """The current state and seq, with the versions they show kept from now on."""
        with self.lock:
            state, seq = self.current, self.visible_seq
            state.active.pinned = seq
            return state, seq

    def rotate(self, fresh: Memtable) -> Memtable:
        """Seal the active memtable and put ``fresh`` in its place; returns the sealed one."""
        with self.lock:
            state = self.current
            self.current = State(fresh, (state.active, *state.sealed), state.layout)
            return state.active

    def release(self, memtable: Memtable, layout: Layout) -> None:
        """Swap in a layout whose tables hold what ``memtable`` held, and drop that."""
        with self.lock:
            state = self.current
            kept = tuple(each for each in state.sealed if each is not memtable)
            self.current = State(state.active, kept, layout)

    def extend(self, layout: Layout, seq: int) -> None:
        """Swap in a layout whose tables also hold the commit ``seq``, and show that."""
        with self.lock:
            state = self.current
            self.current = State(state.active, state.sealed, layout)
            self.visible_seq = max(self.visible_seq, seq)

    def replace_layout(self, layout: Layout) -> None:
        """Swap in a layout with the same contents in other tables."""
        with self.lock:
            state = self.current
            self.current = State(state.active, state.sealed, layout)
