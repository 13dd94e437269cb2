from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from citadel_llm.cli import build_app
from citadel_llm.services import service_manager

from .machine import Machine, Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line: `run("status", "--json")`."""
    monkeypatch.setenv("CITADEL_CONFIG", str(tmp_path / "config"))

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(build_app(), list(arguments), prog_name="citadel")

    return invoke


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host's configuration, and a systemd that does what the test says."""
    made = Machine(tmp_path)
    monkeypatch.setattr(service_manager, "Systemd", lambda: made)
    return made
