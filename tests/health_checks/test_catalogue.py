"""Which checks a host has, from its settings."""

from pathlib import Path
from typing import Any

import pytest

from citadel_llm import config
from citadel_llm.config import Settings
from citadel_llm.config.layers import Layers
from citadel_llm.health_checks.catalogue import CheckError, HealthCheck, checks_of
from citadel_llm.services.systemd import Systemd

COLD = {"residency": "cold", "max_model_len": 2048, "kv_cache_bytes": 1}


def model(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "source": {"kind": "folder", "path": "/x"}, **more}


def settings(**changes: Any) -> Settings:
    tree = {"environment": "staging", "root": "/", "models_root": "/", "models": [model("phi")], **changes}
    return Settings.model_validate(tree)


def found(**changes: Any) -> dict[str, HealthCheck]:
    return {check.name: check for check in checks_of(settings(**changes), Systemd())}


def test_a_host_is_looked_at_without_any_setting() -> None:
    checks = found(engine={"build": "cpu"})
    assert list(checks) == [
        "unit:gateway",
        "unit:phi",
        "unit:health",
        "gateway",
        "ready",
        "engine:phi",
        "disk:/",
        "memory",
        "cpu",
    ]
    acting = {
        name: check.options.recovery.service for name, check in checks.items() if check.options.recovery.acts
    }
    assert acting == {"gateway": "gateway"}


def test_what_is_there_with_more() -> None:
    tls = {"certificate": "/cert.pem", "key": {"file": "/key.pem"}}
    workers = {"workers": 2, "limits": {"store": "valkey://127.0.0.1/0"}}
    checks = found(
        gateway={"tls": tls, "address": "::", **workers},
        models=[model("phi", engine={"gpus": [2, 3], "tensor_parallel_size": 2})],
    )
    assert {"certificate", "gpu:2", "gpu:3", "unit:gateway.2"} <= set(checks)
    # Several share the port, and a restart would be of the first, whichever of them hangs.
    assert not checks["gateway"].options.recovery.acts


def test_a_model_on_demand_need_not_be_ready() -> None:
    checks = found(models=[model("phi", plan=COLD)], engine={"build": "cpu"})
    assert "ready" not in checks
    assert checks["engine:phi"].options.depends_on == ("unit:phi",)


def test_the_site_tunes_one_or_a_family_and_switches_off() -> None:
    checks = found(
        models=[model("phi"), model("smol")],
        health={
            "built_in": {
                "engine": {"failures": 9},
                "engine:phi": {
                    "interval_seconds": 7,
                    "recovery": {"action": "drain", "service": "phi", "attempts": 1},
                },
                "cpu": {"enabled": False},
            },
            "checks": [
                {"name": "store", "kind": "tcp", "address": "10.0.0.5:6379", "depends_on": ["memory"]}
            ],
        },
    )
    phi, smol = checks["engine:phi"].options, checks["engine:smol"].options
    assert (phi.interval_seconds, phi.failures, phi.recovery.action) == (7, 4, "drain")
    assert (smol.interval_seconds, smol.failures, smol.recovery.action) == (15, 9, "notify")
    assert "cpu" not in checks
    assert list(checks)[-1] == "store"
    # What a check rests on stands before it, and one that is switched off is in nobody's way.
    assert "gateway" in found(health={"built_in": {"unit": {"enabled": False}}})


def test_built_in_ones_cannot_rest_on_each_other_in_a_ring() -> None:
    with pytest.raises(CheckError, match="unit:gateway -> gateway -> unit:gateway"):
        found(health={"built_in": {"unit:gateway": {"depends_on": ["gateway"]}}})


@pytest.mark.parametrize(
    "kind", ["http", "tcp", "process", "disk", "memory", "cpu", "gpu", "certificate", "command"]
)
def test_every_kind_can_be_a_site_s_own(kind: str) -> None:
    more: dict[str, dict[str, Any]] = {
        "http": {"url": "http://127.0.0.1/"},
        "tcp": {"address": "[::1]:1"},
        "process": {"unit": "nginx.service"},
        "disk": {"path": "/srv"},
        "gpu": {"index": 0},
        "certificate": {"address": "127.0.0.1:443"},
        "command": {"command": ["/bin/true"]},
    }
    assert found(health={"checks": [{"name": "own", "kind": kind, **more.get(kind, {})}]})["own"].kind == kind


@pytest.mark.parametrize(
    ("health", "setting", "says"),
    [
        ({"built_in": {"gatewy": {}}}, "health.built_in", "no built-in check"),
        ({"checks": [{"name": "a", "kind": "ping"}]}, "health.checks[0].kind", "must be one of"),
        ({"checks": [{"name": "disk:x", "kind": "memory"}]}, "health.checks[0].name", "built-in"),
        ({"checks": [{"name": "a", "kind": "memory"}] * 2}, "health.checks[1].name", "already"),
        (
            {"checks": [{"name": "a", "kind": "memory", "depends_on": ["b"]}]},
            "health.checks[0].depends_on",
            "no check",
        ),
        (
            {"checks": [{"name": "a", "kind": "memory", "depends_on": ["a"]}]},
            "health.checks[0].depends_on",
            "itself",
        ),
        ({"checks": [{"name": "a", "kind": "process"}]}, "health.checks[0]", "unit or a pid_file"),
        (
            {"checks": [{"name": "a", "kind": "command", "command": ["ls"]}]},
            "health.checks[0].command",
            "whole path",
        ),
        (
            {"checks": [{"name": "a", "kind": "http", "url": "http://u:p@h/"}]},
            "health.checks[0].url",
            "must match",
        ),
        (
            {"checks": [{"name": "a", "kind": "memory", "recovery": {"action": "restart"}}]},
            "health.checks[0].recovery.service",
            "must name what to restart",
        ),
        (
            {"built_in": {"memory": {"recovery": {"action": "restart", "service": "nginx"}}}},
            "health.built_in.memory.recovery.service",
            "neither gateway nor an engine",
        ),
        (
            {"built_in": {"memory": {"recovery": {"action": "drain", "service": "gateway"}}}},
            "health.built_in.memory.recovery.service",
            "must be an engine",
        ),
        (
            {"built_in": {"memory": {"recovery": {"action": "command"}}}},
            "health.built_in.memory.recovery.command",
            "must hold the command",
        ),
        ({"notify_command": ["mail"]}, "health.notify_command", "whole path"),
    ],
)
def test_what_cannot_work_is_told_with_its_setting(health: dict[str, Any], setting: str, says: str) -> None:
    layers = Layers({"environment": "staging", "models": [model("phi")], "health": health})
    with pytest.raises(config.ConfigError) as refused:
        config.validate(layers)
    [problem] = refused.value.problems
    assert problem.key == setting
    assert says in problem.message


def test_a_disk_is_looked_at_once(tmp_path: Path) -> None:
    checks = found(root=str(tmp_path), models_root=str(tmp_path))
    disks = [Path(name.removeprefix("disk:")) for name in checks if name.startswith("disk:")]
    assert len({path.stat().st_dev for path in disks}) == len(disks)
