"""What the bucket is asked, by whom, and what that and the tables in it cost."""

from __future__ import annotations

from itertools import chain
from operator import add

import msgspec
from msgspec.structs import astuple

from seerdb.storage.object_store.meter import Prices, RequestMeter

MONTH_SECONDS = 730 * 3600.0
"""As the stores reckon."""


class StoreStatistics(msgspec.Struct, frozen=True, array_like=True):
    """Requests of one purpose and operation since the open. ``dollars`` is their price,
    ``dollars_per_month`` what it comes to if the last ten minutes go on."""

    purpose: str
    operation: str
    requests: int
    errors: int
    bytes_in: int
    bytes_out: int
    seconds: float
    dollars: float
    dollars_per_month: float


class CostStatistics(msgspec.Struct, frozen=True):
    """In US dollars at the ``prices`` of the setting; traffic apart.

    ``requests`` is the price of all since the open. ``requests_per_month`` is the rate of the last
    ten minutes, or of all the time if that is less (of a minute at least), over a month of 730
    hours. ``storage_per_month`` is the price of keeping the tables and blobs of the current
    version; log, manifest and what waits for the collector come on top.
    """

    requests: float
    requests_per_month: float
    storage_per_month: float
    total_per_month: float
    prices: Prices


def store_requests(meter: RequestMeter, prices: Prices) -> list[StoreStatistics]:
    """One row for each purpose and operation seen."""
    monthly = meter.recent_in_seconds(MONTH_SECONDS)
    rows = []
    for row in meter.statistics():
        price = prices.of_request(row.operation)
        rows.append(
            StoreStatistics(
                row.purpose.value,
                row.operation.value,
                row.requests,
                row.errors,
                row.bytes_in,
                row.bytes_out,
                row.seconds,
                dollars=row.requests * price,
                dollars_per_month=monthly.get((row.purpose, row.operation), 0.0) * price,
            )
        )
    return rows


def joined(*parts: list[StoreStatistics]) -> list[StoreStatistics]:
    """What several meters have counted, one row for each purpose and operation."""
    found: dict[tuple[str, str], StoreStatistics] = {}
    for row in chain(*parts):
        key = row.purpose, row.operation
        found[key] = _sum(found[key], row) if key in found else row
    return list(found.values())


def _sum(one: StoreStatistics, other: StoreStatistics) -> StoreStatistics:
    purpose, operation, *numbers = astuple(one)
    return StoreStatistics(purpose, operation, *map(add, numbers, astuple(other)[2:]))


def costs(rows: list[StoreStatistics], kept_bytes: int, prices: Prices) -> CostStatistics:
    """The sums of ``rows``, and the price of so many bytes of tables and blobs."""
    requests_per_month = sum(row.dollars_per_month for row in rows)
    storage_per_month = prices.of_storage(kept_bytes)
    return CostStatistics(
        requests=sum(row.dollars for row in rows),
        requests_per_month=requests_per_month,
        storage_per_month=storage_per_month,
        total_per_month=requests_per_month + storage_per_month,
        prices=prices,
    )
