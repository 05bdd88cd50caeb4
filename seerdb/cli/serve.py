"""``seerdb serve``, and the settings as the service reads them.

The one place where the library's package meets the service, which is imported when it is asked
for and not before.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seerdb.cli.arguments import Config

if TYPE_CHECKING:
    from seerdb_api.settings import ServiceSettings

OF_CLIENTS = ("SEERDB_URL",)
"""Variables that are about talking to a server, and no settings."""


def serve(  # noqa: PLR0913 - one for each flag
    data_dir: Annotated[
        str | None,
        typer.Argument(metavar="[DATA_DIR]", help="The data directory; by default ./data."),
    ] = None,
    *,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The bucket; by default bucket/ in the data directory."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="The address to listen on; by default 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The port to listen on; by default 8000, 0: any free one.")
    ] = None,
    replica: Annotated[
        bool | None,
        typer.Option("--replica", help="Follow the database in the bucket and serve reads of it."),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The server that writes it, for a replica."),
    ] = None,
    config: Config = None,
    standby: Annotated[
        bool,
        typer.Option(
            "--standby",
            help="Wait while another server keeps the lease, and take over when it is gone.",
        ),
    ] = False,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where clients and standbys reach this server."),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="json|text", help="Of the log, on standard error.")
    ] = None,
) -> None:
    """Serve a database over HTTP, until SIGTERM or Ctrl-C.

    Then it finishes what was asked, flushes, and exits 0. Any setting can be in the FILE, or in
    the environment as SEERDB_ and its name; a flag wins over the environment, and that over the
    FILE."""
    settings = load_settings(
        config,
        data_dir=data_dir,
        store=store,
        host=host,
        port=port,
        replica=replica,
        primary=primary,
        log_format=log_format,
        standby=standby or None,
        advertise=advertise,
    )
    # Of worker processes. numpy would start a thread for each processor in each, which nothing
    # uses and which all spin for a while, just when a flush begins.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from seerdb_api.server import serve as run

    raise typer.Exit(run(settings))


def load_settings(config: str | None, **flags: Any) -> ServiceSettings:
    """Settings from default, file, environment and flags (``None``: not given).

    Raises: ``InvalidRequestError``.
    """
    from seerdb_api.settings import ServiceSettings

    environment = {name: value for name, value in os.environ.items() if name not in OF_CLIENTS}
    return ServiceSettings.load(config=config, environment=environment, flags=flags)
