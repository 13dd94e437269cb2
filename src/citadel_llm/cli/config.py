"""`citadel config`: check and show the settings."""

import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from citadel_llm.cli.common import (
    EXIT_USAGE,
    DirectoryOption,
    JsonOption,
    examples,
    fail,
    print_json,
)

if TYPE_CHECKING:
    from citadel_llm.config import Layers, Settings

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


class _Format(StrEnum):
    json = "json"
    markdown = "markdown"


@app.command(
    epilog=examples("citadel config schema > citadel.schema.json", "citadel config schema --format markdown")
)
def schema(
    form: Annotated[
        _Format, typer.Option("--format", help="JSON Schema for editors, or Markdown for people.")
    ] = (_Format.json),
) -> None:
    """Describe all settings: their types, defaults and meanings."""
    from citadel_llm.config import Settings  # noqa: PLC0415
    from citadel_llm.config.reference import markdown  # noqa: PLC0415

    if form is _Format.markdown:
        typer.echo(markdown())
    else:
        print_json(Settings.model_json_schema())


def _read(directory: Path | None) -> tuple["Layers", "Settings"]:
    from citadel_llm.config import ConfigError, read_layers, validate  # noqa: PLC0415 - takes a while to load

    try:
        layers = read_layers(directory)
        return layers, validate(layers)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
