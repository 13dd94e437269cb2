"""`citadel models`: which models are awake, and bringing them up and sending them away by hand."""

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from citadel_llm.cli.common import (
    EXIT_NOT_PERMITTED,
    EXIT_USAGE,
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

if TYPE_CHECKING:
    from citadel_llm.config import Settings
    from citadel_llm.residency.messages import Told

app = typer.Typer(
    invoke_without_command=True,
    help="""Show where each model is, and move those that run on demand.

A model on demand is brought up by the first request for it, and makes room when another is wanted more. Here
it is done by hand: `load` brings it up now, `pin` keeps it, `unload` stops it.
""",
)

_Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model that runs on demand, or its alias.")]
_Action = Literal["load", "unload", "pin", "unpin"]

_COLOURS = {"awake": "green", "running": "green", "waking": "yellow", "leaving": "yellow", "failed": "red"}


@app.callback(epilog=examples("citadel models", "citadel models load MODEL", "citadel models --json"))
def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show where each model is: its state, for how long, what it holds, when it was used last.

    Exit code 0, or 1 when the manager of the models on demand cannot be asked.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    rows = [*_resident(settings), *_on_demand(settings)]
    if as_json:
        print_json(rows)
    else:
        typer.echo(_table(rows))


@app.command(epilog=examples("citadel models load MODEL"))
def load(model: _Model) -> None:
    """Bring a model up now, and wait until it is.

    What is in its way takes no more requests, finishes those it has, and goes.
    """
    _command("load", model)


@app.command(epilog=examples("citadel models unload MODEL"))
def unload(model: _Model) -> None:
    """Stop a model when it has finished what it has in hand. The next request for it brings it up again."""
    _command("unload", model)


@app.command(epilog=examples("citadel models pin MODEL"))
def pin(model: _Model) -> None:
    """Keep a model awake from now on, also after a restart of the host: nothing else gets its place."""
    _command("pin", model)


@app.command(epilog=examples("citadel models unpin MODEL"))
def unpin(model: _Model) -> None:
    """Let a pinned model make room again."""
    _command("unpin", model)


@app.command(epilog=examples("sudo citadel models accept MODEL", "citadel restart MODEL"))
def accept(name: Annotated[str, typer.Argument(metavar="MODEL", help="A model, or its alias.")]) -> None:
    """Have a model's next start accepted as it then answers.

    For one that is refused because it does not answer as it did, when that is how it should answer. What it
    answers at its next start is what the later ones are held to.
    """
    from citadel_llm.services.engine import accepted  # noqa: PLC0415 - the settings' library loads slowly

    settings = load_settings()
    model = settings.model(name)
    if model is None:
        names = ", ".join(each.name for each in settings.models) or "none"
        fail(f"{name} is no model of this host; there are: {names}", EXIT_USAGE)
    try:
        known = [accepted.forget(accepted.STATES / engine_id) for engine_id in model.engine_ids]
    except PermissionError:
        fail("what was accepted belongs to the engine's account: use sudo", EXIT_NOT_PERMITTED)
    state = "forgotten what it answered" if any(known) else "nothing was accepted yet"
    typer.echo(f"{model.name}: {state}; its next start is accepted (citadel restart {model.name})")


def _command(action: _Action, name: str) -> None:
    from citadel_llm.residency.messages import Command  # noqa: PLC0415 - the settings' library loads slowly
    from citadel_llm.residency.operator import UnreachableError  # noqa: PLC0415

    settings = load_settings()
    model = settings.model(name)
    if model is None or not model.on_demand:
        known = ", ".join(each.name for each in settings.models_on_demand) or "there is none"
        what = "runs always, not on demand" if model else "is no model of this host"
        fail(f"{name} {what}; on demand: {known}", EXIT_USAGE)
    try:
        error = asyncio.run(_follow(settings, Command(action, model.name)))
    except PermissionError:
        fail("this account may not move models: it must be the operator's, or root", EXIT_NOT_PERMITTED)
    except UnreachableError as unreachable:
        fail(str(unreachable))
    if error:
        fail(error)


async def _follow(settings: "Settings", wish: Any) -> str:
    """Show what becomes of a command; what went wrong, if something did."""
    from citadel_llm.residency.messages import Done  # noqa: PLC0415
    from citadel_llm.residency.operator import command  # noqa: PLC0415

    began, shown = time.monotonic(), ""
    async for said in command(settings.run_dir, wish):
        if isinstance(said, Done):
            if sys.stderr.isatty():
                typer.echo("\r\x1b[K", err=True, nl=False)
            if not said.error:
                typer.echo(f"{wish.model}: {shown or 'done'}, after {time.monotonic() - began:.1f} s")
            return said.error
        if said.state != shown:
            shown = said.state
            _show(wish.model, said)
    return ""


def _show(model: str, told: "Told") -> None:
    wait = f", ready in about {told.ready_in:.0f} s" if told.state == "waking" and told.ready_in else ""
    text = f"{model}: {told.state}{wait}"
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{text}", err=True, nl=False)
    else:
        typer.echo(text, err=True)


def _resident(settings: "Settings") -> list[dict[str, Any]]:
    from citadel_llm.services.service_manager import read_statuses, services_of  # noqa: PLC0415
    from citadel_llm.services.systemd import SystemdError  # noqa: PLC0415

    always = {engine.id: engine.model.name for engine in settings.engines if not engine.model.on_demand}
    services = [service for service in services_of(settings) if service.name in always]
    try:
        statuses = read_statuses(services) if services else []
    except SystemdError as error:
        fail(str(error))
    return [
        {
            "model": status.name,
            "residency": "resident",
            "state": status.state,
            "seconds": status.seconds,
            "memory_bytes": status.memory_bytes,
            "says": status.says,
        }
        for status in statuses
    ]


def _on_demand(settings: "Settings") -> list[dict[str, Any]]:
    from citadel_llm.residency.operator import UnreachableError, read_account  # noqa: PLC0415

    if not settings.models_on_demand:
        return []
    try:
        account = read_account(settings.run_dir)
    except UnreachableError as error:
        fail(str(error))
    residencies = {each.name: each.plan.residency for each in settings.models_on_demand if each.plan}
    now = time.time()
    rows = []
    for name, model in account["models"].items():
        said = [model["reason"]] if model["reason"] else []
        said += ["pinned"] if model["pinned"] else []
        said += [f"{model['waiting']} wait"] if model["waiting"] else []
        said += [f"{model['in_hand']} in hand"] if model["in_hand"] else []
        rows.append(
            {
                "model": name,
                "residency": residencies.get(name, "cold"),
                "state": model["state"],
                "seconds": now - model["since"] if model["since"] else None,
                "memory_bytes": sum(each["bytes"] for each in model["holds"]),
                "last_used_seconds": now - model["last_used"] if model["last_used"] else None,
                "says": ", ".join(said),
                **{key: value for key, value in model.items() if key not in {"state", "since", "last_used"}},
            }
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    headings = ["MODEL", "RESIDENCY", "STATE", "FOR", "MEMORY", "LAST USED", "START", "SAYS"]
    return table(
        headings,
        [
            [
                colour(row["model"], "bold"),
                row["residency"],
                colour(row["state"], _COLOURS.get(row["state"], "dim")),
                duration(row["seconds"]),
                size(row["memory_bytes"] or None),
                duration(row.get("last_used_seconds")) + (" ago" if row.get("last_used_seconds") else ""),
                duration(row.get("start_seconds")),
                row["says"],
            ]
            for row in rows
        ],
    )
