"""When a follower looks into the bucket: in step with a writer that ships at an interval. Pure.

What a look finds came after the look before, so the next object is not there before an interval has
passed since that one. Then it is looked for, at growing distances; the nearer two looks are, the
better the next object's moment is known.
"""

from __future__ import annotations

from seerdb.storage.engine.shipping import DUE

FIRST_STEP, LONGEST_STEP = 0.02, 0.05
"""Parts of the interval between two looks for what is due: each twice the one before. Once the
object is late, they grow up to the interval."""


class Looks:
    """The looks of one follower. For one thread."""

    def __init__(self, interval: float) -> None:
        """``interval``: of shipping, in seconds; and between two looks while nothing comes."""
        self._interval = interval
        self._began_at = self._found_at = float("-inf")
        self._step = FIRST_STEP

    def wait(self, began: float, ended: float, *, found: bool) -> float:
        """Seconds until the next look, after one that began and ended then and found log or not."""
        before, self._began_at = self._began_at, began
        if found:
            self._found_at, self._step = ended, FIRST_STEP
            return max(before + DUE * self._interval - ended, FIRST_STEP * self._interval)
        longest = LONGEST_STEP if ended < self._found_at + self._interval else 1.0
        step, self._step = self._step, min(2 * self._step, longest)
        return step * self._interval
