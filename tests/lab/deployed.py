"""What the roles would place on a lab host, without running them: the application, and units."""

import shutil
import subprocess
import sys
from pathlib import Path

import jinja2

from .conftest import PROJECT

_TEMPLATES = PROJECT / "roles/systemd_units/templates"
_COMMAND = """#!/usr/bin/python3
import sys
sys.path[:0] = ["/opt/citadel/current/src", "/opt/citadel/site"]
from citadel_llm.cli import main
main()
"""


def place_application(root: Path, python: str) -> None:
    """The command `citadel`, with this tree's code and the locked dependencies, for the host's own Python.

    Args:
        root: The host's file system.
        python: Its Python's version, such as 3.11.
    """
    command = root / "opt/citadel/current/venv/bin/citadel"
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(_COMMAND)
    command.chmod(0o755)
    words = ["uv", "pip", "install", "--quiet", f"--python-version={python}", "--only-binary=:all:"]
    words += [
        "--python-platform=x86_64-unknown-linux-gnu",
        f"--target={root / 'opt/citadel/site'}",
        f"--requirement={PROJECT / 'requirements/app.txt'}",
    ]
    subprocess.run([Path(sys.executable).with_name(words[0]), *words[1:]], check=True)
    shutil.copytree(PROJECT / "src", root / "opt/citadel/current/src", dirs_exist_ok=True)


def render_unit(template: str, **variables: object) -> str:
    """A unit's text, as the role renders it for the CPU build."""
    environment = jinja2.Environment(  # noqa: S701 - a unit is no web page
        loader=jinja2.FileSystemLoader(_TEMPLATES), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(
        citadel_root="/opt/citadel",
        citadel_engine_build="cpu",
        ansible_facts={"systemd": {"version": 252}},
        __systemd_units_interpreter_folder="",
        systemd_units_restart_delay=1,
        systemd_units_start_limit_burst=10,
        systemd_units_start_limit_interval=1800,
        systemd_units_watchdog=20,
        **variables,
    )
