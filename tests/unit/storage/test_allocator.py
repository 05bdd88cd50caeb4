"""Memory that a job frees stays with the process for the next one, until it is given back."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
from seerdb.storage.allocator import give_back, keep_freed_memory

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
from seerdb.storage.allocator import keep_freed_pieces

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
