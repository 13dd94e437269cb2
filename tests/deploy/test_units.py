from pathlib import Path
from typing import Any, ClassVar

import pytest

from citadel_llm.config import Layers, validate
from citadel_llm.services.service_manager import services_of

from .modules import load

units = load("roles/systemd_units/library/citadel_units.py")
services = load("roles/systemd_units/filter_plugins/citadel_services.py")
engines = load("roles/citadel/filter_plugins/citadel_engines.py")

GATEWAY, ENGINE, OLD = "citadel-gateway.service", "citadel-engine@a.service", "citadel-engine@gone.service"
WANTED = {GATEWAY: "g1", ENGINE: "e1"}

SHOWN = """\
Id=citadel-gateway.service
ActiveState=active
SubState=running
Result=success
UnitFileState=enabled
NeedDaemonReload=no
MainPID=7
StatusText=ready after 0.1 s

Id=citadel-engine@a.service
ActiveState=activating
SubState=auto-restart
Result=exit-code
UnitFileState=
NeedDaemonReload=yes
MainPID=0
Job=12
"""


def unit(name: str, active: str = "active", sub: str = "running", **changes: object) -> object:
    known: dict[str, object] = {
        "result": "success",
        "enabled": True,
        "outdated": False,
        "queued": False,
        "status": "",
        "revision": WANTED.get(name, ""),
        "hands_over": False,
    }
    return units.Unit(name=name, active=active, sub=sub, **(known | changes))


TARGET = unit("citadel.target", sub="active")


def commands(
    gateway: object, engine: object, leftover: tuple[object, ...] = (), target: object = TARGET
) -> list[str]:
    """What a start would have systemctl do."""
    plan = units.plan_start({GATEWAY: gateway, ENGINE: engine}, WANTED, list(leftover), target)
    return [" ".join(command) for command in plan.commands()]


def test_reads_what_systemctl_shows(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/environ").write_bytes(b"HOME=/\0CITADEL_REVISION=g1\0RUNTIME_DIRECTORY=/run/x\0")
    found = units.parse(SHOWN, tmp_path)
    assert found[GATEWAY].is_ready("g1")
    assert not found[GATEWAY].is_ready("g2")
    assert units.describe(found[GATEWAY]) == "active (running): ready after 0.1 s"
    assert found[ENGINE].failed
    assert found[ENGINE].outdated
    assert not found[ENGINE].enabled
    assert found[ENGINE].revision == ""


@pytest.mark.parametrize(
    ("gateway", "engine", "expected"),
    [
        pytest.param(unit(GATEWAY), unit(ENGINE), [], id="all as it should be"),
        pytest.param(
            unit(GATEWAY, "inactive", "dead", enabled=False),
            unit(ENGINE, "inactive", "dead", enabled=False),
            [
                f"enable {GATEWAY} {ENGINE}",
                f"reset-failed {GATEWAY} {ENGINE}",
                f"start --no-block {GATEWAY} {ENGINE}",
            ],
            id="first deploy: started once",
        ),
        pytest.param(
            unit(GATEWAY, revision="g0", outdated=True),
            unit(ENGINE),
            ["daemon-reload", f"restart --no-block {GATEWAY}"],
            id="only what changed",
        ),
        pytest.param(
            unit(GATEWAY), unit(ENGINE, "activating", "start"), [], id="one that comes up is let come up"
        ),
        pytest.param(
            unit(GATEWAY),
            unit(ENGINE, "activating", "start", revision="e0"),
            [f"restart --no-block {ENGINE}"],
            id="one that comes up with old settings is not",
        ),
        pytest.param(
            unit(GATEWAY),
            unit(ENGINE, "activating", "auto-restart", revision=""),
            [f"reset-failed {ENGINE}", f"start --no-block {ENGINE}"],
            id="a crash loop is given another try",
        ),
        pytest.param(
            unit(GATEWAY),
            unit(ENGINE, "failed", "failed", revision=""),
            [f"reset-failed {ENGINE}", f"start --no-block {ENGINE}"],
            id="and so is what was given up",
        ),
    ],
)
def test_plans_a_start(gateway: object, engine: object, expected: list[str]) -> None:
    assert commands(gateway, engine) == expected


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        pytest.param(unit(ENGINE, "inactive", "dead", enabled=False), [], id="nobody wanted it"),
        pytest.param(unit(ENGINE, enabled=False), [], id="somebody started it"),
        pytest.param(unit(ENGINE), [f"stop {ENGINE}", f"disable {ENGINE}"], id="it ran always before"),
        pytest.param(
            unit(ENGINE, revision="old"),
            [f"stop {ENGINE}", f"disable {ENGINE}"],
            id="it ran always before, with another plan",
        ),
        pytest.param(
            unit(ENGINE, "activating", "auto-restart", revision=""),
            [f"stop {ENGINE}", f"disable {ENGINE}"],
            id="it was to run always, and crashes",
        ),
        pytest.param(unit(ENGINE, "inactive", "dead"), [f"disable {ENGINE}"], id="it was to run always"),
        pytest.param(
            unit(ENGINE, enabled=False, revision="old"),
            [f"restart --no-block {ENGINE}"],
            id="it runs with what was before",
        ),
    ],
)
def test_leaves_an_engine_on_demand_to_who_starts_it(engine: object, expected: list[str]) -> None:
    plan = units.plan_start({GATEWAY: unit(GATEWAY), ENGINE: engine}, WANTED, [], TARGET, frozenset([ENGINE]))
    assert [" ".join(command) for command in plan.commands()] == expected


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [
        pytest.param(unit(GATEWAY, revision="old", hands_over=True), [f"reload {GATEWAY}"], id="it can"),
        pytest.param(unit(GATEWAY, revision="old"), [f"restart --no-block {GATEWAY}"], id="an older release"),
        pytest.param(
            unit(GATEWAY, "activating", "start", revision="old", hands_over=True),
            [f"restart --no-block {GATEWAY}"],
            id="it is not up yet",
        ),
        pytest.param(unit(GATEWAY, hands_over=True), [], id="nothing is new"),
    ],
)
def test_what_can_hand_over_is_not_restarted(gateway: object, expected: list[str]) -> None:
    both = {GATEWAY: gateway, ENGINE: unit(ENGINE)}
    plan = units.plan_start(both, WANTED, [], TARGET, handing_over=frozenset([GATEWAY]))
    assert [" ".join(command) for command in plan.commands()] == expected


