"""What the health service tells: a state file for people and programs, and metrics for Prometheus.

/run/citadel/health/state.json     everything, for `citadel status` and scripts
/run/citadel/health/metrics.prom   in the node exporter's folder of text files by a link
"""

import contextlib
import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from citadel_llm.health_checks.monitor import Monitor
from citadel_llm.health_checks.state_file import STATE_FILE, read
from citadel_llm.health_checks.states import State, attempts_left

METRICS_FILE = "health/metrics.prom"
_MODE = 0o644


def write(monitor: Monitor, run_dir: Path, now: float, *, running: bool = True) -> None:
    """Write both files, each in one step, readable by all.

    Args:
        monitor: What is known.
        run_dir: The folder under /run.
        now: Seconds of the epoch.
        running: Whether it goes on; when not, there are no metrics, for nothing is looked at any more.

    Raises:
        OSError: They cannot be written.
    """
    path = run_dir / STATE_FILE
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"running": running, **as_json(monitor, now)}, indent=1), encoding="utf-8")
    draft.chmod(_MODE)
    draft.replace(path)
    registry = CollectorRegistry()
    if running:
        registry.register(_Collector(monitor))
    # Written in one step, too; it takes the mode that the umask leaves.
    with _umask(0o777 - _MODE):
        write_to_textfile(str(run_dir / METRICS_FILE), registry)


def as_json(monitor: Monitor, now: float) -> dict[str, Any]:
    """Everything that is known."""
    checks = []
    for check in monitor.checks:
        state, recovery = monitor.states[check.name], check.options.recovery
        checks.append(
            {
                "check": check.name,
                "kind": check.kind,
                "status": state.status,
                "detail": state.detail,
                "since": _iso(state.since),
                "looked": _iso(state.looked),
                "bad_in_a_row": state.bad,
                "good_in_a_row": state.good,
                "depends_on": list(check.options.depends_on),
                "remedy": check.remedy if state.failed else "",
                "recovery": {
                    "action": recovery.action,
                    "service": recovery.service,
                    "attempts_left": attempts_left(recovery, state, now),
                    "attempts_at": list(state.recoveries),
                    "told": state.told,
                    "gave_up": state.gave_up,
                },
            }
        )
    return {
        "written": _iso(now),
        "well": not any(each["status"] == "failed" for each in checks),
        "checks": checks,
    }


def remembered(run_dir: Path) -> dict[str, State]:
    """What of each check must not be forgotten when the service starts again: what was done, and told."""
    states: dict[str, State] = {}
    with contextlib.suppress(KeyError, TypeError, ValueError):
        for each in (read(run_dir) or {"checks": []})["checks"]:
            known = each["recovery"]
            states[each["check"]] = State(
                recoveries=tuple(float(when) for when in known["attempts_at"]),
                told=bool(known["told"]),
                gave_up=bool(known["gave_up"]),
            )
    return states


def summary(monitor: Monitor) -> str:
    """One line for `citadel status`."""
    by_status: dict[str, list[str]] = {}
    for check in monitor.checks:
        by_status.setdefault(monitor.states[check.name].status, []).append(check.name)
    failed = [f"{name} ({monitor.states[name].detail})" for name in by_status.get("failed", [])]
    others = [
        f"{len(names)} {status}" for status, names in by_status.items() if status not in {"ok", "failed"}
    ]
    parts = [f"{len(by_status.get('ok', []))} checks ok", *others]
    return "; ".join(["failed: " + ", ".join(failed), *parts] if failed else parts)


class _Collector(Collector):
    """The monitor's metrics."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """The metrics, each with a sample for every check."""
        states = self._monitor.states
        labels = ["check", "kind"]
        failed = GaugeMetricFamily(
            "citadel_health_check_failed", "Whether a check has failed.", labels=labels
        )
        skipped = GaugeMetricFamily(
            "citadel_health_check_skipped",
            "Whether there was nothing to look at, or no sense in it.",
            labels=labels,
        )
        gave_up = GaugeMetricFamily(
            "citadel_health_recovery_given_up",
            "Whether recovering used its budget up in vain.",
            labels=labels,
        )
        looked = GaugeMetricFamily(
            "citadel_health_check_timestamp_seconds", "When a check was looked at last.", labels=labels
        )
        took = GaugeMetricFamily(
            "citadel_health_check_duration_seconds", "How long its last look took.", labels=labels
        )
        recoveries = CounterMetricFamily(
            "citadel_health_recoveries", "How often something was done about it.", labels=[*labels, "action"]
        )
        for check in self._monitor.checks:
            state, values = states[check.name], [check.name, check.kind]
            failed.add_metric(values, state.failed)
            skipped.add_metric(values, state.status == "skipped")
            gave_up.add_metric(values, state.gave_up)
            looked.add_metric(values, state.looked)
            took.add_metric(values, self._monitor.seconds.get(check.name, 0.0))
            if check.options.recovery.acts:
                action = check.options.recovery.action
                recoveries.add_metric([*values, action], self._monitor.done[check.name])
        yield from (failed, skipped, gave_up, looked, took, recoveries)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _iso(when: float) -> str | None:
    if not when:
        return None
    return datetime.datetime.fromtimestamp(when, datetime.UTC).isoformat(timespec="seconds")
