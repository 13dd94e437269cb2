import datetime
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from citadel_llm import __version__
from citadel_llm.cli import build_app
from citadel_llm.config import load

from .machine import Machine, Run

DOCS = Path(__file__).parents[2] / "docs"


def commands() -> list[str]:
    """Every command's whole name, `config show`."""
    names = []
    for name, command in get_command(build_app()).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", {})
        names += [f"{name} {each}" for each in below] or [name]
    return names


def test_every_command_is_in_the_docs() -> None:
    text = (DOCS / "cli.md").read_text()
    missing = [name for name in commands() if f"citadel {name}" not in text]
    assert not missing


@pytest.mark.parametrize("name", commands())
def test_every_command_explains_itself(run: Run, name: str) -> None:
    result = run(*name.split(), "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


def test_version(run: Run) -> None:
    assert run("version").output == f"{__version__}\n"


@pytest.mark.parametrize("typo", ["statsu", "sttop"])
def test_a_typo_gets_a_suggestion(run: Run, typo: str) -> None:
    result = run(typo)
    assert result.exit_code == 2
    assert "Did you mean" in result.output


def test_config_commands(run: Run, machine: Machine) -> None:
    assert run("config", "validate").output == "the configuration is right: staging, 1 model(s)\n"
    assert "models[0].name = 'small'  # " in run("config", "show").output
    assert '"properties"' in run("config", "schema").output
    assert "| setting | type |" in run("config", "schema", "--format", "markdown").output
    elsewhere = run("config", "validate", "--directory", str(machine.folder / "nowhere"))
    assert elsewhere.exit_code == 2
    assert "there is no such configuration folder" in elsewhere.output


def test_a_feature_flag_ends(run: Run, machine: Machine) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    flag = {"enabled": True, "owner": "ada", "expires": today.isoformat()}
    machine.configure(features={"wide_context": flag})
    assert run("config", "validate").exit_code == 0
    flag["expires"] = (today - datetime.timedelta(days=1)).isoformat()
    machine.configure(features={"wide_context": flag})
    late = run("config", "validate")
    assert late.exit_code == 2
    assert f"a.yml:7: features.wide_context.expires: was on {flag['expires']}, and ada answers" in late.output
    assert run("config", "show").exit_code == 0, "what runs goes on"
    assert load(machine.folder / "config").feature("wide_context")


def test_status_does_not_wait_for_what_it_does_not_need() -> None:
    program = (
        "import sys; sys.argv = ['citadel', 'status', '--help']\n"
        "from citadel_llm.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'fastapi', 'uvicorn', 'sqlalchemy', 'aiohttp', 'structlog', 'prometheus_client', 'rich'}\n"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
