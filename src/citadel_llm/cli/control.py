"""`citadel start`, `stop`, `restart` and `reload`: through systemd, with what the services say meanwhile."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from citadel_llm.cli.common import (
    EXIT_FAILED,
    EXIT_NOT_PERMITTED,
    JsonOption,
    colour,
    complete_service,
    examples,
    fail,
    load_settings,
    pick_services,
    print_json,
)
from citadel_llm.cli.status import status_table

if TYPE_CHECKING:
    from citadel_llm.services.service_manager import ServiceStatus, Verb

app = typer.Typer()

_Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SERVICE|MODEL]...",
        help="`gateway`, or a model's name; all of them when absent.",
        autocompletion=complete_service,
    ),
]


@app.command(epilog=examples("citadel start", "citadel start gateway", "citadel start MODEL"))
def start(names: _Names = None, as_json: JsonOption = False) -> None:
    """Start services, and wait until they are ready.

    Without names, those start that run always; a model on demand is brought up by
    `citadel models load`.
    """
    _change("start", names or [], wanted="running", as_json=as_json)


@app.command(epilog=examples("citadel stop", "citadel stop MODEL"))
def stop(names: _Names = None, as_json: JsonOption = False) -> None:
    """Stop services; requests in flight are finished first."""
    _change("stop", names or [], wanted="stopped", as_json=as_json)


@app.command(epilog=examples("citadel restart", "citadel restart MODEL"))
def restart(names: _Names = None, as_json: JsonOption = False) -> None:
    """Restart services, and wait until they are ready.

    The gateway, by its name, is replaced without a gap: a new one takes over when it is ready; if it does not
    come up, the running one goes on.
    """
    _change("restart", names or [], wanted="running", as_json=as_json)


@app.command(epilog=examples("citadel reload", "citadel reload gateway"))
def reload(names: _Names = None, as_json: JsonOption = False) -> None:
    """Have services that run take over new settings, and interrupt nothing.

    Without names, all that run. A service whose new settings do not work goes on with the old ones.
    """
    _change("reload", names or [], wanted="running", as_json=as_json)


def _change(verb: "Verb", names: list[str], wanted: str, *, as_json: bool) -> None:
    from citadel_llm.services import service_manager as manager  # noqa: PLC0415 - loads the settings' library
    from citadel_llm.services.systemd import NotPermittedError, SystemdError  # noqa: PLC0415

    settings = load_settings()
    services = pick_services(settings, names) or manager.services_of(settings)
    progress = _Progress(silent=as_json)
    try:
        statuses, complaints = asyncio.run(
            manager.carry_out(verb, services, whole=not names, show=progress.show)
        )
    except NotPermittedError as error:
        progress.clear()
        fail(str(error), EXIT_NOT_PERMITTED)
    except SystemdError as error:
        progress.clear()
        fail(str(error))
    except KeyboardInterrupt:
        fail(f"\nnot waiting any longer: systemd goes on with the {verb}; see `citadel status`")
    progress.clear()
    if as_json:
        print_json([one.as_json() for one in statuses])
    else:
        typer.echo(status_table(statuses))
    _judge(statuses, complaints, wanted, named=bool(names))


def _judge(statuses: "list[ServiceStatus]", complaints: list[str], wanted: str, *, named: bool) -> None:
    def missed_it(one: "ServiceStatus") -> bool:
        if wanted == "stopped":
            return one.state not in {"stopped", "missing"}
        # Those that run on demand are started by their names only.
        return one.state != "running" if named else not one.content

    missed = [one for one in statuses if missed_it(one)]
    for one in missed:
        typer.echo(f"{one.name} is {one.state}: see `citadel logs {one.name}`", err=True)
    if missed or complaints:
        for complaint in complaints:
            typer.echo(complaint, err=True)
        raise typer.Exit(EXIT_FAILED)


class _Progress:
    """What services say while they move: on a terminal one line that changes, elsewhere a line a change."""

    def __init__(self, *, silent: bool) -> None:
        self._said: dict[str, str] = {}
        self._silent = silent
        self._on_terminal = not silent and sys.stdout.isatty()

    def show(self, statuses: "list[ServiceStatus]") -> None:
        """Show what is new."""
        if self._silent:
            return
        changing = [one for one in statuses if one.state in {"starting", "stopping"}]
        moving = {one.name: f"{one.state}: {one.says}".rstrip(": ") for one in changing}
        if self._on_terminal:
            text = "   ".join(f"{name} {colour(says, 'yellow')}" for name, says in moving.items())
            typer.echo(f"\r\x1b[2K{text}", nl=False)
        else:
            for name, says in moving.items():
                # Without the seconds, which change all the time.
                told = says.split(" (", 1)[0]
                if self._said.get(name) != told:
                    typer.echo(f"{name}: {told}")
                self._said[name] = told

    def clear(self) -> None:
        """Make room for what comes after."""
        if self._on_terminal:
            typer.echo("\r\x1b[2K", nl=False)
