"""`citadel run`: be a service. This is what the systemd units start."""

import functools
from typing import Annotated

import typer

from citadel_llm.cli.common import DirectoryOption

app = typer.Typer(
    no_args_is_help=True,
    help="""Run a service in the foreground: what the systemd units start.

\b
  citadel run gateway
  citadel run engine MODEL

Ctrl-C lets it finish what is in flight; Ctrl-C again does not.
Exit codes: 0 stopped as asked, 1 it could not go on, 2 its settings cannot work, 3 it did not become ready.
""",
)


@app.command()
def gateway(directory: DirectoryOption = None) -> None:
    """Run the gateway: the OpenAI-compatible API."""
    from citadel_llm.gateway.service import GatewayService  # noqa: PLC0415 - the web framework is heavy
    from citadel_llm.services.base_service import run_service  # noqa: PLC0415

    raise typer.Exit(run_service(GatewayService, directory))


@app.command()
def engine(
    model: Annotated[str, typer.Argument(help="The model's name in the catalogue.")],
    directory: DirectoryOption = None,
) -> None:
    """Run the engine of a model: vLLM, supervised."""
    from citadel_llm.services.base_service import run_service  # noqa: PLC0415
    from citadel_llm.services.vllm_service import VllmService  # noqa: PLC0415

    raise typer.Exit(run_service(functools.partial(VllmService, model), directory))