def test_a_successor_that_does_not_come_up_fails_with_what_it_said() -> None:
    class Module:
        asked: ClassVar[list[list[str]]] = []

        def run_command(self, command: list[str]) -> tuple[int, str, str]:
            self.asked.append(command)
            return 1, '{"event": "ended", "level": "error", "reason": "no such file"}\n', "Job failed."

        def fail_json(self, msg: str) -> None:
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match=r"(?s)goes on as it was.*no such file.*Job failed"):
        units.Systemctl(Module()).hand_over([GATEWAY])
    assert "--priority=warning" in Module.asked[-1]


def test_stops_the_engine_of_a_model_that_left_the_catalogue() -> None:
    old = unit(OLD)
    assert commands(unit(GATEWAY), unit(ENGINE), leftover=(old,)) == [f"stop {OLD}", f"disable {OLD}"]


def test_a_worker_that_is_no_longer_wanted_is_not_waited_for() -> None:
    third = unit("citadel-gateway@3.service", hands_over=True)
    assert commands(unit(GATEWAY), unit(ENGINE), leftover=(third,)) == [
        "stop --no-block citadel-gateway@3.service",
        "disable citadel-gateway@3.service",
    ]


def test_what_is_on_its_way_down_is_no_leftover() -> None:
    class Module:
        def run_command(self, command: list[str], check_rc: bool) -> tuple[int, str, str]:
            assert (command[1], check_rc) == ("list-units", True)
            lines = ["gateway@2.service loaded active running A", "gateway@3.service loaded deactivating x B"]
            return 0, "\n".join(lines), ""

    assert units.Systemctl(Module()).matching("gateway@*") == {"gateway@2.service"}


def test_starts_the_target_after_the_services() -> None:
    target = unit("citadel.target", "inactive", "dead")
    assert commands(unit(GATEWAY), unit(ENGINE), target=target) == [
        "reset-failed citadel.target",
        "start --no-block citadel.target",
    ]


def test_plans_a_stop() -> None:
    found = {GATEWAY: unit(GATEWAY), ENGINE: unit(ENGINE, "failed", "failed")}
    plan = units.plan_stop(found, [unit(OLD)], TARGET)
    assert [" ".join(command) for command in plan.commands()] == [
        f"stop {GATEWAY} citadel.target {OLD}",
        f"disable {GATEWAY} {ENGINE} citadel.target {OLD}",
    ]


