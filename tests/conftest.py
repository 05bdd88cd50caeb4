"""What every test run shares: a clean environment and the Hypothesis profiles.

Profiles: ``dev`` (default), ``ci`` (no randomness, chosen by ``CI``) and ``deep`` (many more
examples; ``HYPOTHESIS_PROFILE=deep make test``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.fixtures.database import end_timers

pytest_plugins = ["tests.fixtures.emulators", "tests.fixtures.stores"]

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.register_profile("deep", settings.get_profile("dev"), max_examples=2_000)


def pytest_configure(config: pytest.Config) -> None:
    """Forget the developer's cloud and database settings before anything reads them."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "SEERDB_"))]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    # What a shell runs in the background ignores Ctrl-C, and what nohup runs the end of the
    # terminal; so would all that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    settings.load_profile(
        os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev")
    )


@pytest.fixture(autouse=True)
def no_timers_left() -> Iterator[None]:
    """Simulated databases that a test leaves open, as a crash does, take no processor afterwards:
    the benchmarks' own tests wait for a process that is quiet."""
    yield
    end_timers()
