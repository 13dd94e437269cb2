"""A lab of the tests' own: its names, addresses, bridge and folders touch no other."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ONE = {"name": "citadel-test-1", "address": "10.89.14.11"}
TWO = {"name": "citadel-test-2", "address": "10.89.14.12"}
BRIDGE = "citadel-lab1"


@dataclass(frozen=True)
class Result:
    """What the module said."""

    changed: bool
    steps: list[str]
    states: dict[str, str]
    message: str


@dataclass(frozen=True)
class OwnLab:
    """Runs playbooks/lab.yml as an operator would, with the tests' own variables."""

    state_dir: Path

    def __call__(
        self, state: str, *hosts: dict[str, str], check: bool = False, **variables: object
    ) -> Result:
        given = {
            "lab_host_hosts": hosts,
            "lab_host_subnet": "10.89.14.0/24",
            "lab_host_bridge": BRIDGE,
            "lab_host_state_dir": str(self.state_dir),
            "lab_host_memory": 1024,
            "lab_host_state": state,
            **variables,
        }
        done = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                "playbooks/lab.yml",
                *(["--check"] if check else []),
                "--extra-vars",
                json.dumps(given),
            ],
            cwd=PROJECT,
            env={
                **os.environ,
                "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                "ANSIBLE_DEPRECATION_WARNINGS": "0",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        tasks = json.loads(done.stdout[done.stdout.index("{") :])["plays"][0]["tasks"]
        said = next(
            task["hosts"]["localhost"]
            for task in tasks
            if task["hosts"]["localhost"]["action"] == "lab_hosts"
        )
        states = {host["name"]: host["state"] for host in said.get("hosts", [])}
        return Result(said["changed"], said.get("steps", []), states, said.get("msg", ""))

    def root_of(self, host: dict[str, str]) -> Path:
        return self.state_dir / "machines" / host["name"] / "root"

    def ssh(self, host: dict[str, str], command: str) -> subprocess.CompletedProcess[str]:
        config = self.state_dir / "ssh/config"
        words = [
            "ssh",
            "-F",
            str(config),
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=5",
            host["name"],
            command,
        ]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=90)

    def nspawn_of(self, host: dict[str, str]) -> list[int]:
        """The ids of the processes that run a host."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_text().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if words[0].endswith("systemd-nspawn") and f"--machine={host['name']}" in words:
                found.append(int(entry.parent.name))
        return found


@pytest.fixture(scope="session")
def forwarding_before() -> str:
    return Path("/proc/sys/net/ipv4/ip_forward").read_text()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, forwarding_before: str) -> Iterator[OwnLab]:
    lab = OwnLab(tmp_path_factory.mktemp("lab") / "state")
    yield lab
    lab("down", ONE, TWO)


@pytest.fixture
def both(lab: OwnLab) -> OwnLab:
    """The lab with both hosts up, whatever the test before has left."""
    if not all(lab.nspawn_of(host) for host in (ONE, TWO)):
        lab("up", ONE, TWO)
    return lab
