"""Against what `systemctl show` of systemd 252 wrote on a lab host."""

import os
from pathlib import Path

import pytest

from citadel_llm.config import Settings
from citadel_llm.services import service_manager as manager
from citadel_llm.services.service_manager import ManagerError, Service, ServiceStatus, State

MODEL = {"name": "small", "aliases": ["tiny"], "source": {"kind": "folder", "path": "/x"}}
SETTINGS = Settings.model_validate({"environment": "staging", "engine": {"build": "cpu"}, "models": [MODEL]})
GATEWAY = Service("gateway", "citadel-gateway.service")
ENGINE = Service("small", "citadel-engine@small.service")
HEALTH = Service("health", "citadel-health.service")

RUNNING = """\
MainPID=2853
StatusText=ready after 0.3 s
Result=success
NRestarts=2
MemoryCurrent=69783552
Id=citadel-gateway.service
LoadState=loaded
ActiveState=active
SubState=running
ActiveEnterTimestampMonotonic=3498097220
Job=
"""
NEVER_STARTED = """\
MainPID=0
StatusText=
Result=success
NRestarts=0
MemoryCurrent=[not set]
Id=citadel-engine@small.service
LoadState=loaded
ActiveState=inactive
SubState=dead
ActiveEnterTimestampMonotonic=0
Job=
"""


def changed(block: str, **fields: str) -> str:
    lines = dict(line.split("=", 1) for line in block.splitlines())
    return "".join(f"{key}={value}\n" for key, value in {**lines, **fields}.items())


def one(block: str) -> ServiceStatus:
    return manager.parse_statuses([ENGINE], block, now=3600.0)[0]


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


def test_blocks_are_read_in_the_order_asked_for() -> None:
    gateway, engine = manager.parse_statuses([GATEWAY, ENGINE], f"{RUNNING}\n{NEVER_STARTED}", now=3600.0)
    assert gateway == ServiceStatus(
        name="gateway",
        unit="citadel-gateway.service",
        state="running",
        says="ready after 0.3 s",
        pid=2853,
        seconds=101.9,
        memory_bytes=69783552,
        restarts=2,
    )
    assert engine == ServiceStatus(name="small", unit="citadel-engine@small.service", state="stopped")


@pytest.mark.parametrize(
    ("block", "state", "says", "pending"),
    [
        (changed(RUNNING, ActiveState="reloading", SubState="reload"), "running", "ready after 0.3 s", False),
        (changed(RUNNING, Job="4711"), "running", "ready after 0.3 s", True),
        (
            changed(NEVER_STARTED, ActiveState="activating", SubState="start", StatusText="loading (3 s)"),
            "starting",
            "loading (3 s)",
            True,
        ),
        (
            changed(RUNNING, ActiveState="deactivating", SubState="stop-sigterm", StatusText="finishing"),
            "stopping",
            "finishing",
            True,
        ),
        (
            changed(
                NEVER_STARTED, ActiveState="failed", Result="exit-code", StatusText="failed: out of memory"
            ),
            "failed",
            "failed: out of memory",
            False,
        ),
        (
            changed(NEVER_STARTED, ActiveState="failed", Result="watchdog"),
            "failed",
            "systemd: watchdog",
            False,
        ),
        (
            changed(NEVER_STARTED, ActiveState="activating", SubState="auto-restart", Result="exit-code"),
            "failed",
            "systemd: exit-code (systemd tries again)",
            False,
        ),
        (changed(NEVER_STARTED, StatusText="left over"), "stopped", "", False),
        (changed(NEVER_STARTED, LoadState="not-found"), "missing", "its unit is not-found", False),
    ],
)
def test_states(block: str, state: State, says: str, pending: bool) -> None:
    status = one(block)
    assert (status.state, status.says, status.pending) == (state, says, pending)


def test_memory_that_nobody_counts() -> None:
    assert one(changed(RUNNING, MemoryCurrent=str(2**64 - 1))).memory_bytes is None


def test_fewer_answers_than_questions() -> None:
    with pytest.raises(ManagerError, match="told of 1 units where 2"):
        manager.parse_statuses([GATEWAY, ENGINE], RUNNING, now=1.0)


def test_a_host_without_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "SYSTEMCTL", str(tmp_path / "systemctl"))
    with pytest.raises(ManagerError, match="cannot be run: No such file"):
        manager.read_statuses([GATEWAY])


def test_who_is_not_root_asks_sudo_for_exactly_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\necho "sudo: $*: a password is required" >&2\nexit 1\n')
    sudo.chmod(0o755)
    monkeypatch.setattr(manager, "SUDO", str(sudo))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    change = manager.change("restart", "citadel-engine@small.service")
    with pytest.raises(manager.NotPermittedError) as caught:
        change.result()
    assert "sudo: -n /usr/bin/systemctl restart citadel-engine@small.service: a password" in str(caught.value)
