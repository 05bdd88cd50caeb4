"""``seerdb digest``: what a database shows, as one number to compare copies by."""

from __future__ import annotations

from typing import Annotated

import typer

from seerdb.cli.arguments import Config, Json, Store, Target
from seerdb.cli.output import print_json, print_table
from seerdb.cli.target import find
from seerdb.clock import SystemClock
from seerdb.storage.drill.moment import digest_of
from seerdb.storage.object_store.base import ObjectStore
from seerdb.storage.past.history import at_seq, past_of
from seerdb.storage.read.content import ContentDigest
from seerdb.storage.retention.timeline import state_of
from seerdb.storage.value import SECOND_US

Seq = Annotated[
    int | None, typer.Option("--seq", min=0, help="As of this commit; by default the newest.")
]
Second = Annotated[
    int | None,
    typer.Option(
        "--second",
        min=0,
        help="What expires by this second since 1970 does not count; by default now, or with --seq "
        "the time of that commit.",
    ),
]


def digest(
    target: Target,
    *,
    seq: Seq = None,
    second: Second = None,
    store: Store = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell the digest of all keys and values that are in a bucket, tables and shipped log.

    Changes nothing, and may run beside a server; reads everything. Two databases of one history
    that show the same have the same digest; the first half of it is the same for all that have the
    same keys and values."""
    with find(target, store, config).open() as bucket:
        found = _digest_of(bucket, seq, second)
    if as_json:
        print_json(found._asdict())
        return
    print_table(
        ("digest", found.digest),
        [("seq", f"{found.seq:,}"), ("second", found.second), ("entries", f"{found.entries:,}")],
    )


def _digest_of(bucket: ObjectStore, seq: int | None, second: int | None) -> ContentDigest:
    clock = SystemClock()
    timeline, log = past_of(bucket)
    if seq is None:
        second = clock.now_ns() // 10**9 if second is None else second
        seq = timeline.marks[-1].last_seq
        for records in log.after(seq):
            seq = records[-1][0]
    instant = at_seq(timeline, log, seq)
    second = instant.time_us // SECOND_US if second is None else second
    state = state_of(bucket, instant.base)
    return digest_of(bucket, state, second, clock, tuple(instant.records))
