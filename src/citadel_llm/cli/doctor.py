"""`citadel doctor`."""

import typer

from citadel_llm.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    JsonOption,
    colour,
    examples,
    print_json,
    table,
)
from citadel_llm.health_checks.health_checker import Finding, run_checks

app = typer.Typer()

_MARKS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "failed": ("FAILED", "red"),
    "unknown": ("?", "dim"),
}


@app.command(
    epilog=examples("citadel doctor", "citadel doctor --json | jq '.[] | select(.verdict == \"failed\")'")
)
def doctor(as_json: JsonOption = False) -> None:
    """Look at everything that Citadel needs, and say of what is wrong what to do about it.

    Exit code 0 when nothing failed, 1 when something did, 2 when the configuration is wrong.
    """
    from citadel_llm.config import ConfigError, load  # noqa: PLC0415 - pydantic takes a while to load
    from citadel_llm.health_checks.checks import doctor_checks  # noqa: PLC0415

    try:
        settings = load()
    except ConfigError as error:
        remedy = "put it right in the inventory, and deploy: --tags config"
        findings = [Finding("configuration", "failed", str(problem), remedy) for problem in error.problems]
    else:
        findings = [
            Finding("configuration", "ok", f"{len(settings.models)} model(s), {settings.environment}")
        ]
        findings += run_checks(doctor_checks(settings))
    if as_json:
        print_json([finding.as_json() for finding in findings])
    else:
        typer.echo(write(findings))
    failed = [finding for finding in findings if finding.verdict == "failed"]
    if failed:
        raise typer.Exit(EXIT_USAGE if failed[0].check == "configuration" else EXIT_FAILED)


def write(findings: list[Finding]) -> str:
    """The findings as a table, and below it what to do about those that are not well."""
    rows = []
    for finding in findings:
        mark, name = _MARKS[finding.verdict]
        rows.append([finding.check, colour(mark, name), " ".join(finding.detail.split())])
    text = table(["CHECK", "VERDICT", "WHAT WAS SEEN"], rows)
    remedies = [f"  {each.check}: {each.remedy}" for each in findings if each.remedy]
    return "\n".join([text, "", colour("What to do:", "bold"), *remedies]) if remedies else text
