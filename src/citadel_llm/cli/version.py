"""`citadel version`."""

import typer

from citadel_llm import __version__

app = typer.Typer()


@app.command()
def version() -> None:
    """Show the version of Citadel that is installed."""
    typer.echo(__version__)
