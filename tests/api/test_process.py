"""What the serving process asks of the system."""

from __future__ import annotations

import resource
import subprocess
import sys

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
