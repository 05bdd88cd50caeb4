"""Fixtures of the service's tests: a fake database behind the app as it is served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from seerdb.clock import SystemClock
from seerdb_api.app import App, create_app
from seerdb_api.fast import FastPath
from seerdb_api.settings import ServiceSettings
from tests.api.client import Client
from tests.api.fake_database import FakeDatabase
from tests.api.wire import WaitingDatabase

BODY_LIMIT = 256 << 10


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    """What was logged, instead of its rendering."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def db() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
def waiting() -> WaitingDatabase:
    db = WaitingDatabase()
    db.load(a="1")
    return db


@pytest.fixture
def app(db: FakeDatabase) -> App:
    return create_app(ServiceSettings(body_limit=BODY_LIMIT), db)


@pytest.fixture
def client(app: App) -> Iterator[Client]:
    """The service as it is served: the thin path before the documented routes."""
    with Client(FastPath(app, SystemClock())) as client:
        yield client


@pytest.fixture
def routed_client(app: App) -> Iterator[Client]:
    """The documented routes alone."""
    with Client(app) as client:
        yield client
