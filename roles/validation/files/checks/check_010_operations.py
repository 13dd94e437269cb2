"""Task-010: what an operator has at hand."""

import pytest
from testinfra.host import Host

from checks.probe import doctor, said
from checks.recorder import Evidence, NotProven
from checks.site import Site

COMMANDS = ("status", "start", "stop", "restart", "logs", "doctor", "keys", "config")


def as_operator(site: Site, command: str) -> str:
    """A command, as the operator would type it after logging in."""
    return f"runuser --login {site.user} --command '{command}'"


@pytest.mark.item("010", "Startup and shutdown scripts created")
def check_start_and_stop(host: Host, site: Site, evidence: Evidence) -> None:
    for verb in ("start", "stop", "restart"):
        said(host, as_operator(site, f"citadel {verb} --help"))
    evidence("`citadel start | stop | restart` in the operator's login")
    evidence("playbooks/start.yml and stop.yml for all hosts")


@pytest.mark.item("010", "Backup and recovery scripts implemented")
def check_backup(not_proven: NotProven) -> None:
    not_proven("there is no backup yet")


@pytest.mark.item("010", "Maintenance and cleanup scripts created")
def check_cleanup(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    releases = said(host, f"ls {site.root}/releases").split()
    evidence(f"each deploy removes old releases and environments: {len(releases)} releases are kept")
    not_proven("there is no maintenance beyond that yet")


@pytest.mark.item("010", "Monitoring and alerting scripts set up")
def check_status(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    lines = said(host, as_operator(site, "citadel status")).splitlines()
    evidence(f"`citadel status` lists {len(lines) - 1} services")
    not_proven("there is no alerting yet")


@pytest.mark.item("010", "Deployment and update scripts implemented")
def check_releases(host: Host, site: Site, evidence: Evidence) -> None:
    current = said(host, f"readlink {site.root}/current")
    assert current.startswith("releases/")
    evidence(f"site.yml installs a release beside the one in use; in use: {current}")


@pytest.mark.item("010", "Troubleshooting and diagnostic scripts created")
def check_doctor(host: Host, site: Site, evidence: Evidence) -> None:
    looked_at = len(doctor(host, site.user))
    said(host, as_operator(site, "citadel logs --help"))
    evidence(f"`citadel doctor` looks at {looked_at} things, `citadel logs` follows a service")


@pytest.mark.item("010", "Operational scripts validated")
def check_commands(host: Host, site: Site, evidence: Evidence) -> None:
    offered = said(host, as_operator(site, "citadel --help"))
    missing = [command for command in COMMANDS if command not in offered]
    assert not missing, f"`citadel --help` lacks {missing}"
    words = said(
        host, "COMP_WORDS='citadel sta' COMP_CWORD=1 _CITADEL_COMPLETE=complete_bash citadel"
    ).split()
    assert {"status", "start"} <= set(words), f"completion offers {words}"
    evidence(f"`citadel` knows {', '.join(COMMANDS)}, and completes them")