@pytest.mark.parametrize(
    ("active", "sub", "queued", "failed"),
    [
        ("active", "running", False, False),
        ("activating", "start", False, False),
        ("deactivating", "stop-sigterm", False, False),
        ("inactive", "dead", True, False),
        ("inactive", "dead", False, True),
        ("failed", "failed", False, True),
        ("activating", "auto-restart", False, True),
    ],
)
def test_knows_what_will_not_come_up(active: str, sub: str, queued: bool, failed: bool) -> None:
    assert units.Unit.failed.fget(unit(ENGINE, active, sub, queued=queued)) is failed


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            '{"event": "ended", "level": "error", "service": "x", "reason": "no GPU"}',
            "error: ended reason=no GPU",
        ),
        ('{"event": "up"}', "up"),
        ("Main process exited", "Main process exited"),
        ("[1]", "[1]"),
        ("{not json", "{not json"),
    ],
)
def test_shows_a_log_as_people_read_it(line: str, expected: str) -> None:
    assert units.readable(line) == expected


MODEL = {"unit": ENGINE, "revision": "1", "on_demand": False, "model": "one", "drain_timeout": 60}
WORKER = {"unit": GATEWAY, "revision": "2", "on_demand": False, "model": None, "drain_timeout": 1.5}
OTHER = {"unit": "citadel-health.service", "revision": "3", "on_demand": False, "model": None}
GIVEN: dict[str, Any] = {
    "release": "1.0-abc",
    "templates": {GATEWAY: "g", "citadel-engine@.service": "e", "citadel-health.service": "h"},
    "start_timeouts": {"citadel-gateway": 60},
    "engine": "lock",
    "manifests": [{"__systemd_units_model": "one", "stat": {"exists": True, "checksum": "w"}}],
}


def described(found: list[dict[str, object]] | None = None, **given: Any) -> dict[str, dict[str, Any]]:
    every = services.services(
        [WORKER, {**MODEL, "start_timeout": 900.0}, OTHER] if found is None else found, **{**GIVEN, **given}
    )
    return {each["name"]: each for each in every}


def test_describes_each_service_and_those_that_hand_over_last() -> None:
    every = described()
    assert list(every) == [ENGINE, "citadel-health.service", GATEWAY]
    assert [each["hands_over"] for each in every.values()] == [False, False, True]
    assert every[ENGINE]["settings"] == {"TimeoutStartSec": 960, "TimeoutStopSec": 90}
    assert every[GATEWAY]["settings"] == {"TimeoutStartSec": 120, "TimeoutStopSec": 31}
    assert every["citadel-health.service"]["settings"] == {"TimeoutStartSec": 150, "TimeoutStopSec": 90}


@pytest.mark.parametrize(
    ("given", "restarted"),
    [
        ({}, []),
        ({"release": "2.0"}, [ENGINE, "citadel-health.service", GATEWAY]),
        ({"engine": "another lock"}, [ENGINE]),
        (
            {"manifests": [{"__systemd_units_model": "one", "stat": {"exists": True, "checksum": "x"}}]},
            [ENGINE],
        ),
        (
            {"manifests": [*GIVEN["manifests"], {"__systemd_units_model": "two", "stat": {"exists": False}}]},
            [],
        ),
        ({"templates": {**GIVEN["templates"], GATEWAY: "new"}}, [GATEWAY]),
        ({"start_timeouts": {}}, [GATEWAY]),
        ({"found": [{**MODEL, "start_timeout": 900.0, "revision": "4"}, WORKER, OTHER]}, [ENGINE]),
    ],
)
def test_a_service_restarts_only_for_what_it_runs_with(given: dict[str, Any], restarted: list[str]) -> None:
    before, after = described(), described(**given)
    assert [name for name in before if after[name]["revision"] != before[name]["revision"]] == restarted


def test_writes_drop_ins() -> None:
    gateway = described()[GATEWAY]
    [(path, text)] = services.drop_ins([gateway]).items()
    assert path == "citadel-gateway.service.d/citadel.conf"
    assert text.splitlines()[1:] == [
        "[Service]",
        f"Environment=CITADEL_REVISION={gateway['revision']}",
        "TimeoutStartSec=120",
        "TimeoutStopSec=31",
    ]


def test_the_roles_name_the_units_as_the_application_does() -> None:
    gateway = {"workers": 3, "limits": {"store": "valkey://127.0.0.1/0"}}
    settings = validate(
        Layers(
            values={
                "environment": "staging",
                "gateway": gateway,
                "engine": {"build": "cpu"},
            }
        )
    )
    units_of = [service.unit for service in services_of(settings)]
    assert set(units_of) >= set(engines.gateway_units(3))
