"""`citadel keys`: make, list, change, rotate and revoke the API keys of the gateway.

A key is shown once, when it is made: on the terminal, or in a file that only its owner may read. Exit codes:
0 done, 1 it could not be done, 2 wrong usage or configuration, 3 a key (or the file for it) exists already,
4 the database is not ours to use.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from citadel_llm.cli import keys_values as values
from citadel_llm.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    JsonOption,
    examples,
    fail,
    print_json,
)
from citadel_llm.cli.journal import write_to_journal
from citadel_llm.cli.keys_file import EXIT_EXISTS, into_new_file
from citadel_llm.cli.keys_view import as_json, details_of, list_of, moment
from citadel_llm.cli.stored import configured_database
from citadel_llm.config import Settings
from citadel_llm.store import InvalidFieldError, KeyRecord, KeyStore, NameTakenError, RefusedError
from citadel_llm.store.record import ANY_MODEL, LIMITS

app = typer.Typer(
    no_args_is_help=True,
    help="""Make, list, change, rotate and revoke the API keys.

\b
  citadel keys create --name laptop --owner ada --team physics --expires 90d
  citadel keys list
  citadel keys change ID --tokens-per-day 2M
  citadel keys rotate ID --grace 24h
  citadel keys revoke ID

The keys belong to the gateway's user: with sudo -u citadel-gateway before the command.
""",
)

Id = Annotated[str, typer.Argument(metavar="ID", help="As `citadel keys list` shows it.")]
Owner = Annotated[str | None, typer.Option(help="Whom to ask about it: a person, a team.")]
Team = Annotated[str | None, typer.Option(help="Whom its use is accounted to.")]
Expires = Annotated[
    str | None, typer.Option(help="When it ends: 90d, 12h, 2w from now, a day such as 2030-01-31, or never.")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model that it may use; give it again for more. all: every model."),
]
RequestsPerMinute = Annotated[str | None, typer.Option(metavar="N", help="Such as 60; none: the site's own.")]
TokensPerMinute = Annotated[str | None, typer.Option(metavar="N", help="Such as 100k; none: the site's own.")]
ConcurrentRequests = Annotated[
    str | None, typer.Option(metavar="N", help="Requests at once; none: the site's own.")
]
TokensPerDay = Annotated[str | None, typer.Option(metavar="N", help="Such as 2M; none: the site's own.")]
TokensPerMonth = Annotated[str | None, typer.Option(metavar="N", help="Such as 50M; none: the site's own.")]
Priority = Annotated[
    str | None, typer.Option(help="high, normal or low: who goes first when a model is busy.")
]
WriteTo = Annotated[
    Path | None, typer.Option(help="Write the key to this new file (mode 0600), not to the terminal.")
]


@app.command(
    epilog=examples(
        "citadel keys create --name laptop --owner ada --team physics",
        "citadel keys create --name ci --expires 90d --model smollm2-135m-instruct --tokens-per-day 2M",
        "citadel keys create --name ops --scope admin --if-absent --write-to ops.key",
    )
)
def create(
    *,
    name: Annotated[str, typer.Option(help="What to call the key; unique among live keys.")],
    owner: Owner = None,
    team: Team = None,
    scope: Annotated[
        str, typer.Option(help="api: call models; admin: the admin API; peer: another node's gateway.")
    ] = "api",
    expires: Expires = None,
    model: Models = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    concurrent_requests: ConcurrentRequests = None,
    tokens_per_day: TokensPerDay = None,
    tokens_per_month: TokensPerMonth = None,
    priority: Priority = None,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Change nothing when a live key has this name.")
    ] = False,
    write_to: WriteTo = None,
    as_json_: JsonOption = False,
) -> None:
    """Make a key and show it, once."""
    given = dict(locals())
    with _store() as (store, settings):
        fields = {**_fields(given), "scope": scope}
        _say_unknown_models(settings, fields)
        _refuse_no_models(fields, scope)
        if if_absent and (known := store.find_live(name)):
            typer.echo(f"a key named {name!r} exists already (id {known.id}): nothing to do", err=True)
            if write_to and not write_to.exists():
                typer.echo(
                    f"{write_to} is not there; to make the key anew, revoke {known.id} first", err=True
                )
            if as_json_:
                print_json(as_json(known))
            return

        def undo(record: KeyRecord) -> str:
            store.revoke(record.id)
            return "no key was made"

        _hand_out(
            lambda: store.create(name, **cast("Any", fields)), undo, write_to=write_to, in_json=as_json_
        )


@app.command("list", epilog=examples("citadel keys list", "citadel keys list --json | jq -r '.[].id'"))
def list_keys(as_json_: JsonOption = False) -> None:
    """List all keys, the revoked ones too. The keys themselves are not stored and cannot be shown."""
    with _store() as (store, _):
        records = store.list()
    if as_json_:
        print_json([as_json(record) for record in records])
    else:
        typer.echo(list_of(records) if records else "no keys yet: citadel keys create --name NAME")


@app.command(epilog=examples("citadel keys show 5d1c9a0b7e42"))
def show(key_id: Id, as_json_: JsonOption = False) -> None:
    """Show all that is known of one key."""
    with _store() as (store, _):
        record = store.get(key_id)
    if as_json_:
        print_json(as_json(record))
    else:
        typer.echo(details_of(record))


@app.command(
    epilog=examples(
        "citadel keys change 5d1c9a0b7e42 --tokens-per-day 2M --expires never",
        "citadel keys change 5d1c9a0b7e42 --model all --requests-per-minute none",
    )
)
def change(
    key_id: Id,
    *,
    name: Annotated[str | None, typer.Option(help="A new name for it.")] = None,
    owner: Owner = None,
    team: Team = None,
    expires: Expires = None,
    model: Models = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    concurrent_requests: ConcurrentRequests = None,
    tokens_per_day: TokensPerDay = None,
    tokens_per_month: TokensPerMonth = None,
    priority: Priority = None,
    as_json_: JsonOption = False,
) -> None:
    """Change what a key may do. What is not given stays; gateways follow within seconds."""
    given = dict(locals())
    with _store() as (store, settings):
        fields = _fields(given) | ({} if name is None else {"name": name})
        if not fields:
            fail("nothing to change: give at least one option (citadel keys change --help)", EXIT_USAGE)
        _say_unknown_models(settings, fields)
        if fields.get("models") == ():
            _refuse_no_models(fields, store.get(key_id).scope)
        record = store.change(key_id, **cast("Any", fields))
    if as_json_:
        print_json(as_json(record))
    else:
        typer.echo(details_of(record))


@app.command(
    epilog=examples(
        "citadel keys rotate 5d1c9a0b7e42 --grace 24h",
        "citadel keys rotate 5d1c9a0b7e42 --write-to new.key",
    )
)
def rotate(
    key_id: Id,
    grace: Annotated[
        str, typer.Option(help="For how long the key of now goes on working: 0, 30m, 24h, 7d (at most 30d).")
    ] = "0",
    write_to: WriteTo = None,
    as_json_: JsonOption = False,
) -> None:
    """Give a key a new secret, shown once; all else stays. Without --grace the old one ends at once."""
    with _store() as (store, _):
        lasting = values.duration("grace", grace)
        again = "the key was replaced and the new one is lost: rotate it again"
        record = _hand_out(
            lambda: store.rotate(key_id, lasting), lambda _: again, write_to=write_to, in_json=as_json_
        )
        ends = moment(record.previous_expires_at)
        typer.echo(f"the key that it replaces {'works until ' + ends if ends else 'has ended'}", err=True)


@app.command(epilog=examples("citadel keys revoke 5d1c9a0b7e42"))
def revoke(key_id: Id, as_json_: JsonOption = False) -> None:
    """Revoke a key for good. Every gateway refuses it within seconds."""
    with _store() as (store, _):
        record = store.revoke(key_id)
    if as_json_:
        print_json(as_json(record))
    else:
        typer.echo(f"key {record.name!r} (id {record.id}) is revoked")


@contextmanager
def _store() -> Iterator[tuple[KeyStore, Settings]]:
    """The store that the settings name; whatever it raises becomes a message and an exit code."""
    with configured_database() as (database, settings):
        try:
            yield KeyStore(database, on_act=write_to_journal), settings
        except InvalidFieldError as error:
            fail(f"{_OPTIONS.get(error.field, error.field)} {error.requirement}", EXIT_USAGE)
        except NameTakenError as error:
            fail(str(error), EXIT_EXISTS)
        except RefusedError as error:
            fail(str(error), EXIT_FAILED)


def _hand_out(
    make: Callable[[], tuple[KeyRecord, str]],
    undo: Callable[[KeyRecord], str],
    *,
    write_to: Path | None,
    in_json: bool,
) -> KeyRecord:
    """Make a key and show it, this once, or write it to a new file (`into_new_file`)."""
    if write_to is None:
        record, plaintext = make()
        if in_json:
            print_json({**as_json(record), "key": plaintext})
        else:
            typer.echo(plaintext)
        where = ", shown above this once: keep it"
    else:
        record = into_new_file(write_to, make, undo)
        if in_json:
            print_json(as_json(record))
        where = f" in {write_to}"
    typer.echo(f"key {record.name!r} (id {record.id}){where}", err=True)
    return record


# What a field is called on the command line.
_OPTIONS = {
    "expires_at": "--expires",
    "models": "--model",
    **{name: f"--{name}" for name in ("name", "owner", "team", "priority", "scope", "grace")},
    **{name: f"--{name.replace('_', '-')}" for name in LIMITS},
}


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """The fields that the options name, as `KeyRecord` has them."""
    fields = {name: given[name] for name in ("owner", "team", "priority") if given[name] is not None}
    if given["expires"] is not None:
        fields["expires_at"] = values.expiry(given["expires"])
    if given["model"]:
        fields["models"] = values.models(given["model"])
    for name in LIMITS:
        if given[name] is not None:
            fields[name] = values.limit(name, given[name])
    return fields


def _refuse_no_models(fields: dict[str, Any], scope: str) -> None:
    if fields.get("models") == () and scope != "admin":
        raise InvalidFieldError("models", "can be none for an admin's key only; revoke a key to end it")


def _say_unknown_models(settings: Settings, fields: dict[str, Any]) -> None:
    known = {model.name for model in settings.models} | set(settings.gateway.remote_models) | {ANY_MODEL}
    for name in fields.get("models", ()):
        if name not in known:
            typer.echo(f"note: this host's configuration has no model {name!r}", err=True)
