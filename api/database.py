"""Opening the database that the settings name, with its events in the log."""

from __future__ import annotations

import re

import msgspec
import structlog

from seerdb import DB, Components, Event, Replica, Standby
from seerdb.events import Fenced, Poisoned, WorkFailed, WriteStalled
from seerdb_api.service import Database
from seerdb_api.settings import ServiceSettings
from seerdb_api.standby import StandbyDatabase

logger: structlog.stdlib.BoundLogger = structlog.get_logger("seerdb.engine")

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


def open_database(settings: ServiceSettings) -> Database:
    """Open the database, which recovers it first, or a replica of it; a standby opens nothing
    before it looks. Blocks. Raises any ``SeerDBError``."""
    components = Components(listener=log_event, address=settings.address)
    if settings.replica:
        return Replica.open(
            settings.data_dir,
            settings.options,
            primary=settings.primary or None,
            max_lag=settings.max_lag,
            components=components,
        )
    if settings.standby:
        standby = Standby.open(settings.data_dir, settings.options, components=components)
        return StandbyDatabase(standby, settings.max_lag)
    return DB.open(settings.data_dir, settings.options, components=components)


def log_event(event: Event) -> None:
    """Log what the engine tells. Called on the engine's threads."""
    name = _WORD.sub(" ", type(event).__name__).lower()
    values = msgspec.structs.asdict(event)
    if isinstance(event, Fenced | Poisoned):
        logger.error(name, **values)
    elif isinstance(event, WorkFailed | WriteStalled):
        logger.warning(name, **values)
    else:
        logger.info(name, **values)
