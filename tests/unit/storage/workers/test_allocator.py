"""Memory that a job frees stays with the process for the next one, until it is given back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
from seerdb.storage.workers.allocator import give_back, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

before = resident()
keep_freed_memory()
del (block := [b"x" * (8 << 20) for _ in range(8)])[:]
during = resident()
give_back()
print(during - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told what to do")
def test_freed_memory_stays_until_it_is_given_back() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    kept, after = map(int, run.stdout.split())
    assert kept >= 48
    assert after <= 16


PIECES = """
import sys
from resource import RUSAGE_SELF, getrusage
from seerdb.storage.workers.allocator import keep_freed_pieces

def faults():
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(20):
        pieces = [bytes(1 << 20) for _ in range(8)]
        for piece in range(8):
            pieces[piece] = b"x" * (1 << 20)
        del pieces[:]
    return getrusage(RUSAGE_SELF).ru_minflt - before

before = faults()
keep_freed_pieces()
faults()
print(before, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told what to do")
def test_freed_pieces_are_taken_again() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PIECES], capture_output=True, text=True, check=True, timeout=60
    )
    before, after = map(int, run.stdout.split())
    assert after < before / 10


ARENAS = """
import ctypes, sys, threading
from seerdb.clock import SystemClock
from seerdb.storage.workers.threads import Workers
if sys.argv[1] == "with a database":
    Workers("thread", SystemClock())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(4)
def allocate():
    assert libc.malloc(100_000)
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


def arenas(how: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", ARENAS, how], capture_output=True, text=True, check=True, timeout=60
    )
    return run.stdout.count("<heap nr=")


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_info"), reason="malloc is not that of glibc"
)
def test_all_threads_of_a_process_with_a_database_allocate_from_one_place() -> None:
    assert arenas("as it is") > 1
    assert arenas("with a database") == 1
