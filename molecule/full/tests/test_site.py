"""What holds for the site as a whole: each part can be run alone, and looking changes nothing."""

import pytest
from deployed import run_site

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


@pytest.mark.parametrize("tag", TAGS)
def test_a_role_run_alone_works_and_changes_nothing(hostname: str, tag: str) -> None:
    recap = run_site(hostname, f"--tags {tag}")
    assert recap["ok"] > 0
    assert recap["changed"] == 0


def test_a_check_works_and_changes_nothing(hostname: str) -> None:
    recap = run_site(hostname, "--check --diff")
    assert recap["ok"] > 0
    assert recap["changed"] == 0


def test_every_item_that_can_be_seen_here_is_proven(hostname: str) -> None:
    recap = run_site(hostname, playbook="playbooks/validate.yml")
    assert recap["ok"] > 0
    assert recap["changed"] == 0
