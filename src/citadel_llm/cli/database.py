"""`citadel database`: carry what the gateway keeps from one database into another.

Exit codes: 0 done, 1 it could not be done, 2 wrong usage or configuration, 4 the database is not ours to use.
"""

from pathlib import Path
from typing import Annotated

import typer

from citadel_llm.cli.common import (
    EXIT_NOT_PERMITTED,
    EXIT_USAGE,
    JsonOption,
    examples,
    fail,
    load_settings,
    print_json,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Carry keys, usage and the audit log from one database into another.",
)


@app.callback()
def _group() -> None:
    """Keep `copy` a command of its own while it is the only one."""


@app.command(
    epilog=examples(
        "citadel database copy --to 'postgresql+psycopg://citadel-gateway@/citadel?host=/run/postgresql'",
        "citadel database copy --from sqlite:////var/lib/citadel/gateway/citadel.db",
    )
)
def copy(
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Copy out of this one, not out of the configured one."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--to", metavar="URL", help="Copy into this one, not into the configured one."),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(help="The file with the password for the URL that is given.", dir_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy everything into a database that holds nothing yet: all of it, or nothing.

    Give one of --from and --to; the other is the database that the gateway is configured to use.
    """
    from citadel_llm.cli.stored import as_the_gateway  # noqa: PLC0415 - loads the store, which takes a while
    from citadel_llm.store import Database, StoreError, StoreUnavailableError  # noqa: PLC0415
    from citadel_llm.store.copy import copy_all  # noqa: PLC0415

    given = source or target
    if given is None or (source and target):
        fail("give one of --from and --to: the other is the configured database", EXIT_USAGE)
    gateway = load_settings().gateway
    if given == gateway.database:
        fail("that is the configured database itself: give the other one", EXIT_USAGE)
    try:
        configured = Database(gateway.database_url())
        other = Database(_with_password(given, password_file))
    except OSError as error:
        fail(f"a password cannot be read: {error}\n{as_the_gateway()}", EXIT_NOT_PERMITTED)
    try:
        copied = copy_all(other, configured) if source else copy_all(configured, other)
    except StoreUnavailableError as error:
        fail(f"{error}\n{as_the_gateway()}", EXIT_NOT_PERMITTED)
    except StoreError as error:
        fail(str(error))
    finally:
        configured.close()
        other.close()
    if as_json:
        print_json(copied)
    else:
        typer.echo("copied: " + ", ".join(f"{count} {name}" for name, count in copied.items()))


def _with_password(url: str, file: Path | None) -> str:
    """The URL for the driver; the settings' own class knows how a password is put in."""
    from pydantic import ValidationError  # noqa: PLC0415 - slow to load

    from citadel_llm.config import Gateway  # noqa: PLC0415
    from citadel_llm.config.parts import SecretReference  # noqa: PLC0415

    reference = SecretReference(file=file) if file else None
    try:
        return Gateway(database=url, database_password=reference).database_url()
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        fail(f"{url.partition('://')[0]}://…: {said}", EXIT_USAGE)
