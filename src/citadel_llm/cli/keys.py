"""`citadel keys`: make, list and revoke the API keys of the gateway.

A key is shown once, when it is made: on the terminal, or in a file that only its owner may read. Exit codes:
0 done, 1 it could not be done, 2 wrong usage or configuration, 3 a key (or the file for it) exists already,
4 the database is not ours to use.
"""

import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from citadel_llm.cli.common import (
    EXIT_FAILED,
    EXIT_NOT_PERMITTED,
    EXIT_USAGE,
    JsonOption,
    colour,
    examples,
    fail,
    load_settings,
    print_json,
    table,
)
from citadel_llm.store import (
    InvalidNameError,
    KeyRecord,
    KeyStore,
    NameTakenError,
    StoreError,
    StoreUnavailableError,
)

EXIT_EXISTS = 3

app = typer.Typer(
    no_args_is_help=True,
    help="""Make, list and revoke the API keys.

\b
  citadel keys create --name laptop --owner ada
  citadel keys list
  citadel keys revoke ID

The keys belong to the gateway's user: with sudo -u citadel-gateway before the command.
""",
)


@app.command(
    epilog=examples(
        "citadel keys create --name laptop --owner ada",
        "citadel keys create --name ci --if-absent --write-to ci.key",
    )
)
def create(
    name: Annotated[str, typer.Option(help="What to call the key; unique among live keys.")],
    owner: Annotated[str, typer.Option(help="Whom to ask about it: a person, a team.")] = "",
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Change nothing when a live key has this name.")
    ] = False,
    write_to: Annotated[
        Path | None, typer.Option(help="Write the key to this new file (mode 0600), not to the terminal.")
    ] = None,
) -> None:
    """Make a key and show it, once."""
    with _store() as store:
        if if_absent and (known := store.find_live(name)):
            typer.echo(f"a key named {name!r} exists already (id {known.id}): nothing to do", err=True)
            if write_to and not write_to.exists():
                typer.echo(
                    f"{write_to} is not there; to make the key anew, revoke {known.id} first", err=True
                )
            return
        if write_to is None:
            record, plaintext = store.create(name, owner)
            typer.echo(plaintext)
        else:
            record = _create_in_file(store, name, owner, write_to)
        where = f" in {write_to}" if write_to else ", shown above this once: keep it"
        typer.echo(f"key {record.name!r} (id {record.id}){where}", err=True)


@app.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """List all keys, the revoked ones too. The keys themselves are not stored and cannot be shown."""
    with _store() as store:
        records = store.list()
    if as_json:
        print_json([_as_json(record) for record in records])
    else:
        typer.echo(_table(records) if records else "no keys yet: citadel keys create --name NAME")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `citadel keys list` shows it.")],
) -> None:
    """Revoke a key for good. The gateway refuses it within seconds."""
    with _store() as store:
        record = store.revoke(key_id)
    typer.echo(f"key {record.name!r} (id {record.id}) is revoked")


@contextmanager
def _store() -> Iterator[KeyStore]:
    """The store that the settings name; whatever it raises becomes a message and an exit code."""
    settings = load_settings()
    try:
        store = KeyStore(settings.gateway.database_url())
    except OSError as error:
        fail(f"the database's password cannot be read: {error}\n{_as_the_gateway()}", EXIT_NOT_PERMITTED)
    try:
        yield store
    except InvalidNameError as error:
        fail(str(error), EXIT_USAGE)
    except NameTakenError as error:
        fail(str(error), EXIT_EXISTS)
    except StoreUnavailableError as error:
        fail(f"{error}\n{_as_the_gateway()}", EXIT_NOT_PERMITTED)
    except StoreError as error:
        fail(str(error), EXIT_FAILED)
    finally:
        store.close()


def _as_the_gateway() -> str:
    command = shlex.join(["citadel", *sys.argv[1:]])
    return f"The keys belong to the gateway's user. Try: sudo -u citadel-gateway {command}"


def _create_in_file(store: KeyStore, name: str, owner: str, path: Path) -> KeyRecord:
    """Make a key and write it to a new file, whole or not at all.

    The file is written beside its place and linked into it, which fails if something stands there. A key
    that could not be kept is revoked again, for nobody could ever use it.
    """
    if os.path.lexists(path):
        fail(f"{path} exists already: name another file, or move it away", EXIT_EXISTS)
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # O_EXCL, 0600
    except OSError as error:
        fail(f"{path.parent}: cannot write there: {error.strerror}", EXIT_NOT_PERMITTED)
    try:
        with os.fdopen(descriptor, "w") as file:
            record, plaintext = store.create(name, owner)
            try:
                file.write(f"{plaintext}\n")
                file.flush()
                os.fsync(file.fileno())
                os.link(draft, path, follow_symlinks=False)
            except OSError as error:
                store.revoke(record.id)
                fail(f"{path}: cannot write: {error.strerror}; no key was made", EXIT_FAILED)
    finally:
        with suppress(FileNotFoundError):
            Path(draft).unlink()
    return record


def _as_json(record: KeyRecord) -> dict[str, str | None]:
    return {
        "id": record.id,
        "name": record.name,
        "owner": record.owner,
        "prefix": record.prefix,
        "created_at": record.created_at.isoformat(timespec="seconds"),
        "revoked_at": record.revoked_at.isoformat(timespec="seconds") if record.revoked_at else None,
    }


def _table(records: tuple[KeyRecord, ...]) -> str:
    rows = []
    for record in records:
        live = record.revoked_at is None
        state = colour("live", "green") if live else colour(f"revoked {_moment(record.revoked_at)}", "dim")
        begins, made = f"{record.prefix}…", _moment(record.created_at)
        rows.append([record.id, record.name, record.owner, begins, made, state])
    return table(["ID", "NAME", "OWNER", "BEGINS", "MADE", "STATE"], rows)


def _moment(value: datetime | None) -> str:
    return f"{value:%Y-%m-%d %H:%M} UTC" if value else ""
