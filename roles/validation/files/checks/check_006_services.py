"""Task-006: the services' framework, as it shows in the services that run on it."""

import json

import pytest
from testinfra.host import Host

from checks.probe import doctor, fetch, processes, said, units
from checks.recorder import Evidence, NotProven
from checks.site import Site


@pytest.mark.item("006", "Base service template created")
@pytest.mark.item("006", "API gateway service structure created")
def check_gateway(host: Host, site: Site, evidence: Evidence) -> None:
    properties = ("Type", "StatusText", "ActiveState", "WatchdogTimestamp")
    for name, found in units(host, site.gateways, *properties).items():
        assert (found["Type"], found["ActiveState"]) == ("notify", "active"), name
        assert found["WatchdogTimestamp"], f"{name}: the watchdog is not fed"
        evidence(f"{name} told systemd: {found['StatusText']}")
        evidence(f"it last fed the watchdog at {found['WatchdogTimestamp']}")


@pytest.mark.item("006", "vLLM service framework implemented")
def check_engines(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    if not site.resident_models:
        not_proven("no model is resident")
    for name, found in units(host, site.engines, "Type", "StatusText", "ActiveState", "ControlGroup").items():
        assert (found["Type"], found["ActiveState"]) == ("notify", "active"), name
        assert len(processes(host, found["ControlGroup"])) > 1, f"{name} supervises no process"
        evidence(f"{name}: {found['StatusText']}")


@pytest.mark.item("006", "Monitoring service framework set up")
def check_metrics(host: Host, site: Site, evidence: Evidence) -> None:
    lines = fetch(host, f"{site.api_scheme}://127.0.0.1:{site.api_port}/metrics").splitlines()
    own = {line.split("{")[0].split(" ")[0] for line in lines if line.startswith("citadel_gateway_")}
    engines = {line.split("{")[0] for line in lines if line.startswith("vllm:")}
    assert own, "the gateway shows no metrics of its own"
    assert engines or not site.resident_models, "the engines' metrics are not among the gateway's"
    evidence(f"{len(own)} metrics of the gateway, {len(engines)} of the engines")


@pytest.mark.item("006", "Health check utilities implemented")
def check_health(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    state = json.loads(said(host, "cat /run/citadel/health/state.json"))
    assert state["running"], "the health checks' service does not run"
    evidence(f"the health checks look at {len(state['checks'])} things all the time")
    findings = doctor(host, site.user)
    if not site.resident_models:
        not_proven(f"`citadel doctor` looks at {len(findings)} things; no model is resident")
    failed = [f"{one['check']}: {one['detail']}" for one in findings if one["verdict"] == "failed"]
    assert not failed, "; ".join(failed)
    evidence(f"`citadel doctor` looks at {len(findings)} things and finds nothing wrong")


@pytest.mark.item("006", "Service lifecycle management created")
def check_lifecycle(host: Host, site: Site, evidence: Evidence) -> None:
    statuses = json.loads(said(host, f"runuser --login {site.user} --command 'citadel status --json'"))
    states = {status["unit"]: status["state"] for status in statuses}
    assert set(states) == {*site.services[1:], *site.engines_on_demand}
    always = {unit: state for unit, state in states.items() if unit not in site.engines_on_demand}
    assert set(always.values()) == {"running"}, always
    assert {states[unit] for unit in site.engines_on_demand} <= {"running", "stopped"}, states
    evidence(", ".join(f"{status['name']} {status['state']}" for status in statuses))


@pytest.mark.quick
@pytest.mark.item("006", "Service framework validated")
def check_running(host: Host, site: Site, evidence: Evidence) -> None:
    found = units(host, site.services, "ActiveState", "SubState", "StatusText")
    wrong = [
        f"{name} is {unit['ActiveState']} ({unit['SubState']})"
        for name, unit in found.items()
        if unit["ActiveState"] != "active"
    ]
    assert not wrong, "; ".join(wrong)
    evidence(f"{len(found)} units active")
