"""A process that writes and is gone: ``python -m benchmarks.fill_and_die ENGINE DIR N SEED``.

Each pair is put alone and acknowledged at level ``MEMORY``; then the process ends without
closing anything, as a kill would end it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.engines import engine_class
from benchmarks.engines.base import Sync
from benchmarks.workload import Workload


def main(engine_name: str, directory: str, entries: str, seed: str) -> None:
    """Write ``entries`` pairs and die; does not return."""
    workload = Workload(int(entries), int(seed))
    engine = engine_class(engine_name)(Path(directory), Sync.MEMORY)
    engine.put_each(workload.keys, workload.values)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
