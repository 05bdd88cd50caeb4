"""What is to be merged next: asks the policy, and remembers what it chose."""

from __future__ import annotations

from dataclasses import replace

from seerdb.storage.compaction.load import RecentLoad
from seerdb.storage.compaction.plan import Plan, check_plan
from seerdb.storage.compaction.policy.adaptive import choose
from seerdb.storage.compaction.policy.full import merge_all
from seerdb.storage.compaction.policy.given import LAZY_LEVELED, Policy, PolicyOptions
from seerdb.storage.manifest.version import Version


class Planner:
    """The plans of one database. For one thread."""

    def __init__(self, policy: Policy, options: PolicyOptions, load: RecentLoad) -> None:
        self._policy = policy
        self._options = options
        self._load = load
        self._shape = LAZY_LEVELED

    def next(self, version: Version) -> Plan | None:
        """What is due. Raises ``InternalError`` for a plan that would break the order."""
        statistics = self._load.statistics(self._shape)
        self._shape = choose(version, statistics, self._options)
        plan = self._policy(version, replace(statistics, shape=self._shape), self._options)
        return _checked(version, plan)

    def everything(self, version: Version) -> Plan | None:
        """The merge of everything, unless it is merged already. Raises as :meth:`next`."""
        return _checked(version, merge_all(version, self._options))


def _checked(version: Version, plan: Plan | None) -> Plan | None:
    if plan is not None:
        check_plan(version, plan)
    return plan
