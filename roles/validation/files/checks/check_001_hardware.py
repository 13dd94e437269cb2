"""Task-001: the machine is what its profile asks for. The role `hardware` looks; its report is read here."""

import json
from typing import Any

import pytest
from testinfra.host import Host

from checks.probe import said
from checks.recorder import Evidence, NotProven
from checks.site import Site


@pytest.fixture(scope="module")
def report(host: Host, site: Site) -> dict[str, Any]:
    """What the role found: `facts` and `findings`."""
    return dict(json.loads(said(host, "cat %s", site.hardware_report)))


@pytest.mark.parametrize(
    "prefixes",
    [
        pytest.param(("CPU",), marks=pytest.mark.item("001", "CPU specifications validated")),
        pytest.param(("memory",), marks=pytest.mark.item("001", "Memory specifications validated")),
        pytest.param(("storage",), marks=pytest.mark.item("001", "Storage specifications validated")),
        pytest.param(("GPU",), marks=pytest.mark.item("001", "GPU specifications validated")),
        pytest.param(("driver",), marks=pytest.mark.item("001", "NVIDIA driver validated")),
        pytest.param(
            ("operating system", "clock", "swap"),
            marks=pytest.mark.item("001", "Operating system validated"),
        ),
        pytest.param(("service", "name"), marks=pytest.mark.item("001", "Network connectivity validated")),
    ],
)
def check_hardware(
    report: dict[str, Any], prefixes: tuple[str, ...], evidence: Evidence, not_proven: NotProven
) -> None:
    findings = [finding for finding in report["findings"] if finding["requirement"].startswith(prefixes)]
    if not findings:
        not_proven("the inventory asks for nothing of it (hardware_profile, citadel_external_services)")
    for finding in findings:
        evidence(f"{finding['requirement']}: {finding['found']}")
    missed = [f"{finding['requirement']}: {finding['remedy']}" for finding in findings if not finding["met"]]
    assert not missed, "; ".join(missed)


@pytest.mark.item("001", "Hardware validation documented")
def check_recorded(report: dict[str, Any], host: Host, site: Site, evidence: Evidence) -> None:
    assert report["facts"], f"{site.hardware_report} holds no facts"
    page = site.hardware_report.removesuffix(".json") + ".html"
    assert "<svg" in said(host, "cat %s", page), f"{page} holds no picture of the machine"
    evidence(f"facts, findings and the machine's picture on the host: {site.hardware_report}, {page}")
