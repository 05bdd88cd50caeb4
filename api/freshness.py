"""Reads that ask for at least some commit: a replica, or a writer, waits until it shows that.

A client that wrote somewhere else presents the ``seerdb-seq`` of its write, and reads its own write
or hears that it is not here yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from seerdb.errors import InvalidRequestError
from seerdb.ids import MAX_SEQ
from seerdb_api.errors import BEHIND, RefusalError
from seerdb_api.openapi import header_parameter
from seerdb_api.query import Parameter, positive_integer, seconds
from seerdb_api.service import Service

MIN_SEQ_HEADER = b"seerdb-min-seq"
DEADLINE_HEADER = b"seerdb-deadline"
DEFAULT_DEADLINE = 1.0
LONGEST_DEADLINE = 60
POLL_SECONDS = 0.005
"""How often a waiting read looks; a hundred of them cost a hundredth of a core."""

_MIN_SEQ = positive_integer(
    "min_seq", "Wait until this commit is shown here; as the header `seerdb-min-seq`.", MAX_SEQ
)
_TIMEOUT = seconds(
    "timeout",
    f"Seconds to wait for `min_seq`, by default {DEFAULT_DEADLINE:g}; as the header "
    "`seerdb-deadline`.",
    LONGEST_DEADLINE,
)
FRESHNESS: tuple[Parameter, ...] = (_MIN_SEQ, _TIMEOUT)
"""What every read takes."""
FRESHNESS_HEADERS = (
    header_parameter("seerdb-min-seq", "Wait until this commit is shown here; else 503."),
    header_parameter("seerdb-deadline", "Seconds to wait for it."),
)


async def wait_until_fresh(
    service: Service, headers: Mapping[bytes, bytes], values: Mapping[str, Any]
) -> None:
    """Return once what the request asks for is shown; at once if it asks for nothing.

    Raises: the refusal when the deadline has passed, ``InvalidRequestError``.
    """
    wanted = _given(_MIN_SEQ, MIN_SEQ_HEADER, headers, values)
    if wanted is None or service.db.visible_seq >= wanted:
        return
    deadline = _given(_TIMEOUT, DEADLINE_HEADER, headers, values) or DEFAULT_DEADLINE
    now = asyncio.get_running_loop().time
    ends = now() + deadline
    while service.db.visible_seq < wanted:
        if now() >= ends:
            raise _behind(service, wanted)
        await asyncio.sleep(POLL_SECONDS)


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


def _behind(service: Service, wanted: int) -> RefusalError:
    seq, lag = service.db.visible_seq, service.lag
    members: dict[str, Any] = {"seq": seq, "min_seq": wanted}
    if lag is not None:
        members |= {"lag_seq": lag.seq, "lag_seconds": lag.seconds}
    detail = f"seq {wanted} was asked for, and this node shows seq {seq}"
    return RefusalError(BEHIND, detail, ((b"retry-after", b"1"),), members)
