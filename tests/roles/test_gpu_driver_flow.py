"""What the role decides on hosts of all kinds, with real Ansible and, for the GPUs, the recordings.

Nothing is installed: that is what a host with a GPU, Ubuntu's archive and NVIDIA's repository would prove.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from .gpu_recordings import Machine
from .role_modules import ROOT

# Runs Ansible, or its modules as processes: that takes seconds.
pytestmark = pytest.mark.lab

PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")

# In place of the real module: what it would return on the recorded host.
STAND_IN = """\
#!/usr/bin/python
import json, os
print(json.dumps({"changed": False, **json.load(open(os.environ["RECORDED_FACTS"]))}))
"""

PLAY = """\
- name: Run one part of the role on recorded hosts
  hosts: recorded
  gather_facts: false
  environment:
    RECORDED_FACTS: "{{ recorded_facts }}"
  tasks:
    - name: Be the recorded system
      ansible.builtin.set_fact:
        distribution: "{{ recorded_distribution }}"
        distribution_major_version: "12"
        architecture: x86_64
        kernel: "{{ recorded_kernel }}"
        cacheable: true
    - name: Run its parts
      ansible.builtin.include_role:
        name: nvidia_driver
        tasks_from: "{{ item }}"
      loop: "{{ parts }}"
"""


class Case(NamedTuple):
    """A recorded host, the role's parts, variables; what the last task must say, nothing when all is well."""

    recording: str
    parts: str
    variables: dict[str, Any]
    said: list[str]
    distribution: str = "Debian"
    kernel: str = "6.1.0-37-amd64"


PRESENT = {"nvidia_driver_state": "present"}
CASES = {
    "nothing is asked for": Case("no-gpu", "preflight", {}, []),
    "nothing is asked for, and nothing is done": Case("no-gpu", "main", {}, []),
    "a driver that fits": Case("driver-590-hgx", "main", PRESENT, []),
    "a driver that fits, beforehand": Case("driver-590-hgx", "preflight", PRESENT, []),
    "a host without a GPU": Case(
        "no-gpu", "preflight", PRESENT, ["no NVIDIA GPU on its PCI bus", "Set it to unmanaged"]
    ),
    "a branch that the engine cannot use": Case(
        "no-driver",
        "preflight",
        {**PRESENT, "nvidia_driver_branch": 575},
        ["driver 575.x", "CUDA 13.0", "branch 580 or newer"],
    ),
    "a version of another branch": Case(
        "no-driver",
        "preflight",
        {**PRESENT, "nvidia_driver_version": "575.57.08"},
        ["nvidia_driver_version is 575.57.08", "one of branch 580"],
    ),
    "a version of the branch": Case(
        "no-driver", "preflight", {**PRESENT, "nvidia_driver_version": "580.95.05"}, []
    ),
    "a version on Ubuntu": Case(
        "no-driver",
        "preflight",
        {**PRESENT, "nvidia_driver_version": "580.95.05"},
        ['on Ubuntu it must be ""'],
        "Ubuntu",
    ),
    "Secure Boot on Debian": Case(
        "not-loaded",
        "preflight",
        PRESENT,
        ["Secure Boot", "mokutil --import", "nvidia_driver_module_key_enrolled"],
    ),
    "Secure Boot on Debian, with the key": Case(
        "not-loaded", "preflight", {**PRESENT, "nvidia_driver_module_key_enrolled": True}, []
    ),
    "Secure Boot on Ubuntu": Case("not-loaded", "preflight", PRESENT, [], "Ubuntu", "6.8.0-60-generic"),
    "a kernel of one's own on Debian": Case(
        "no-driver",
        "preflight",
        PRESENT,
        ["the kernel 6.12.0 is none of Debian's", "boot one"],
        "Debian",
        "6.12.0",
    ),
    "a kernel of one's own on Ubuntu": Case(
        "no-driver",
        "preflight",
        PRESENT,
        ["the kernel 6.12.0 is none of Ubuntu's", "nvidia_driver_kernel_flavour"],
        "Ubuntu",
        "6.12.0",
    ),
    "a kernel of one's own on Ubuntu, with packages named": Case(
        "no-driver",
        "preflight",
        {**PRESENT, "nvidia_driver_kernel_flavour": "generic"},
        [],
        "Ubuntu",
        "6.12.0",
    ),
    "a kernel of one's own, and a driver that fits": Case(
        "driver-590-hgx", "preflight", PRESENT, [], "Debian", "6.12.0"
    ),
    "GPUs that the open module does not drive": Case(
        "driver-550-without-libcuda",
        "preflight",
        PRESENT,
        ["compute capability 6.1", "from before Turing", "nvidia_driver_state to unmanaged"],
    ),
    "GPUs that wait for the fabric manager": Case("driver-590-hgx", "observe restart", PRESENT, []),
    "a restart is due": Case(
        "mismatch",
        "observe restart",
        PRESENT,
        ["driver 580", "before a restart", "different versions", "nvidia_driver_reboot_allowed to true"],
    ),
    "an older driver is still loaded": Case(
        "driver-535-mig", "observe restart", PRESENT, ["before a restart", "535.54.03, closed, driver 535"]
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One run for all cases, each a host of its own; the results of each host's tasks in order."""
    folder = tmp_path_factory.mktemp("nvidia_driver")
    (folder / "library").mkdir()
    (folder / "library/citadel_gpu_facts.py").write_text(STAND_IN)
    hosts = {}
    for number, (name, case) in enumerate(CASES.items()):
        facts, found = folder / f"{number}.json", Machine(case.recording, folder / str(number)).facts()
        if "fabric" in name:
            found["gpus"] = [gpu | {"fabric": "In Progress"} for gpu in found["gpus"]]
        facts.write_text(json.dumps(found))
        hosts[name] = {
            "recorded_facts": str(facts),
            "recorded_distribution": case.distribution,
            "recorded_kernel": case.kernel,
            "parts": case.parts.split(),
            **case.variables,
        }
    inventory = {
        "recorded": {
            "hosts": hosts,
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                # The checks of the whole site are not those of this test.
                "__citadel_checked": True,
            },
        }
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (folder / "play.yml").write_text(PLAY)
    done = subprocess.run(
        [PLAYBOOK, "--inventory", folder / "hosts.yml", folder / "play.yml"],
        cwd=ROOT,
        env=os.environ
        | {
            "ANSIBLE_ANY_ERRORS_FATAL": "false",
            "ANSIBLE_LIBRARY": f"{folder / 'library'}:{ROOT / 'library'}",
            "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
            "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    tasks: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for task in json.loads(done.stdout)["plays"][0]["tasks"]:
        for host, result in task["hosts"].items():
            tasks.setdefault(host, []).append((task["task"]["name"], result))
    return tasks


@pytest.mark.parametrize("name", CASES)
def test_what_the_role_decides(results, name):
    case = CASES[name]
    last = results[name][-1][1]
    assert bool(last.get("failed")) == bool(case.said), last
    for words in case.said:
        assert words in " ".join(last["msg"].split())


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_changed(results, name):
    assert not [task for task, result in results[name] if result.get("changed")]
