"""What requests to the bucket cost, put together from several meters."""

from __future__ import annotations

from seerdb.storage.status.costs import StoreStatistics, joined


def test_what_several_meters_counted_is_added_up_by_purpose_and_operation() -> None:
    one = StoreStatistics("read", "get", 1, 2, 3, 4, 5.0, 6.0, 7.0)
    other = StoreStatistics("read", "get", 10, 20, 30, 40, 50.0, 60.0, 70.0)
    alone = StoreStatistics("read", "list", 1, 1, 1, 1, 1.0, 1.0, 1.0)
    assert joined([one], [alone, other], []) == [
        StoreStatistics("read", "get", 11, 22, 33, 44, 55.0, 66.0, 77.0),
        alone,
    ]
