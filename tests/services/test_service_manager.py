"""Against states as systemd gives them; test_systemd.py has how they are read."""

from dataclasses import replace
from typing import Any

import pytest

from citadel_llm.config import Settings
from citadel_llm.services import service_manager as manager
from citadel_llm.services.service_manager import Service, ServiceStatus, State, plan
from citadel_llm.services.systemd import UnitState

MODEL = {"name": "small", "aliases": ["tiny"], "source": {"kind": "folder", "path": "/x"}}
SETTINGS = Settings.model_validate({"environment": "staging", "engine": {"build": "cpu"}, "models": [MODEL]})
GATEWAY = Service("gateway", "citadel-gateway.service")
ENGINE = Service("small", "citadel-engine@small.service")
HEALTH = Service("health", "citadel-health.service")

RUNNING = UnitState(
    unit="citadel-gateway.service",
    active_state="active",
    sub_state="running",
    status_text="ready after 0.3 s",
    main_pid=2853,
    active_enter=3498.09722,
    memory_bytes=69783552,
    restarts=2,
)
NEVER_STARTED = UnitState(unit="citadel-engine@small.service", sub_state="dead")


def test_the_services_are_those_of_the_settings() -> None:
    assert manager.services_of(SETTINGS) == [GATEWAY, ENGINE, HEALTH]


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("gateway", [GATEWAY]),
        ("small", [ENGINE]),
        ("tiny", [ENGINE]),
        ("citadel-engine@small.service", [ENGINE]),
        ("smal", []),
    ],
)
def test_a_word_means_services(name: str, service: list[Service]) -> None:
    assert manager.find_services(SETTINGS, name) == service


def test_a_model_means_all_its_engines() -> None:
    model = SETTINGS.models[0]
    several = model.model_copy(update={"engine": model.engine.model_copy(update={"replicas": 2})})
    settings = SETTINGS.model_copy(update={"models": (several,)})
    second = Service("small.2", "citadel-engine@small.2.service")
    assert manager.services_of(settings) == [GATEWAY, ENGINE, second, HEALTH]
    assert manager.find_services(settings, "tiny") == [ENGINE, second]
    assert manager.find_services(settings, "small.2") == [second]


def test_the_gateway_means_all_its_workers() -> None:
    limits = SETTINGS.gateway.limits.model_copy(update={"store": "valkey://127.0.0.1/0"})
    gateway = SETTINGS.gateway.model_copy(update={"workers": 2, "limits": limits})
    settings = SETTINGS.model_copy(update={"gateway": gateway})
    second = Service("gateway.2", "citadel-gateway@2.service")
    assert manager.services_of(settings) == [GATEWAY, second, ENGINE, HEALTH]
    assert manager.find_services(settings, "gateway") == [GATEWAY, second]
    assert manager.find_services(settings, "gateway.2") == [second]


def test_a_status_is_read() -> None:
    assert manager.status_of(GATEWAY, RUNNING, now=3600.0) == ServiceStatus(
        name="gateway",
        unit="citadel-gateway.service",
        state="running",
        says="ready after 0.3 s",
        pid=2853,
        seconds=101.9,
        memory_bytes=69783552,
        restarts=2,
    )
    stopped = ServiceStatus(name="small", unit="citadel-engine@small.service", state="stopped")
    assert manager.status_of(ENGINE, NEVER_STARTED, now=3600.0) == stopped


@pytest.mark.parametrize(
    ("unit", "state", "says", "pending"),
    [
        (
            replace(RUNNING, active_state="reloading", sub_state="reload"),
            "running",
            "ready after 0.3 s",
            False,
        ),
        (replace(RUNNING, job=True), "running", "ready after 0.3 s", True),
        (
            replace(NEVER_STARTED, active_state="activating", sub_state="start", status_text="loading (3 s)"),
            "starting",
            "loading (3 s)",
            True,
        ),
        (
            replace(RUNNING, active_state="deactivating", sub_state="stop-sigterm", status_text="finishing"),
            "stopping",
            "finishing",
            True,
        ),
        (
            replace(
                NEVER_STARTED, active_state="failed", result="exit-code", status_text="failed: out of memory"
            ),
            "failed",
            "failed: out of memory",
            False,
        ),
        (
            replace(NEVER_STARTED, active_state="failed", result="watchdog"),
            "failed",
            "systemd: watchdog",
            False,
        ),
        (
            replace(NEVER_STARTED, active_state="activating", sub_state="auto-restart", result="exit-code"),
            "failed",
            "systemd: exit-code (systemd tries again)",
            False,
        ),
        (replace(NEVER_STARTED, status_text="left over"), "stopped", "", False),
        (replace(NEVER_STARTED, load_state="not-found"), "missing", "its unit is not-found", False),
    ],
)
def test_states(unit: UnitState, state: State, says: str, pending: bool) -> None:
    status = manager.status_of(ENGINE, unit, now=3600.0)
    assert (status.state, status.says, status.pending) == (state, says, pending)


def running(*units: str) -> list[ServiceStatus]:
    return [ServiceStatus(name=unit, unit=unit, state="running") for unit in units]


FIRST, SECOND, ANY = "citadel-gateway.service", "citadel-gateway@2.service", "citadel-engine@small.service"


@pytest.mark.parametrize(
    ("verb", "before", "whole", "planned"),
    [
        ("start", running(FIRST, ANY), True, [("start", "citadel.target")]),
        ("start", running(ANY), False, [("start", ANY)]),
        # A successor takes over from the gateway; its further workers follow the first.
        ("restart", running(FIRST, SECOND, ANY), False, [("reload", FIRST), ("restart", ANY)]),
        ("restart", running(SECOND), False, [("reload", SECOND)]),
        ("reload", running(FIRST, SECOND), True, [("reload", FIRST)]),
        ("stop", running(FIRST, SECOND), False, [("stop", FIRST), ("stop", SECOND)]),
    ],
)
def test_what_systemd_is_to_do(verb: Any, before: list[ServiceStatus], whole: bool, planned: Any) -> None:
    assert plan(verb, before, whole=whole) == planned
