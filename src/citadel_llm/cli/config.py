"""`citadel config`: check and show the settings."""

from enum import StrEnum
from typing import Annotated

import typer

from citadel_llm.cli.common import (
    EXIT_USAGE,
    DirectoryOption,
    JsonOption,
    examples,
    fail,
    load_settings,
    print_json,
)

app = typer.Typer(no_args_is_help=True, help="Check and show the settings.")


@app.command(epilog=examples("citadel config validate", "citadel config validate --directory ./new-config"))
def validate(directory: DirectoryOption = None) -> None:
    """Check the configuration: every problem on its own line, with where it is and what would do.

    Exit code 0 when it is right, 2 when it is not.
    """
    settings = load_settings(directory)
    typer.echo(f"the configuration is right: {settings.environment}, {len(settings.models)} model(s)")


@app.command(epilog=examples("citadel config show", "citadel config show --json | jq .gateway.port"))
def show(directory: DirectoryOption = None, as_json: JsonOption = False) -> None:
    """Show every setting as it applies, and where it was set."""
    from citadel_llm.config import ConfigError, read_layers, validate  # noqa: PLC0415 - takes a while to load
    from citadel_llm.config.show import lines  # noqa: PLC0415

    try:
        layers = read_layers(directory)
        settings = validate(layers)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
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
