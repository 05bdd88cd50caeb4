"""The second process of the busy case: ``python -m benchmarks.writer URL SECONDS``.

Posts batches of new keys at a fixed pace, so the database has to flush and compact. Prints
``ready`` when all of them are built and the first is about to go, and at the end one line of
JSON: how many were acknowledged, and how many were held back (429 or 503) and tried again.
"""

from __future__ import annotations

import json
import sys

from benchmarks.ingest import batch_bodies, post_batch
from benchmarks.servers.base import http_client
from seerdb.clock import SystemClock

BATCH_ENTRIES = 200
BATCHES_PER_SECOND = 40
"""With values of 1 KiB: 8 MB/s."""


def main(url: str, seconds: str) -> None:
    """Write for ``seconds`` at the pace above, or slower where the server is slower."""
    clock = SystemClock()
    count = round(float(seconds) * BATCHES_PER_SECOND)
    bodies = list(batch_bodies(count, BATCH_ENTRIES, seed=3))
    print("ready", flush=True)
    begun = clock.monotonic()
    held_back = acknowledged = 0
    with http_client(url) as client:
        for number, body in enumerate(bodies):
            clock.sleep(max(0.0, begun + number / BATCHES_PER_SECOND - clock.monotonic()))
            if clock.monotonic() - begun > float(seconds):
                break
            held_back += post_batch(client, body)
            acknowledged += 1
    print(json.dumps({"acknowledged": acknowledged, "held_back": held_back}))


if __name__ == "__main__":
    main(*sys.argv[1:])
