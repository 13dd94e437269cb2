"""`citadel plan`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from citadel_llm.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    DirectoryOption,
    JsonOption,
    examples,
    fail,
    load_settings,
    print_json,
    size,
    table,
)

if TYPE_CHECKING:
    from citadel_llm.cli.plan_sources import Source
    from citadel_llm.placement.plan import ModelPlan, Plan

app = typer.Typer()


@app.command(
    epilog=examples(
        "citadel plan",
        "citadel plan --gpu '4x L40S 48GB' --svg plan.svg",
        "citadel plan --inventory inventories/example",
        "citadel plan --explain mixtral",
        "citadel plan --json | jq '.models[] | {name, residency, gpus}'",
    )
)
def plan(  # noqa: PLR0917 - typer makes an option of each
    as_json: JsonOption = False,
    svg: Annotated[Path | None, typer.Option(help="Write the plan as a picture to this file.")] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Say of one model why, and every term.")
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="Plan for these GPUs: '2x RTX 5060 Ti 16GB'; several with commas, or repeated."),
    ] = None,
    host_memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", min=0.1, help="Plan for so much memory of the host, in GiB."),
    ] = None,
    inventory: Annotated[
        str | None,
        typer.Option("--inventory", "-i", help="On the controller: plan for a host of this inventory."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Which host of the inventory.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="The hardware report (default: /etc/citadel/hardware.json).")
    ] = None,
    directory: DirectoryOption = None,
) -> None:
    """Show which models fit, where each runs, with how much memory, and why; it changes nothing.

    Exit code 0 when all fit, 1 when they do not, 2 when the configuration is wrong.
    """
    from citadel_llm.placement.calibration import calibrate  # noqa: PLC0415 - pydantic takes a while to load
    from citadel_llm.placement.planner import make_plan  # noqa: PLC0415
    from citadel_llm.placement.refusal import PlacementRefusedError  # noqa: PLC0415
    from citadel_llm.placement.terms import GIB  # noqa: PLC0415

    memory = None if host_memory is None else int(host_memory * GIB)
    source = _source(inventory, host, report, directory, (gpu or [], memory))
    try:
        made = make_plan(
            source.settings.placement,
            source.settings.engine.build,
            source.machine,
            calibrate(source.wishes, source.measured, source.settings.engine.build),
        )
    except PlacementRefusedError as error:
        if as_json:
            print_json(error.as_json())
            raise typer.Exit(EXIT_FAILED) from None
        fail(str(error), EXIT_FAILED)
    chosen = _chosen(source, made, explain) if explain else None
    if svg is not None:
        _write_picture(made, svg)
    if as_json:
        changes = {} if gpu or inventory else _changes(source, made)
        measured = {model.name: _measured(source, model) for model in made.models}
        print_json({**made.as_json(), "changes": changes, "measured": measured})
    elif chosen is not None:
        _explain(source, chosen)
    else:
        _show(source, made, what_if=bool(gpu or inventory))


def _source(
    inventory: str | None,
    host: str | None,
    report: Path | None,
    directory: Path | None,
    told: tuple[Sequence[str], int | None],
) -> "Source":
    from citadel_llm.cli.plan_sources import (  # noqa: PLC0415
        REPORT,
        SourceError,
        Told,
        of_host,
        of_inventory,
    )
    from citadel_llm.config import ConfigError  # noqa: PLC0415
    from citadel_llm.placement.terms import PlacementError  # noqa: PLC0415

    if host and not inventory:
        fail("--host names a host of an inventory: say which, with --inventory", EXIT_USAGE)
    try:
        if inventory:
            source = of_inventory(inventory, host, Told(*told), report)
        else:
            source = of_host(load_settings(directory), report or REPORT, Told(*told))
    except (SourceError, ConfigError, PlacementError) as error:
        fail(str(error), EXIT_USAGE)
    if told[0] and source.settings.engine.build == "cpu":
        fail("--gpu: the engines' build is cpu, which runs on no GPU; leave --gpu out", EXIT_USAGE)
    if source.faults:
        fail("\n".join(str(fault) for fault in source.faults), EXIT_USAGE)
    return source


def _chosen(source: "Source", made: "Plan", name: str) -> "ModelPlan":
    model = source.settings.model(name)
    place = made.model(model.name if model else name)
    if place is None:
        reasons = {each.name: each.reason for each in made.unserved}
        if model and model.name in reasons:
            fail(f"{model.name}: {reasons[model.name]}", EXIT_FAILED)
        known = ", ".join(each.name for each in made.models)
        fail(f"there is no model {name!r}; there are: {known}", EXIT_USAGE)
    return place


def _write_picture(made: "Plan", path: Path) -> None:
    from citadel_llm.placement.picture import picture  # noqa: PLC0415

    try:
        path.write_text(picture(made), encoding="utf-8")
    except OSError as error:
        fail(f"{path}: cannot be written: {error.strerror}", EXIT_FAILED)


def _show(source: "Source", made: "Plan", *, what_if: bool) -> None:
    from citadel_llm.placement.text import plan_text  # noqa: PLC0415

    typer.echo(f"Planned for {source.machine.origin}.\n")
    typer.echo(plan_text(made))
    for model in made.models:
        rows = _measured(source, model)
        if rows:
            typer.echo(f"\n{model.name}, predicted beside measured:\n{_comparison(rows)}")
    changes = {} if what_if else _changes(source, made)
    for name, words in changes.items():
        typer.echo(f"\n{name}: deployed is {words['deployed']}; this plan: {words['planned']}")


def _explain(source: "Source", model: "ModelPlan") -> None:
    from citadel_llm.placement.text import explanation  # noqa: PLC0415

    typer.echo(explanation(model))
    rows = _measured(source, model)
    if rows:
        typer.echo(f"\n  Predicted beside measured:\n{_comparison(rows)}")


def _comparison(rows: list[dict[str, Any]]) -> str:
    cells = [[row["term"], size(row["predicted_bytes"]), size(row["measured_bytes"])] for row in rows]
    return table(["TERM", "PREDICTED", "MEASURED"], cells)


def _measured(source: "Source", model: "ModelPlan") -> list[dict[str, Any]]:
    """What an engine's start took where the model is placed, beside what the arithmetic says."""
    from citadel_llm.placement.calibration import measurements_of  # noqa: PLC0415

    wish = next(each for each in source.wishes if each.entry == model.entry)
    device = next(each for each in source.machine.devices if each.index == model.workers[0].device)
    known = measurements_of(wish.model, source.measured)
    found = next((each for each in known if each.fits(model.layout, device)), None)
    if wish.memory is None or found is None:
        return []
    # The arithmetic's own, whether or not the plan goes by what was measured.
    [need, *_] = wish.memory.on(model.layout, device)
    predicted: dict[str, int] = {term.name: term.bytes for term in need.fixed}
    taken = {
        "weights": found.weights,
        "CUDA graphs": found.cuda_graphs,
        "in all": found.total,
    }
    predicted["in all"] = need.fixed_bytes + (found.kv_cache or 0)
    return [
        {"term": name, "predicted_bytes": predicted.get(name, 0), "measured_bytes": size}
        for name, size in taken.items()
        if size is not None
    ]


def _changes(source: "Source", made: "Plan") -> dict[str, dict[str, str]]:
    """The models whose deployed plan is another."""
    changes = {}
    plans = made.engine_plans()
    for model in source.settings.models:
        planned = plans.get(model.name)
        if model.plan is not None and planned is not None and model.plan != planned:
            before, after = model.plan.model_dump(), planned.model_dump()
            keys = [key for key in after if before[key] != after[key]]
            changes[model.name] = {
                "deployed": ", ".join(f"{key} {before[key]}" for key in keys),
                "planned": ", ".join(f"{key} {after[key]}" for key in keys),
            }
    return changes
