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
  citadel run gateway --worker 2
  citadel run engine ENGINE
  citadel run manager

Ctrl-C lets it finish what is in flight; Ctrl-C again does not.
Exit codes: 0 stopped as asked, 1 it could not go on, 2 its settings cannot work, 3 it did not become ready.
""",
)


@app.command()
def gateway(
    directory: DirectoryOption = None,
    hand_over: Annotated[
        bool,
        typer.Option(
            "--hand-over", help="Take over from the gateway that runs, in the background, without a gap."
        ),
    ] = False,
    worker: Annotated[
        int, typer.Option("--worker", min=1, metavar="N", help="Which of its workers (gateway.workers).")
    ] = 1,
) -> None:
    """Run the gateway: the OpenAI-compatible API."""

    def run(follows: int | None = None) -> int:
        from citadel_llm.gateway.service import GatewayService  # noqa: PLC0415 - the web framework is heavy
        from citadel_llm.services.base_service import run_service  # noqa: PLC0415

        return run_service(functools.partial(GatewayService, follows=follows, worker=worker), directory)

    if hand_over:
        from citadel_llm.services.hand_over import start_successor  # noqa: PLC0415

        raise typer.Exit(start_successor(run))
    raise typer.Exit(run())


@app.command()
def engine(
    model: Annotated[
        str, typer.Argument(metavar="ENGINE", help="The model's name; `name.2` is its second engine.")
    ],
    directory: DirectoryOption = None,
) -> None:
    """Run an engine of a model: vLLM, supervised."""
    from citadel_llm.services.base_service import run_service  # noqa: PLC0415
    from citadel_llm.services.vllm_service import VllmService  # noqa: PLC0415

    raise typer.Exit(run_service(functools.partial(VllmService, model), directory))


@app.command()
def manager(directory: DirectoryOption = None) -> None:
    """Run the manager: it brings up models on demand, and has them make room for each other."""
    from citadel_llm.residency.service import ManagerService  # noqa: PLC0415
    from citadel_llm.services.base_service import run_service  # noqa: PLC0415

    raise typer.Exit(run_service(ManagerService, directory))


@app.command()
def health(directory: DirectoryOption = None) -> None:
    """Run the health checks: look at everything, tell how it is, recover what may be recovered."""
    from citadel_llm.health_checks.service import HealthService  # noqa: PLC0415
    from citadel_llm.services.base_service import run_service  # noqa: PLC0415

    raise typer.Exit(run_service(HealthService, directory))
