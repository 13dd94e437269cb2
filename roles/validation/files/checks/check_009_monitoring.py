"""Task-009: metrics and logs."""

import json
import time
from typing import Any
from urllib.parse import quote

import pytest
from testinfra.host import Host

from checks.probe import fetch_json, said
from checks.recorder import Evidence, NotProven
from checks.site import Site

JOBS = {"citadel-gateway", "node", "prometheus"}


def query(host: Host, site: Site, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers to an expression."""
    url = f"http://127.0.0.1:{site.prometheus_port}/api/v1/query?query={quote(expression)}"
    return list(fetch_json(host, url)["data"]["result"])


@pytest.mark.quick
@pytest.mark.item("009", "Prometheus metrics collection set up")
def check_targets(host: Host, site: Site, evidence: Evidence) -> None:
    url = f"http://127.0.0.1:{site.prometheus_port}/api/v1/targets?state=active"
    # A Prometheus that has just been started takes some seconds to know its targets. One that it calls down
    # may have been started since it looked: the next look judges it.
    seen: dict[str, str] = {}
    for _ in range(35):
        targets = fetch_json(host, url)["data"]["activeTargets"]
        health = {target["labels"]["job"]: target["health"] for target in targets}
        down = [target for target in targets if target["health"] == "down"]
        old = [
            each
            for each in down
            if seen.setdefault(each["scrapeUrl"], each["lastScrape"]) == each["lastScrape"]
        ]
        if set(health) == JOBS and not old:
            break
        time.sleep(2)
    assert set(health) == JOBS
    # A target that was not scraped yet is unknown, which is no fault.
    errors = [f"{target['labels']['job']}: {target['lastError']}" for target in down]
    assert not errors, "; ".join(errors)
    evidence(", ".join(f"{job} {state}" for job, state in sorted(health.items())))


@pytest.mark.item("009", "Grafana dashboards configured")
def check_dashboards(not_proven: NotProven) -> None:
    not_proven("no dashboards are deployed yet")


@pytest.mark.item("009", "Log aggregation and analysis implemented")
def check_logs(host: Host, evidence: Evidence) -> None:
    lines = said(host, "journalctl --unit=citadel-gateway --lines=50 --output=cat").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    assert entries, "the gateway's log is not JSON"
    evidence(f"the journal holds JSON entries with {', '.join(sorted(entries[-1]))}")


@pytest.mark.item("009", "Alerting rules and notifications created")
def check_alerts(not_proven: NotProven) -> None:
    not_proven("no alerting rules are deployed yet")


@pytest.mark.item("009", "Performance monitoring set up")
def check_performance(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    if not site.resident_models:
        not_proven("no model is resident: no engine has metrics")
    for expression in (
        "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_count",
        "node_load1",
    ):
        found = query(host, site, expression)
        assert found, f"Prometheus has no {expression}"
        evidence(f"{expression}: {len(found)} series")


@pytest.mark.item("009", "Health check monitoring implemented")
def check_health(host: Host, site: Site, evidence: Evidence) -> None:
    active = query(host, site, 'node_systemd_unit_state{state="active",name=~"citadel.*service"} == 1')
    names = {series["metric"]["name"] for series in active}
    assert set(site.services) - {"citadel.target"} <= names
    evidence(f"the states of {len(names)} units are metrics")
    checks = query(host, site, "citadel_health_check_failed")
    assert checks, "Prometheus has nothing of the health checks"
    evidence(f"what {len(checks)} health checks find are metrics")


@pytest.mark.item("009", "Monitoring and logging validated")
def check_up(host: Host, site: Site, evidence: Evidence) -> None:
    down = query(host, site, "up == 0")
    assert not down, f"down: {[series['metric'] for series in down]}"
    evidence(f"{len(query(host, site, 'up == 1'))} targets up")
