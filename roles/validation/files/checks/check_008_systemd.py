"""Task-008: the units, and what systemd makes of them."""

import json

import pytest
from testinfra.host import Host

from checks.probe import modes, said, units
from checks.recorder import Evidence
from checks.site import Site


def services(site: Site) -> list[str]:
    """The gateway and the engines."""
    return [name for name in site.services if name.endswith(".service")]


def seconds(text: str) -> float:
    """A time span as systemd writes it (`1min 30s`), in seconds."""
    factors = {"h": 3600, "min": 60, "s": 1, "ms": 0.001}
    parts = (part for part in text.split())
    total = 0.0
    for part in parts:
        unit = part.lstrip("0123456789.")
        total += float(part.removesuffix(unit)) * factors[unit]
    return total


@pytest.mark.item("008", "Systemd service templates created")
def check_units(host: Host, site: Site, evidence: Evidence) -> None:
    found = units(host, services(site), "LoadState", "UnitFileState", "FragmentPath")
    wrong = [
        name
        for name, unit in found.items()
        if (unit["LoadState"], unit["UnitFileState"]) != ("loaded", "enabled")
    ]
    assert not wrong, f"not installed or not enabled: {wrong}"
    evidence(", ".join(sorted({unit["FragmentPath"] for unit in found.values()})))


@pytest.mark.item("008", "Service startup scripts implemented")
def check_start(host: Host, site: Site, evidence: Evidence) -> None:
    for name, unit in units(host, services(site), "ExecStart").items():
        assert f"{site.root}/current/venv/bin/citadel run" in unit["ExecStart"], name
    assert said(host, "readlink --canonicalize /usr/local/bin/citadel").startswith(f"{site.root}/releases/")
    evidence("every service is started by `citadel run`")


@pytest.mark.item("008", "Service monitoring and restart policies set up")
def check_restart(host: Host, site: Site, evidence: Evidence) -> None:
    found = units(host, services(site), "Restart", "WatchdogUSec", "NRestarts", "RestartPreventExitStatus")
    for name, unit in found.items():
        assert unit["Restart"] == "on-failure", name
        assert unit["WatchdogUSec"] not in {"0", "infinity"}, f"{name} has no watchdog"
    evidence(
        ", ".join(
            f"{name}: watchdog {unit['WatchdogUSec']}, {unit['NRestarts']} restarts"
            for name, unit in found.items()
        )
    )


@pytest.mark.item("008", "Log rotation and management configured")
def check_journal(host: Host, evidence: Evidence) -> None:
    settings = said(host, "systemd-analyze cat-config systemd/journald.conf")
    budget = [line for line in settings.splitlines() if line.startswith("SystemMaxUse=")]
    assert budget, "the journal has no budget"
    assert modes(host, ["/var/log/journal"]), "the journal does not outlive a restart"
    evidence(f"{budget[-1]}; {said(host, 'journalctl --disk-usage')}")


@pytest.mark.item("008", "Service dependency management created")
def check_dependencies(host: Host, site: Site, evidence: Evidence) -> None:
    target = units(host, ["citadel.target"], "Wants", "WantedBy")["citadel.target"]
    assert set(services(site)) <= set(target["Wants"].split())
    assert "multi-user.target" in target["WantedBy"].split()
    for name, unit in units(host, services(site), "PartOf").items():
        assert "citadel.target" in unit["PartOf"].split(), name
    evidence(f"citadel.target, wanted by multi-user.target, groups {len(services(site))} services")


@pytest.mark.item("008", "Graceful shutdown procedures implemented")
def check_stop(host: Host, site: Site, evidence: Evidence) -> None:
    settings = json.loads(said(host, f"citadel config show --json --directory {site.root}/config"))
    drains = {
        f"citadel-engine@{name}.service": model["engine"]["drain_timeout"]
        for model in settings["models"]
        for name in site.engine_names([model])
    }
    drains |= dict.fromkeys(site.gateways, settings["gateway"]["drain_timeout_seconds"])
    for name, unit in units(host, services(site), "TimeoutStopUSec", "KillMode").items():
        assert unit["KillMode"] == "mixed", name
        limit = seconds(unit["TimeoutStopUSec"])
        drain = drains.get(name, 0)
        assert limit > drain, f"{name} is killed after {limit} s, and may need {drain} s to drain"
    evidence("each service may take longer to stop than its requests in flight may take to finish")


@pytest.mark.item("008", "Systemd integration validated")
def check_security(host: Host, site: Site, evidence: Evidence) -> None:
    for name in services(site):
        most = 2.5 if name in site.engines else 1.5
        verdict = said(host, f"systemd-analyze security --no-pager {name}").splitlines()[-1]
        score = float(verdict.split(":")[-1].split()[0])
        assert score <= most, f"{name} scores {score}, more than {most}"
        evidence(f"exposure of {name}: {score}")
    failed = said(host, "systemctl list-units --failed --plain --no-legend 'citadel*'")
    assert not failed, failed
