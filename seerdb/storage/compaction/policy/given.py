"""What a compaction policy is, and what it is given to decide by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from seerdb.options import KIB, MIB, Options
from seerdb.storage.compaction.plan import Plan
from seerdb.storage.manifest.version import Version
from seerdb.storage.object_store.lender import NO_LOANS, Loans

LEVELED = "leveled"
LAZY_LEVELED = "lazy_leveled"
TIERED = "tiered"
"""The shapes of a tree, as the setting ``compaction`` names them."""

_TABLE_SIZE = 64 * MIB
_FLUSHED_SHARE = 4
"""A table is about so many times smaller than the memtable it was flushed from: overheads of
entries in memory, and compression. Ours have between an eighth and all of it."""

_FILTER_BASE = 0.6185
"""A Bloom filter of n bits a key is wrong with a probability of this to the power of n."""


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """Sizes in bytes. Not settings: they follow from those."""

    size_ratio: int = 5
    """T: how many times larger a level is than the one above, and how many similar runs are
    merged into one. With 5, all that lies above the last level is a quarter of it."""
    base_size: int = 16 * MIB
    """About what a flush makes."""
    table_size: int = _TABLE_SIZE
    """Size at which an output table is finished; small levels have smaller ones."""
    block_size: int = 16 * KIB
    false_positives: float = 0.01
    """How often a filter does not spare the read of a table that lacks the key."""
    has_merges: bool = False
    """Whether operands may be merged into values."""
    loans: Loans = NO_LOANS
    """What the database borrows."""

    @classmethod
    def of(cls, options: Options, *, has_merges: bool, loans: Loans = NO_LOANS) -> PolicyOptions:
        """Those that follow from the settings of a database."""
        return cls(
            base_size=max(1, options.memtable_capacity // _FLUSHED_SHARE),
            block_size=options.block_size,
            false_positives=_FILTER_BASE**options.filter_bits_per_key,
            has_merges=has_merges,
            loans=loans,
        )


@dataclass(frozen=True, kw_only=True)
class PolicyStatistics:
    """How the database was used lately, in operations of some minutes; see ``load.py``."""

    puts: float = 0.0
    """Entries that were flushed."""
    gets: float = 0.0
    """Keys that were looked for in tables."""
    scans: float = 0.0
    shape: str = LAZY_LEVELED
    """What the tree is being made: what the adaptive policy chose last."""


class Policy(Protocol):
    """Decides what to merge next. Pure: the same arguments, the same plan."""

    def __call__(
        self,
        version: Version,
        statistics: PolicyStatistics,
        options: PolicyOptions,
        running: Sequence[Plan] = (),
    ) -> Plan | None:
        """The next merge, one that may be done while those of ``running`` are, or nothing.

        Applied again and again it comes to nothing, and then the tree has the policy's shape.
        Requires: each plan of ``running`` was made for this version or one before it, and the
        version does not show its outputs yet.
        """
