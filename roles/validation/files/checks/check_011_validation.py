"""Task-011: the whole, once through."""

import re

import pytest
from testinfra.host import Host

from checks.probe import doctor, modes, said
from checks.recorder import Evidence, NotProven
from checks.site import Site


@pytest.mark.item("011", "End-to-end system validation performed")
def check_whole(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    if not site.resident_models:
        not_proven("no model is resident: there is none to answer")
    failed = [one["check"] for one in doctor(host, site.user) if one["verdict"] == "failed"]
    assert not failed, f"`citadel doctor` finds wrong: {', '.join(failed)}"
    evidence(
        "a real answer came through gateway and engine (Task-007), and `citadel doctor` finds nothing wrong"
    )


@pytest.mark.item("011", "All service integrations validated")
def check_integrations(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    if not site.external_services:
        not_proven("the inventory names no external services (citadel_external_services)")
    for service in site.external_services:
        address = f"/dev/tcp/{service['host']}/{service['port']}"
        assert host.run("timeout 5 bash -c %s", f"exec 3<>{address}").rc == 0, (
            f"{service['name']} cannot be reached"
        )
        evidence(f"{service['name']} at {service['host']}:{service['port']}")


@pytest.mark.item("011", "Configuration management tested")
def check_configuration(host: Host, site: Site, evidence: Evidence) -> None:
    evidence(said(host, f"citadel config validate --directory {site.root}/config"))


@pytest.mark.item("011", "Monitoring and logging verified")
def check_monitoring(host: Host, evidence: Evidence) -> None:
    services = ("prometheus.service", "prometheus-node-exporter.service", "systemd-journald.service")
    states = said(host, f"systemctl is-active {' '.join(services)}").split()
    assert set(states) == {"active"}, dict(zip(services, states, strict=True))
    evidence(f"{', '.join(services)} run")


@pytest.mark.item("011", "Security validation performed")
def check_listeners(host: Host, site: Site, evidence: Evidence) -> None:
    listening = said(host, "ss --listening --tcp --numeric --no-header --processes").splitlines()
    ours = [line for line in listening if re.search(r"citadel|python|VLLM", line)]
    ports = {
        int(line.split()[3].rsplit(":", 1)[1])
        for line in ours
        if not line.split()[3].startswith(("127.", "[::1]"))
    }
    assert ports <= {site.api_port}, f"listening beyond loopback: {sorted(ports)}"
    evidence(f"only port {site.api_port} of Citadel's listens beyond loopback")


@pytest.mark.item("011", "Security validation performed")
def check_files(host: Host, site: Site, evidence: Evidence) -> None:
    wanted = {site.key_file: f"regular file {site.user}:{site.group} 600"}
    wanted |= {
        f"/run/citadel/engines/{name}.sock": "socket citadel-engine:citadel-gateway 660"
        for name in site.engine_names(site.resident_models)
    }
    found = modes(host, wanted)
    assert found == wanted, f"found {found}"
    writable = said(
        host,
        f"find {site.root}/config {site.root}/releases {site.root}/envs {site.root}/tools "
        "( -not -user root -o -perm /022 ) -not -type l -print -quit".replace("(", "\\(").replace(")", "\\)"),
    )
    assert not writable, f"not root's alone to write: {writable}"
    evidence("the first key is the operator's alone, sockets are the gateway's; what is executed is root's")
