"""The numbers of caches under the names of the metrics."""

from __future__ import annotations

from seerdb.storage.status.caches import disk_values
from seerdb.storage.tiers.disk_tier import DiskTierStatistics


def test_each_number_of_the_disk_tier_has_its_own_name() -> None:
    disk = DiskTierStatistics(
        bytes=1,
        capacity=2,
        tables=3,
        pinned_bytes=4,
        pinned_tables=5,
        hits=6,
        misses=7,
        rejected=8,
        errors=9,
        evictions=10,
    )
    assert disk_values(disk) == {
        "disk_cache_hits": disk.hits,
        "disk_cache_misses": disk.misses,
        "disk_cache_rejected": disk.rejected,
        "disk_cache_bytes": disk.bytes,
    }
    assert set(disk_values(None).values()) == {0}
