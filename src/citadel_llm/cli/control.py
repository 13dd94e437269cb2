"""`citadel start`, `stop` and `restart`: through systemd, with what the services say while they do it."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from citadel_llm.cli.common import (
    EXIT_FAILED,
    EXIT_NOT_PERMITTED,
    colour,
    examples,
    fail,
    load_settings,
    pick_services,
)
from citadel_llm.cli.status import status_table

if TYPE_CHECKING:
    from citadel_llm.services.service_manager import ServiceStatus, Verb

app = typer.Typer()

_Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SERVICE|MODEL]...", help="`gateway`, or a model's name; all of them when absent."
    ),
]


@app.command(epilog=examples("citadel start", "citadel start gateway", "citadel start MODEL"))
def start(names: _Names = None) -> None:
    """Start services, and wait until they are ready.

    Without names, those start that run always; a model that is loaded on demand is started by its name.
    """
    _change("start", names or [], wanted="running")


@app.command(epilog=examples("citadel stop", "citadel stop MODEL"))
def stop(names: _Names = None) -> None:
    """Stop services; requests in flight are finished first."""
    _change("stop", names or [], wanted="stopped")


@app.command(epilog=examples("citadel restart", "citadel restart MODEL"))
def restart(names: _Names = None) -> None:
    """Restart services, and wait until they are ready.

    The gateway, by its name, is replaced without a gap: a new one takes over when it is ready; if it does not
    come up, the running one goes on.
    """
    _change("restart", names or [], wanted="running")


def _change(verb: "Verb", names: list[str], wanted: str) -> None:
    from citadel_llm.services import service_manager as manager  # noqa: PLC0415 - loads the settings' library

    settings = load_settings()
    services = pick_services(settings, names) or manager.services_of(settings)
    units = [service.unit for service in services] if names else [manager.TARGET]
    verbs: dict[str, Verb] = {}
    statuses: list[ServiceStatus] = []
    before: dict[str, int | None] = {}
    progress = _Progress()
    try:
        if verb == "restart" and names:
            running = list(zip(services, manager.read_statuses(services), strict=True))
            verbs = {one.unit: "reload" for one, status in running if manager.replaces(one, status)}
            before = {status.unit: status.pid for one, status in running if one.unit in verbs}
            if manager.GATEWAY in verbs:
                # systemd reloads its further workers with it, after it.
                units = [unit for unit in units if unit == manager.GATEWAY or unit not in verbs]
        if verb != "stop":
            # Who starts by hand has looked at the cause; systemd would refuse after too many failures.
            for failed in (one for one in manager.read_statuses(services) if one.state == "failed"):
                manager.change("reset-failed", failed.unit).result()
        changes = [manager.change(verbs.get(unit, verb), unit) for unit in units]
        for statuses in manager.watch(services, changes):
            progress.show(statuses)
        complaints = [complaint for change in changes if (complaint := change.result())]
    except manager.NotPermittedError as error:
        fail(str(error), EXIT_NOT_PERMITTED)
    except manager.ManagerError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail(f"\nnot waiting any longer: systemd goes on with the {verb}; see `citadel status`")
    finally:
        progress.clear()
    complaints += [
        f"{one.name} goes on as it was: see `citadel logs {one.name}`"
        for one in statuses
        if not complaints and one.unit in before and one.pid == before[one.unit]
    ]
    _report(statuses, complaints, wanted, named=bool(names))


def _report(statuses: "list[ServiceStatus]", complaints: list[str], wanted: str, *, named: bool) -> None:
    typer.echo(status_table(statuses))

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

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._on_terminal = sys.stdout.isatty()

    def show(self, statuses: "list[ServiceStatus]") -> None:
        """Show what is new."""
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
