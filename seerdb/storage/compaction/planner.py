"""What is to be merged next: asks the policy, and remembers what it chose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from seerdb.storage.compaction.divide import Readers, divide
from seerdb.storage.compaction.load import RecentLoad
from seerdb.storage.compaction.plan import Plan
from seerdb.storage.compaction.policy.adaptive import choose, closest
from seerdb.storage.compaction.policy.expired import rewrite_expired
from seerdb.storage.compaction.policy.full import merge_all
from seerdb.storage.compaction.policy.given import LAZY_LEVELED, Policy, PolicyOptions
from seerdb.storage.compaction.policy.ranged import cut, merge_range
from seerdb.storage.compaction.policy.reclaim import reclaim
from seerdb.storage.compaction.requests import Request
from seerdb.storage.manifest.version import Version


class Planner:
    """The plans of one database. For one thread at a time."""

    def __init__(
        self,
        policy: Policy,
        options: PolicyOptions,
        load: RecentLoad,
        now: Callable[[], int] = lambda: 0,
        readers: Readers = lambda _: None,
    ) -> None:
        """``now``: the second by which values expire."""
        self._now = now
        self._policy = policy
        self._options = options
        self._load = load
        self._readers = readers
        self.shape = LAZY_LEVELED
        """What the adaptive policy makes of the tree at present."""
        self._has_begun = False

    def next(self, version: Version, running: Sequence[Plan] = ()) -> Plan | None:
        """What is due, and may be done beside ``running``."""
        if not self._has_begun:
            self.shape, self._has_begun = closest(version, self._options), True
        statistics = self._load.statistics(self.shape)
        if self._load.is_known:
            self.shape = choose(version, statistics, self._options)
            statistics = replace(statistics, shape=self.shape)
        plan = self._policy(version, statistics, self._options, running)
        plan = plan or rewrite_expired(version, self._now(), self._options, running)
        return plan or reclaim(version, self._options, running)

    def whole(self, version: Version, request: Request, among: int = 1) -> Plan | None:
        """The merge that ``request`` asks for, for so many jobs at once; ``None`` when it would
        change nothing."""
        wanted = request.range_of(version)
        if request.is_for_all:
            plan = merge_all(version, wanted.seq, self._now(), self._options)
        else:
            plan = merge_range(version, wanted, self._now(), self._options)
        return divide(plan, among, self._readers) if plan is not None else None

    def step(self, version: Version, request: Request) -> Plan | None:
        """What is to be done first so that :meth:`whole` takes no more than it has to; ``None``
        when nothing is."""
        if request.is_for_all:
            return None
        return cut(version, request.range_of(version), self._options)
