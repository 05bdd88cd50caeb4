"""Opening the database that the settings name, with its events in the log."""

from __future__ import annotations

import re

import msgspec
import structlog

from seerdb import DB, Components, Event, Replica, Standby
from seerdb.events import Fenced, LogOvertaken, Poisoned, WorkFailed, WriteStalled
from seerdb_api.port import Database
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
    db = DB.open(settings.data_dir, settings.options, components=components)
    try:
        db.prepare()
    except BaseException:
        db.close()
        raise
    return db


def log_event(event: Event) -> None:
    """Log what the engine tells. Called on the engine's threads."""
    name = _WORD.sub(" ", type(event).__name__).lower()
    values = msgspec.to_builtins(event)
    del values["type"]
    if isinstance(event, Fenced | Poisoned):
        logger.error(name, **values)
    elif isinstance(event, WorkFailed | WriteStalled) or _tells_of_loss(event):
        logger.warning(name, **values)
    else:
        logger.info(name, **values)


def _tells_of_loss(event: Event) -> bool:
    return isinstance(event, LogOvertaken) and not event.nothing_lost
