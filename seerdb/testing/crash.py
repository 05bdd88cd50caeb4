"""The simulated death of the process, shared by every double that can cause it."""

from __future__ import annotations


class CrashError(BaseException):
    """The process died at this operation; nothing after it happened.

    Not an ``Exception``, so that no handler of the code under test takes it for a failure that
    one can go on after.
    """
