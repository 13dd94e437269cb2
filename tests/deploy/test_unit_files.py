"""The units as they are rendered: what systemd makes of them, and how far they are shut off."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .modules import ROOT

pytestmark = [
    # systemd reads every unit: that takes seconds.
    pytest.mark.lab,
    pytest.mark.skipif(
        shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, which judges the files"
    ),
]

BUILDS = ("cpu", "cuda")
# The newest directives are rendered for a systemd that knows them; the judge here may be older.
VERSION = 252
GATEWAYS = ("citadel-gateway.service", "citadel-gateway@.service")
HELPERS = ("citadel-manager.service", "citadel-health.service")
UNITS = ("citadel.target", "citadel.slice", *GATEWAYS, *HELPERS, "citadel-engine@.service")

# Most exposure (0 to 10) that a unit may have, as `systemd-analyze security` counts it.
LIMITS = {**dict.fromkeys((*GATEWAYS, *HELPERS), 1.5), "citadel-engine@.service": 2.5}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `cpu` and `cuda` with the units of each build."""
    folder = tmp_path_factory.mktemp("units")
    role = ROOT / "roles/systemd_units"
    tasks = [
        {
            "name": f"Render {unit} for {build}",
            "ansible.builtin.template": {
                "src": str(role / f"templates/{unit}.j2"),
                "dest": str(folder / build / unit),
                "mode": "0644",
            },
            "vars": {"citadel_engine_build": build},
        }
        for build in BUILDS
        for unit in UNITS
    ]
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROOT / "roles/citadel/defaults/main.yml"), str(role / "defaults/main.yml")],
        "vars": {
            "ansible_facts": {"systemd": {"version": VERSION}},
            "ansible_python_interpreter": sys.executable,
            "__systemd_units_interpreter_folder": "",
        },
        "tasks": tasks,
    }
    for build in BUILDS:
        (folder / build).mkdir()
    (folder / "play.json").write_text(json.dumps([play]))
    command = ["ansible-playbook", "--inventory=localhost,", str(folder / "play.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("build", BUILDS)
def test_systemd_understands_every_line(rendered: Path, build: str) -> None:
    paths = [str(rendered / build / unit) for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False
    )
    # The commands are not installed here; everything else must be without fault.
    complaints = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if str(rendered) in line and "is not executable" not in line
    ]
    assert complaints == []


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("unit", LIMITS)
def test_a_service_is_shut_off(rendered: Path, build: str, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(rendered / build / unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= LIMITS[unit]


@pytest.mark.parametrize("unit", LIMITS)
def test_a_service_is_supervised(rendered: Path, unit: str) -> None:
    lines = (rendered / "cpu" / unit).read_text().splitlines()
    for line in (
        "Type=notify",
        "KillMode=mixed",
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "PartOf=citadel.target",
        "Slice=citadel.slice",
    ):
        assert line in lines, line
    # `citadel reload` is for all of them.
    assert len([line for line in lines if line.startswith("ExecReload=")]) == 1
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert any(line.startswith("WantedBy=citadel.target") for line in lines)


def test_a_further_worker_of_the_gateway_differs_in_little(rendered: Path) -> None:
    first, further = (set((rendered / "cpu" / unit).read_text().splitlines()) for unit in GATEWAYS)
    kinds = {line.partition("=")[0] for line in first ^ further if not line.startswith("#")}
    assert kinds == {
        *("Description", "After", "Wants", "ReloadPropagatedFrom", "WantedBy", "NoExecPaths"),
        *("ExecStart", "ExecReload", "RuntimeDirectory", "TimeoutStopSec", "FileDescriptorStoreMax"),
    }


def test_only_the_gpu_build_sees_devices(rendered: Path) -> None:
    engine = "citadel-engine@.service"
    cpu, cuda = ((rendered / build / engine).read_text().splitlines() for build in BUILDS)
    assert "PrivateDevices=yes" in cpu
    assert "PrivateDevices=yes" not in cuda
    assert {"DevicePolicy=closed", "DeviceAllow=char-nvidia* rw"} <= set(cuda)
    # torch compiles at run time.
    assert not any(line.startswith("MemoryDenyWriteExecute") for line in cpu + cuda)


@pytest.mark.parametrize("unit", UNITS)
def test_the_next_directives_stand_on_lines_of_their_own(rendered: Path, unit: str) -> None:
    text = (rendered / "cuda" / unit).read_text()
    sections = [line for line in text.splitlines() if line.startswith("[")]
    assert len(sections) == len(set(sections))
    for line in text.splitlines():
        assert re.fullmatch(r"|#.*|\[[A-Z]\w+\]|[A-Z]\w+=.*", line), line
