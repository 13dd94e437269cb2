"""The module as Ansible runs it: packed with its parts, on this machine, with its action plugin."""

import json
import os
import subprocess
import sys

import pytest

from .hardware_machines import NO_GPUS
from .role_modules import ROLES

# Runs Ansible, or its modules as processes: that takes seconds.
pytestmark = pytest.mark.lab

ROLE = ROLES / "hardware"


@pytest.fixture
def run(tmp_path):
    """Run the module; return what Ansible says, `host` and `controller` being its two folders."""

    def run(check=False, **arguments):
        arguments = {
            "gpus": NO_GPUS,
            "report": str(tmp_path / "host/hardware.json"),
            "host": "it",
            "folder": str(tmp_path / "controller"),
        } | arguments
        environment = os.environ | {
            "ANSIBLE_LIBRARY": str(ROLE / "library"),
            "ANSIBLE_MODULE_UTILS": str(ROLE / "module_utils"),
            "ANSIBLE_ACTION_PLUGINS": str(ROLE / "action_plugins"),
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
            "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        }
        command = [
            sys.executable,
            "-m",
            "ansible",
            "adhoc",
            "localhost",
            "-c",
            "local",
            "-m",
            "citadel_hardware",
        ]
        command += [
            "-m",
            "citadel_hardware",
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            "-a",
            json.dumps(arguments),
        ]
        done = subprocess.run(
            command + (["--check"] if check else []),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout
        assert output.strip(), done.stderr
        return json.loads(output)["plays"][0]["tasks"][0]["hosts"]["localhost"]

    return run


def test_a_dry_run_then_a_run_then_another(run, tmp_path):
    dry = run(check=True, profile={"cpu": {"cores": 1}})
    assert dry["changed"] is True
    assert not (tmp_path / "host").exists()
    assert not (tmp_path / "controller").exists()

    first = run(profile={"cpu": {"cores": 1}})
    assert first["changed"] is True
    assert [finding["requirement"] for finding in first["findings"]] == ["CPU cores"]
    assert sorted(file.name for file in (tmp_path / "host").iterdir()) == ["hardware.html", "hardware.json"]
    assert json.loads((tmp_path / "host/hardware.json").read_text())["facts"]["cpu"]["threads"] > 0
    assert (tmp_path / "controller/it.html").exists()

    assert run(profile={"cpu": {"cores": 1}})["changed"] is False


def test_a_report_that_cannot_be_written_names_its_setting(run, tmp_path):
    (tmp_path / "file").write_text("")
    said = run(report=str(tmp_path / "file/hardware.json"))
    assert said["failed"] is True
    assert f"{tmp_path}/file/hardware.json cannot be written" in said["msg"]
    assert "hardware_report" in said["msg"]


def test_a_report_that_was_spoilt_is_written_anew(run, tmp_path):
    (tmp_path / "host").mkdir()
    (tmp_path / "host/hardware.json").write_bytes(b"\xff\xfe\0")
    assert run()["changed"] is True
    assert json.loads((tmp_path / "host/hardware.json").read_text())["facts"]


def test_what_is_not_met_stops_it_and_leaves_the_report_on_the_controller_alone(run, tmp_path):
    gpus = {
        "requirement": "GPU 0 memory",
        "found": "8 GiB",
        "wanted": ">= 16 GiB",
        "met": False,
        "remedy": "lower it",
    }
    said = run(profile={"cpu": {"cores": 9999}}, gpu_findings=[gpus])
    assert said["failed"] is True
    assert "2 of 2 requirements are not met (hardware_mode is enforce)" in said["msg"]
    assert "GPU 0 memory  wanted >= 16 GiB, found 8 GiB; lower it" in said["msg"]
    assert str(tmp_path / "controller/it.html") in said["msg"]
    assert "facts" not in said
    assert not (tmp_path / "host").exists()
    parts = [
        finding["part"] for finding in json.loads((tmp_path / "controller/it.json").read_text())["findings"]
    ]
    assert parts == ["cpu", "gpu:0"]


def test_when_it_does_not_enforce_it_goes_on(run):
    said = run(profile={"cpu": {"cores": 9999}}, enforce=False)
    assert "failed" not in said or not said["failed"]
    assert len(said["missed"]) == 1


def test_a_profile_that_cannot_be_used_is_refused_before_the_machine_is_looked_at(run, tmp_path):
    said = run(profile={"memory_gib": "3.6TB", "storage": [{"path": "/a", "size_gib": -1}]}, gpus={})
    assert said["failed"] is True
    assert "hardware_profile.memory_gib is '3.6TB'" in said["msg"]
    assert "hardware_profile.storage[0].size_gib is -1: it must not be negative" in said["msg"]
    assert not (tmp_path / "controller").exists()


def test_a_folder_that_cannot_be_written_is_a_warning(run, tmp_path):
    (tmp_path / "file").write_text("")
    said = run(folder=str(tmp_path / "file/reports"))
    assert not said.get("failed")
    assert "hardware_report_folder" in str(said.get("warnings"))


def test_who_else_uses_a_gpu_varies_and_is_not_written_down(run, tmp_path):
    others = {
        "requirement": "GPU 0 other processes",
        "found": "python (4242) holds 9000 MiB",
        "wanted": "<= 100 MiB each",
        "met": False,
        "remedy": "end them",
    }
    said = run(gpu_findings=[others], enforce=False)
    assert "python (4242) holds 9000 MiB" in said["missed"][0]
    written = (tmp_path / "host/hardware.json").read_text()
    assert "4242" not in written
    assert '"found": "some"' in written
    assert "4242" in (tmp_path / "controller/it.json").read_text()
