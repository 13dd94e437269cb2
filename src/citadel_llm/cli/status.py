"""`citadel status`."""

from typing import TYPE_CHECKING

import typer

from citadel_llm.cli.common import (
    EXIT_FAILED,
    JsonOption,
    colour,
    duration,
    examples,
    fail,
    load_settings,
    print_json,
    size,
    table,
)
from citadel_llm.health_checks.state_file import seen

if TYPE_CHECKING:
    from citadel_llm.services.service_manager import ServiceStatus

app = typer.Typer()

STATE_COLOURS = {"running": "green", "starting": "yellow", "stopping": "yellow"}


@app.command(
    epilog=examples(
        "citadel status",
        """citadel status --json | jq -r '.[] | select(.state != "running") | .name'""",
    )
)
def status(as_json: JsonOption = False) -> None:
    """Show how each service is (state, since when, memory, what it says of itself), and what is not well.

    Exit code 0 when all run that should, 1 when one does not.
    """
    from citadel_llm.services.service_manager import read_statuses, services_of  # noqa: PLC0415
    from citadel_llm.services.systemd import SystemdError  # noqa: PLC0415

    settings = load_settings()
    try:
        statuses = read_statuses(services_of(settings))
    except SystemdError as error:
        fail(str(error))
    checks = seen(settings.run_dir)
    if as_json:
        print_json([one.as_json() | ({"checks": checks} if one.name == "health" else {}) for one in statuses])
    else:
        typer.echo(status_table(statuses))
        for each in checks:
            if each["status"] in {"failed", "warning"}:
                remedy = f" ({each['remedy']})" if each["remedy"] else ""
                typer.echo(f"{each['check']}: {each['status']}: {each['detail']}{remedy}")
    if not all(one.content for one in statuses):
        raise typer.Exit(EXIT_FAILED)


def status_table(statuses: "list[ServiceStatus]") -> str:
    """The services' states as a table."""
    rows = [
        [
            colour(one.name, "bold"),
            colour(one.state, STATE_COLOURS.get(one.state, "red")),
            duration(one.seconds),
            size(one.memory_bytes),
            str(one.restarts),
            one.says,
        ]
        for one in statuses
    ]
    return table(["SERVICE", "STATE", "FOR", "MEMORY", "RESTARTS", "SAYS"], rows)
