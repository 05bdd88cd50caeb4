"""What the serving process asks of malloc and of the system."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest

ARENAS = """
import ctypes, sys, threading
from seerdb_api.process import prepare
if sys.argv[1] == "prepared":
    prepare()
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
    done = subprocess.run(
        [sys.executable, "-c", ARENAS, how], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_info"), reason="malloc is not that of glibc"
)
def test_all_threads_of_a_server_allocate_from_one_place() -> None:
    assert arenas("as it is") > 1
    assert arenas("prepared") == 1


FILES = """
import resource
from seerdb_api.process import prepare
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
prepare()
soft, now = resource.getrlimit(resource.RLIMIT_NOFILE)
assert now == hard
print(soft)
"""


def test_a_server_may_have_as_many_connections_as_the_system_allows() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILES], capture_output=True, text=True, check=True, timeout=60
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert int(done.stdout) == (65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard))
