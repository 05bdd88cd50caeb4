"""A process that leaves sorted runs: ``python -m benchmarks.fill_runs ENGINE DIR N SEED``.

``N`` pairs in ``RUNS`` parts; each part is flushed and becomes a run whose keys lie all over
those of the others. Nothing is merged.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.cases import BATCH_SIZE
from benchmarks.engines import engine_class
from benchmarks.workload import Workload

RUNS = 4


def parts(entries: int, seed: int) -> list[Workload]:
    """What each run holds, oldest first."""
    return [Workload(entries // RUNS, seed * RUNS + part) for part in range(RUNS)]


def main(engine_name: str, directory: str, entries: str, seed: str) -> None:
    """Write the runs and close."""
    with engine_class(engine_name).quiet(Path(directory)) as engine:
        for part in parts(int(entries), int(seed)):
            engine.put_batches(part.batches(BATCH_SIZE))
            engine.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
