"""Memory that a job frees stays with the process during the job, and goes back after it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
from seerdb.storage.allocator import keeping_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

before = resident()
with keeping_freed_memory():
    del (block := [b"x" * (8 << 20) for _ in range(8)])[:]
    during = resident()
print(during - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told what to do")
def test_freed_memory_goes_back_after_the_job() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    kept, after = map(int, run.stdout.split())
    assert kept >= 48
    assert after <= 16
