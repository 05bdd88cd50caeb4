"""The status of a database in a few lines: what an operator looks for first."""

from __future__ import annotations

from typing import Any

from seerdb.cli.output import decimal


def summary(status: dict[str, Any]) -> list[tuple[str, str]]:
    """What each line is about, and what it says, of a reply of ``/v1/admin/status``."""
    if "lag" in status:
        return _of_replica(status)
    if "standby" in status:  # one that has nothing to be read yet
        return [("standby", status["standby"]), ("primary", status["primary"] or "not known")]
    return _of_writer(status)


def _of_replica(status: dict[str, Any]) -> list[tuple[str, str]]:
    reads = status["reads"]
    return [
        ("data", _data(status)),
        ("follows", _follows(status)),
        ("lag", _lag(status["lag"])),
        *_gets(reads),
        ("dollars", _dollars(status["costs"])),
    ]


def _follows(status: dict[str, Any]) -> str:
    at = f"seq {status['visible_seq']:,} of epoch {status['epoch']}"
    if status["is_live"]:
        return f"{status['primary']}, live; at {at}"
    away = f"; {status['primary']} is away" if status["primary"] else ""
    return f"the bucket{away}; at {at}"


def _lag(lag: dict[str, Any]) -> str:
    seconds = lag["seconds"]
    since = "not caught up yet" if seconds is None else f"{seconds:.1f} seconds"
    return f"{since}, {lag['seq']:,} commits"


def _of_writer(status: dict[str, Any]) -> list[tuple[str, str]]:
    amplifications, reads, stalls = status["amplifications"], status["reads"], status["stalls"]
    return [
        ("data", _data(status)),
        ("large values", _blobs(status["blobs"])),
        ("writes", _writes(amplifications)),
        ("space", _space(amplifications)),
        ("reads", _reads(amplifications)),
        *_gets(reads),
        ("shipping", _shipping(status["shipping"])),
        ("stalls", _stalls(stalls)),
        ("merges", _merges(status)),
        ("dollars", _dollars(status["costs"])),
    ]


def _gets(reads: dict[str, Any]) -> list[tuple[str, str]]:
    tiers = "block_cache_hits", "blocks_from_disk", "blocks_from_bucket"
    return [
        ("gets, sampled", _shares(reads["sample"], ("memtable", "row_cache", "tables"))),
        ("gets of tables", _shares(reads, tiers)),
    ]


def _data(status: dict[str, Any]) -> str:
    return (
        f"{status['table_bytes']:,} bytes, {status['table_entries']:,} entries, "
        f"{status['tables']:,} tables, {status['runs']:,} runs"
    )


def _blobs(blobs: dict[str, Any]) -> str:
    if not blobs["blobs"]:
        return "none in blobs"
    return (
        f"{blobs['values']:,}, {blobs['live_bytes']:,} bytes live of {blobs['bytes']:,} in "
        f"{blobs['blobs']:,} blobs"
    )


def _writes(amplifications: dict[str, Any]) -> str:
    return (
        f"{amplifications['written_bytes']:,} bytes for "
        f"{amplifications['user_bytes']:,} of users: {amplifications['write']:.2f} times"
    )


def _space(amplifications: dict[str, Any]) -> str:
    return (
        f"{amplifications['space']:.2f} times the {amplifications['live_bytes']:,} bytes that live "
        "(estimated)"
    )


def _reads(amplifications: dict[str, Any]) -> str:
    return (
        f"{amplifications['runs']:,} runs to ask at most, "
        f"{decimal(amplifications['blocks_per_get'], 3)} blocks fetched for a get of tables"
    )


def _shares(counts: dict[str, int], names: tuple[str, ...]) -> str:
    total = sum(counts[name] for name in names)
    if not total:
        return "none yet"
    shares = (f"{name.replace('_', ' ')} {counts[name] / total:.1%}" for name in names)
    return f"{', '.join(shares)} of {total:,}"


def _shipping(shipping: dict[str, Any]) -> str:
    if shipping["stopped"]:
        return str(shipping["stopped"])
    rest = "everything is in the bucket"
    if shipping["unshipped_seq"]:
        rest = (
            f"seq {shipping['unshipped_seq']:,} and later on the local disk only, for "
            f"{decimal(shipping['unshipped_seconds'], 3)} s"
        )
    when = "as it is written" if shipping["continuous"] else "for writes of level object only"
    return f"{when}; {rest}"


def _stalls(stalls: dict[str, Any]) -> str:
    reasons = [row for row in stalls["reasons"] if row["last"]]
    if not reasons:
        return "none"
    counts = (
        f"{stalls['stalls']:,} stops ({decimal(stalls['stalled_seconds'], 3)} s), "
        f"{stalls['slowdowns']:,} slowdowns ({decimal(stalls['slowed_seconds'], 3)} s), "
        f"{stalls['refused']:,} refused"
    )
    told = [counts]
    now = stalls["reason"] or stalls["slowed"]
    if now:
        told.append(f"now: {now}")
    told += [f"last by {row['reason']}: {row['last']}" for row in reasons]
    return "; ".join(told)


def _merges(status: dict[str, Any]) -> str:
    jobs = [
        f"{job['input_bytes']:,} bytes to level {job['level']}, {_done(job)} read"
        for job in status["jobs"]
    ]
    shape = status["compaction_shape"].replace("_", " ")
    return f"{shape}; {'; '.join(jobs) if jobs else 'none runs'}"


def _done(job: dict[str, Any]) -> str:
    return f"{job['bytes_read'] / max(job['input_bytes'], 1):.0%}"


def _dollars(costs: dict[str, Any]) -> str:
    names = "total_per_month", "requests_per_month", "storage_per_month", "requests"
    total, requests, storage, so_far = (decimal(costs[name], 4) for name in names)
    return (
        f"{total} per month ({requests} requests of late, {storage} storage); "
        f"{so_far} for requests so far"
    )
