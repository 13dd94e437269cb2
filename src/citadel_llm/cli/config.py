"""`citadel config`: check and show the settings."""

import datetime
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from citadel_llm.cli.common import (
    EXIT_FAILED,
    EXIT_NOT_PERMITTED,
    EXIT_USAGE,
    DirectoryOption,
    JsonOption,
    colour,
    examples,
    fail,
    pick_services,
    print_json,
    table,
)

if TYPE_CHECKING:
    from citadel_llm.config import Layers, Settings
    from citadel_llm.services.drift import Difference

_Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SERVICE|MODEL]...", help="Those whose settings are compared; all when absent."),
]

app = typer.Typer(no_args_is_help=True, help="Check and show the settings.")


@app.command(epilog=examples("citadel config validate", "citadel config validate --directory ./new-config"))
def validate(directory: DirectoryOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration: every problem on its own line, with where it is and what would do.

    A feature flag whose last day has been is a problem, too: here, and so at a deploy, but never to a service
    that starts. Exit code 0 when it is right, 2 when it is not. With --json, the services that it asks for,
    each with the revision of the settings that it reads.
    """
    from citadel_llm.config import ConfigError, expired  # noqa: PLC0415 - takes a while to load

    layers, settings = _read(directory)
    late = expired(settings.features, datetime.datetime.now(datetime.UTC).date(), layers)
    if late:
        fail(str(ConfigError(late)), EXIT_USAGE)
    if as_json:
        from citadel_llm.services.service_settings import described  # noqa: PLC0415

        print_json({"environment": settings.environment, "services": described(settings)})
        return
    typer.echo(f"the configuration is right: {settings.environment}, {len(settings.models)} model(s)")


@app.command(epilog=examples("citadel config show", "citadel config show --json | jq .gateway.port"))
def show(directory: DirectoryOption = None, as_json: JsonOption = False) -> None:
    """Show every setting as it applies, and where it was set."""
    from citadel_llm.config.show import lines  # noqa: PLC0415 - takes a while to load

    layers, settings = _read(directory)
    if as_json:
        print_json(settings.model_dump(mode="json"))
        return
    for line in lines(settings, layers):
        typer.echo(line)


@app.command(
    epilog=examples("citadel config diff", "citadel config diff gateway", "citadel config diff --json | jq .")
)
def diff(names: _Names = None, directory: DirectoryOption = None, as_json: JsonOption = False) -> None:
    """Compare what services run with and what is on disk: what differs, where it was set, and what ends it.

    Of each service that runs, the settings that it reads; an environment variable over one of them is a
    difference, too. Exit code 0 when there is none, 1 when there is one.
    """
    from citadel_llm.config.layers import DIRECTORY_VARIABLE  # noqa: PLC0415
    from citadel_llm.services.drift import differences  # noqa: PLC0415
    from citadel_llm.services.running import running_in, service_of  # noqa: PLC0415

    # The variables of whoever asks are not the services'.
    alone = {DIRECTORY_VARIABLE: os.environ.get(DIRECTORY_VARIABLE, "")}
    layers, settings = _read(directory, alone)
    wanted = {service_of(each.unit) for each in pick_services(settings, names or [])}
    try:
        running = [each for each in running_in(settings.run_dir) if not names or each.service in wanted]
    except PermissionError as error:
        fail(f"not permitted: {error.filename} is for root and the operator's group", EXIT_NOT_PERMITTED)
    found = [one for each in running for one in differences(each, settings, layers)]
    if as_json:
        print_json([one.as_json() for one in found])
    elif not running:
        typer.echo("no service runs that has written down what it runs with")
    elif not found:
        services = ", ".join(each.service.partition("@")[2] or each.service for each in running)
        typer.echo(f"no difference: {services} run with what is on disk")
    else:
        _show_differences(found)
    for each in running:
        if each.reload_failed and not as_json:
            typer.echo(f"{each.service} goes on as it was, for its last reload failed: {each.reload_failed}")
    if found:
        raise typer.Exit(EXIT_FAILED)


def _show_differences(found: "list[Difference]") -> None:
    from citadel_llm.services.drift import DEPLOY  # noqa: PLC0415

    rows = [
        [colour(one.service, "bold"), one.setting, one.running, one.on_disk, one.variable or one.where]
        for one in found
    ]
    typer.echo(table(["SERVICE", "SETTING", "RUNNING", "ON DISK", "SET IN"], rows))
    typer.echo("\nWhat ends it:")
    for command in dict.fromkeys(one.ended_by for one in found):
        settings = dict.fromkeys(one.setting for one in found if one.ended_by == command)
        typer.echo(f"  {colour(command, 'bold')}: {', '.join(settings)}")
    typer.echo(f"\nThe next deploy puts back what was changed on this host by hand ({DEPLOY}).")


class _Format(StrEnum):
    json = "json"
    inventory = "inventory"
    markdown = "markdown"


@app.command(
    epilog=examples(
        "citadel config schema > layer.schema.json",
        "citadel config schema --format inventory > inventory.schema.json",
        "citadel config schema --format markdown",
    )
)
def schema(
    form: Annotated[
        _Format,
        typer.Option(
            "--format", help="JSON Schema for editors, of the layers or of an inventory; Markdown for people."
        ),
    ] = (_Format.json),
) -> None:
    """Describe all settings: their types, defaults and meanings."""
    from citadel_llm.config import json_schema  # noqa: PLC0415 - takes a while to load
    from citadel_llm.config.reference import markdown  # noqa: PLC0415

    if form is _Format.markdown:
        typer.echo(markdown())
    else:
        print_json(json_schema.of_layers() if form is _Format.json else json_schema.of_inventory())


def _read(directory: Path | None, environ: dict[str, str] | None = None) -> tuple["Layers", "Settings"]:
    from citadel_llm.config import ConfigError, read_layers, validate  # noqa: PLC0415 - takes a while to load

    try:
        layers = read_layers(directory, environ)
        return layers, validate(layers)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
