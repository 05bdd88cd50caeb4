"""What processes of this machine take, as /proc has it: memory, processor time, children."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from seerdb.clock import SystemClock

MIB = 1 << 20

_QUIET_SHARE = 0.05
_LOOK_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 600.0
_TICKS = os.sysconf("SC_CLK_TCK")


def memory(process_id: int, name: str) -> int:
    """Bytes of ``name`` (``VmRSS``, ``VmHWM``) in the status of a process; 0 where it has ended."""
    for line in _text(Path(f"/proc/{process_id}/status")).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def descendants(process_id: int) -> Iterator[int]:
    """Its children, theirs, and so on."""
    for task in Path(f"/proc/{process_id}/task").glob("*/children"):
        for child in map(int, _text(task).split()):
            yield child
            yield from descendants(child)


def family_memory(process_id: int) -> int:
    """Bytes resident in a process and its descendants, added up."""
    return memory(process_id, "VmRSS") + descendants_memory(process_id)


def descendants_memory(process_id: int) -> int:
    """Bytes resident in all descendants of a process, added up."""
    return sum(memory(child, "VmRSS") for child in descendants(process_id))


def family_seconds(process_id: int) -> float:
    """Seconds of processor time that a process and its descendants have taken."""
    return sum(map(_processor_seconds_of, [process_id, *descendants(process_id)]))


def wait_until_quiet() -> float:
    """Wait for the end of what this process and its descendants do in the background: until they
    leave the processor alone for two seconds. Returns how many seconds that took.

    Raises: ``TimeoutError`` after ten minutes.
    """
    clock = SystemClock()
    begun = clock.monotonic()
    used = family_seconds(os.getpid())
    while clock.monotonic() - begun < _LONGEST_WAIT_SECONDS:
        clock.sleep(_LOOK_SECONDS)
        before, used = used, family_seconds(os.getpid())
        if used - before < _QUIET_SHARE * _LOOK_SECONDS:
            return clock.monotonic() - begun
    raise TimeoutError("background work goes on and on")


def _processor_seconds_of(process_id: int) -> float:
    # The name before the last ")" may hold anything; user and system time are fields 14 and 15.
    fields = _text(Path(f"/proc/{process_id}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / _TICKS


def _text(path: Path) -> str:
    """What a file of /proc says; empty where its process has ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
