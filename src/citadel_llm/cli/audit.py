"""`citadel audit`: who made, changed, rotated and revoked keys, and who tried to.

Exit codes: 0 done, 2 wrong usage or configuration, 4 the database is not ours to use.
"""

from typing import Annotated, Any

import typer

from citadel_llm.cli.common import JsonOption, colour, examples, print_json, table
from citadel_llm.cli.stored import configured_database
from citadel_llm.store import AuditEntry, AuditLog

app = typer.Typer()


@app.command(
    epilog=examples(
        "citadel audit",
        "citadel audit --key 5d1c9a0b7e42",
        "citadel audit --actor unix:ada --limit 200 --json",
    )
)
def audit(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many entries at most.")] = 50,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only what was done to this key.")] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only what this one did: unix:NAME, or key:ID of an admin's key.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the audit log of the keys, the newest entries first: who did what, when, and from where."""
    with configured_database() as (database, _):
        entries = AuditLog(database).list(limit=limit, actor=actor, target=key)
    if as_json:
        print_json([entry.as_json() for entry in entries])
    elif entries:
        headings = ["WHEN", "WHO", "FROM", "WHAT", "KEY", "OUTCOME", "DETAILS"]
        typer.echo(table(headings, [_row(entry) for entry in entries]))
    else:
        typer.echo("no entries")


def _row(entry: AuditEntry) -> list[str]:
    outcome = colour(entry.outcome, "green" if entry.outcome == "done" else "red")
    between = " → " if entry.action == "key.change" else " "
    details = ", ".join(f"{name}: {_words(value, between)}" for name, value in entry.details.items())
    when = f"{entry.at:%Y-%m-%d %H:%M:%S} UTC"
    return [when, entry.actor, entry.address, entry.action, entry.target, outcome, details]


def _words(value: Any, between: str = " ") -> str:
    if isinstance(value, list):
        return between.join(_words(each) for each in value) or "-"
    return "-" if value in (None, "") else str(value)
