"""The compaction policies: pure functions of a version, by the names of the setting."""

from __future__ import annotations

from seerdb.storage.compaction.policy.adaptive import SHAPES, adaptive
from seerdb.storage.compaction.policy.given import Policy

POLICIES: dict[str, Policy] = {**SHAPES, "adaptive": adaptive}
