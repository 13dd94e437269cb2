"""What holds for the site as a whole: each part can be run alone, and looking changes nothing."""

import os
from pathlib import Path

import ansible_runner
import pytest
from deployed import INVENTORY, PROJECT

TAGS = (
    "nvidia_driver",
    "hardware",
    "user",
    "python",
    "directories",
    "config",
    "services",
    "gateway",
    "models",
    "systemd",
    "monitoring",
    "operations",
    "validation",
)


def run_site(
    tmp_path: Path, hostname: str, arguments: str = "", playbook: str = "site.yml"
) -> dict[str, int]:
    """Run a playbook and return the host's recap: how many tasks were ok, changed, failed …."""
    run = ansible_runner.run(
        private_data_dir=str(tmp_path),
        project_dir=str(PROJECT),
        playbook=playbook,
        inventory=str(INVENTORY),
        envvars={"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "PATH": os.environ["PATH"]},
        cmdline=arguments,
        quiet=True,
    )
    with run.stdout as said:
        assert run.rc == 0, said.read()[-6000:]
    return {outcome: hosts.get(hostname, 0) for outcome, hosts in run.stats.items()}


@pytest.mark.parametrize("tag", TAGS)
def test_a_role_run_alone_works_and_changes_nothing(tmp_path: Path, hostname: str, tag: str) -> None:
    recap = run_site(tmp_path, hostname, f"--tags {tag}")
    assert recap["ok"] > 0
    assert recap["changed"] == 0


def test_a_check_works_and_changes_nothing(tmp_path: Path, hostname: str) -> None:
    recap = run_site(tmp_path, hostname, "--check --diff")
    assert recap["ok"] > 0
    assert recap["changed"] == 0


def test_every_item_that_can_be_seen_here_is_proven(tmp_path: Path, hostname: str) -> None:
    recap = run_site(tmp_path, hostname, playbook="playbooks/validate.yml")
    assert recap["ok"] > 0
    assert recap["changed"] == 0
