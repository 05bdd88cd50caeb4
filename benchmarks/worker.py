"""The fresh process of one round: a task as JSON on stdin, its timings as JSON on stdout."""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

from benchmarks.cases import Task
from benchmarks.measure import run_task


def main() -> None:
    """Run the task; an engine that is not installed is an answer, any other error ends it."""
    task = Task.from_json(json.load(sys.stdin))
    try:
        timings = run_task(task)
    except ImportError as error:
        answer: dict[str, Any] = {"absent": str(error)}
    else:
        answer = {
            "timings": [timing.to_json() for timing in timings],
            "gc": {"enabled": gc.isenabled(), "thresholds": gc.get_threshold()},
        }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
