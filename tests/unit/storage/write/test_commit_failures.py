"""Commits that the disk or somebody at the keyboard cuts short: nothing half done goes on."""

from __future__ import annotations

import contextlib
import dis
import itertools
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import attrgetter
from types import FrameType
from typing import Any

import pytest

from seerdb.errors import (
    BusyError,
    DiskError,
    PoisonedError,
)
from seerdb.storage.memtable import Memtable
from seerdb.storage.wal.reader import scan_segment
from seerdb.storage.write import commit, lone_put, sync_schedule
from seerdb.storage.write.request import LOCAL, MEMORY
from tests.unit.storage.commit_rig import Rig
from tests.unit.storage.test_batch import batch_of


def test_a_failed_sync_fails_all_of_the_group_and_everything_after() -> None:
    rig = Rig()
    rig.put(b"a")
    rig.files.fail_sync()
    with rig.waiting(
        lambda: rig.put(b"b"), lambda: rig.put(b"c"), lambda: rig.put(b"d", level=MEMORY)
    ) as futures:
        pass
    errors = [future.exception() for future in futures]
    assert [type(error) for error in errors] == [PoisonedError] * 3
    assert all(isinstance(error.__cause__, DiskError) for error in errors if error)
    assert len(rig.env.causes) == 1
    for call in (
        lambda: rig.put(b"e"),
        lambda: rig.put(b"e", level=MEMORY),
        lambda: rig.put_alone(b"e", b"v", MEMORY),
        rig.committer.position,
        rig.committer.position,
        rig.committer.rotate,
        lambda: rig.submit(batch_of([("put", b"e", b"")]), LOCAL, None, 1, print),
    ):
        with pytest.raises(PoisonedError):
            call()
    assert (rig.live.visible_seq, rig.entries()) == (1, {b"a": (1, b"v")})
    assert len(rig.env.causes) == 1


@pytest.mark.parametrize("level", [MEMORY, LOCAL])
def test_a_failed_append_poisons(level: int) -> None:
    rig = Rig()
    rig.put(b"a")
    rig.files.no_space = True
    with pytest.raises(PoisonedError):
        rig.put_alone(b"b", b"v", level)
    rig.files.no_space = False
    with pytest.raises(PoisonedError):
        rig.put(b"c")
    assert rig.entries() == {b"a": (1, b"v")}


def _interrupts_log(name: str) -> Callable[[Rig, pytest.MonkeyPatch], None]:
    """An interrupt at the end of that call of the log."""

    def patch(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        real = getattr(rig.log, name)

        def interrupted(*args: Any) -> None:
            real(*args)
            raise KeyboardInterrupt

        monkeypatch.setattr(rig.log, name, interrupted)

    return patch


def _interrupts_lone_append(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a lone put; its function is made anew with each segment."""
    append = rig.log.put_appender()

    def interrupted(*args: Any) -> None:
        append(*args)
        raise KeyboardInterrupt

    committer, active = rig.committer, rig.live.current.active
    monkeypatch.setattr(committer.head, "lone_put", committer._puts_into(active, interrupted))


def _interrupts_apply(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt before the memtable changes."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    rig.live.snapshot()  # so that it keeps what is overwritten
    monkeypatch.setattr(Memtable, "keep", interrupted)


INTERRUPTED = {
    "the append of a lone put": (_interrupts_lone_append, MEMORY),
    "the apply of a lone put": (_interrupts_apply, MEMORY),
    "the append of a group": (_interrupts_log("append"), LOCAL),
    "the sync of a group": (_interrupts_log("sync"), LOCAL),
    "the apply of a group": (_interrupts_apply, LOCAL),
}


@pytest.mark.parametrize("when", INTERRUPTED)
def test_an_interrupt_never_lets_a_seq_be_used_twice(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the log was written and before the memtable was: the next write once took
    the same seq, and the log could not be opened any more."""
    patch, level = INTERRUPTED[when]
    rig = Rig()
    rig.put(b"a", level=MEMORY)
    patch(rig, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        rig.put_alone(b"b", b"v", level)
    monkeypatch.undo()
    for again in (MEMORY, LOCAL):
        with pytest.raises(PoisonedError, match="KeyboardInterrupt"):
            rig.put_alone(b"c", b"v", again)
    assert [record[0] for record in scan_segment(rig.files, "wal", 1).records] == [1, 2]
    assert rig.live.visible_seq == 1


_LOOKS = {dis.opmap[name] for name in ("RESUME", "CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD")}
"""After these the interpreter looks for interrupts, and after nothing else."""


def _interrupted_at(number: int, call: Callable[[], object]) -> None:
    """Make a call, with an interrupt at one of the places in the write path where one may come."""
    files = {module.__file__ for module in (commit, lone_put, contextlib)}
    before: dict[FrameType, int] = {}
    places = itertools.count(1)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            is_place = before.get(frame) in _LOOKS
            before[frame] = frame.f_code.co_code[frame.f_lasti]
            if is_place and next(places) == number:
                raise KeyboardInterrupt
        return trace

    outer = sys.gettrace()
    sys.settrace(lambda frame, *_: trace if frame.f_code.co_filename in files else None)
    try:
        call()
    finally:
        sys.settrace(outer)


@pytest.mark.parametrize("level", [MEMORY, LOCAL])
def test_an_interrupt_leaves_nothing_locked(level: int) -> None:
    """Ctrl-C in a loop of puts: of twenty programs one stood still in its close, which waited for a
    lock that nobody would let go of."""
    for number in itertools.count(1):
        rig = Rig()
        rig.put(b"a", level=MEMORY)
        try:
            _interrupted_at(number, partial(rig.put_alone, b"b", b"v", level))
        except KeyboardInterrupt:  # which is there meanwhile, as in a ``with`` block that it ends
            locks = rig.committer._mutex, rig.live.lock
            assert [lock.locked() for lock in locks] == [False, False], number
            with suppress(PoisonedError):
                rig.put(b"c")
            seqs = [record[0] for record in scan_segment(rig.files, "wal", 1).records]
            assert seqs == [*range(1, 1 + len(seqs))], number
        else:
            break
    assert number > 10


def test_who_waits_behind_an_interrupted_writer_is_told() -> None:
    """The leader of a group is interrupted while it waits for room: the others spun forever."""
    rig = Rig(capacity=1)
    rig.put(b"a")
    rig.env.refusal = KeyboardInterrupt()
    with rig.waiting(lambda: rig.put(b"b"), lambda: rig.put(b"c")) as futures:
        pass
    errors = [future.exception() for future in futures]
    assert {type(error) for error in errors} == {KeyboardInterrupt, BusyError}
    rig.env.refusal = None
    assert rig.put(b"d") == 2
    assert rig.entries().keys() == {b"a", b"d"}


@pytest.mark.parametrize("verb", ["syncs.ahead", "position", "rotate"])
def test_a_sync_that_fails_outside_of_a_write_poisons_as_well(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_schedule, "SYNC_AHEAD_BYTES", 1)
    rig = Rig()
    rig.put(b"a", level=MEMORY)
    rig.files.fail_sync()
    with pytest.raises(PoisonedError):
        attrgetter(verb)(rig.committer)()
    with pytest.raises(PoisonedError):
        rig.put(b"b")
    assert len(rig.env.causes) == 1
    assert rig.env.memtables == []
    assert rig.entries() == {b"a": (1, b"v")}
