"""Reads that ask for at least some commit: a replica, or a writer, waits until it shows that.

A client that wrote somewhere else presents the ``seerdb-seq`` of its write, and reads its own write
or hears that it is not here yet. With the ``seerdb-epoch`` of the reply beside it the commit is
named for ever: a seq may have been used twice, by a writer that was lost and by the one that took
over. Then the client also hears that the commit was lost, or is of a writer unknown here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from seerdb.errors import FencedError, InvalidRequestError, LostError
from seerdb.ids import MAX_SEQ
from seerdb_api.errors import BEHIND, PROBLEMS, RefusalError
from seerdb_api.openapi import header_parameter
from seerdb_api.query import Parameter, seconds, whole_number
from seerdb_api.service import Service

MIN_SEQ_HEADER = b"seerdb-min-seq"
EPOCH_HEADER = b"seerdb-epoch"
DEADLINE_HEADER = b"seerdb-deadline"
DEFAULT_DEADLINE = 1.0
LONGEST_DEADLINE = 60

_MIN_SEQ = whole_number(
    "min_seq",
    "Wait until this commit is shown here; as the header `seerdb-min-seq`.",
    MAX_SEQ,
    minimum=0,  # the seerdb-seq of a database in which nothing was committed
)
_TIMEOUT = seconds(
    "timeout",
    f"Seconds to wait for `min_seq`, by default {DEFAULT_DEADLINE:g}; as the header "
    "`seerdb-deadline`.",
    LONGEST_DEADLINE,
)
FRESHNESS: tuple[Parameter, ...] = (_MIN_SEQ, _TIMEOUT)
"""What every read takes."""
FRESHNESS_PROBLEMS = (BEHIND, PROBLEMS[LostError], PROBLEMS[FencedError])
FRESHNESS_HEADERS = (
    header_parameter("seerdb-min-seq", "Wait until this commit is shown here; else 503."),
    header_parameter("seerdb-deadline", "Seconds to wait for it."),
    header_parameter(
        "seerdb-epoch",
        "The epoch of that commit: 409 if it was lost, or is of a writer that took over.",
    ),
)


async def wait_until_fresh(
    service: Service, headers: Mapping[bytes, bytes], values: Mapping[str, Any]
) -> None:
    """Return once what the request asks for is shown; at once if it asks for nothing.

    Raises: the refusal when the deadline has passed, ``InvalidRequestError``; of a commit that is
    named by its epoch, ``LostError`` when a later writer took over without it, and ``FencedError``
    when it is of a writer that took over from this one.
    """
    epoch = _epoch(headers)
    wanted = _given(_MIN_SEQ, MIN_SEQ_HEADER, headers, values)
    if wanted is None:
        if epoch is not None:
            raise InvalidRequestError("header seerdb-epoch needs seerdb-min-seq beside it")
        return
    deadline = _given(_TIMEOUT, DEADLINE_HEADER, headers, values) or DEFAULT_DEADLINE
    ends = asyncio.get_running_loop().time() + deadline
    if epoch is None:
        await _wait_for(service, wanted, 0, ends)
        return
    if service.lag is not None:
        await _wait_for(service, 0, epoch, ends)
    await service.read(service.db.check_commit, epoch, wanted)
    if await _wait_for(service, wanted, 0, ends):
        await service.read(service.db.check_commit, epoch, wanted)


async def _wait_for(service: Service, seq: int, epoch: int, ends: float) -> bool:
    """Return when commits up to ``seq``, and those of ``epoch``, are shown; whether that took time.

    Raises: the refusal when it is ``ends`` by the clock of the event loop, or the server stops.
    """
    if service.seqs.reached(seq) and service.epochs.reached(epoch):
        return False
    if not (await service.seqs.wait(seq, ends) and await service.epochs.wait(epoch, ends)):
        raise _behind(service, seq, epoch)
    return True


def _given(
    parameter: Parameter, header: bytes, headers: Mapping[bytes, bytes], values: Mapping[str, Any]
) -> Any:
    """The value in the query, or else in the header, or else ``None``."""
    if parameter.name in values or header not in headers:
        return values.get(parameter.name)
    try:
        return parameter.read(headers[header])
    except ValueError as error:
        raise InvalidRequestError(f"header {header.decode()} {error}") from error


def _epoch(headers: Mapping[bytes, bytes]) -> int | None:
    """The epoch of the commit that the request relies on, if it names one."""
    text = headers.get(EPOCH_HEADER)
    if text is None:
        return None
    if not (text.isdigit() and len(text) <= 19):
        raise InvalidRequestError(
            f"header seerdb-epoch must be a whole number, not {text.decode('latin-1')!r}"
        )
    return int(text)


def _behind(service: Service, seq: int, epoch: int) -> RefusalError:
    db, lag = service.db, service.lag
    members: dict[str, Any] = {"seq": db.visible_seq, "min_seq": seq}
    if lag is not None:
        members |= {"lag_seq": lag.seq, "lag_seconds": lag.seconds}
    detail = f"seq {seq} was asked for, and this node shows seq {db.visible_seq}"
    if epoch:
        detail = f"epoch {epoch} was asked for, and this node shows epoch {db.epoch}"
    return RefusalError(BEHIND, detail, ((b"retry-after", b"1"),), members)
