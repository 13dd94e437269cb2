from pathlib import Path
from typing import ClassVar

import pytest

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


def test_only_what_vllm_serves_has_an_engine() -> None:
    models = [
        {"name": "awake", "plan": {"residency": "resident"}},
        {"name": "asleep", "plan": {"residency": "warm"}},
        {"name": "imp", "runtime": "transformers"},
    ]
    described = services.engine_services(models, "release 1")
    assert [(each["name"], each["on_demand"]) for each in described] == [
        ("citadel-engine@awake.service", False),
        ("citadel-engine@asleep.service", True),
    ]


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


def test_each_worker_of_the_gateway_is_a_service() -> None:
    described = services.gateway_services(engines.gateway_units(3), "release 1", 60, 60)
    assert [each["name"] for each in described] == [
        "citadel-gateway.service",
        "citadel-gateway@2.service",
        "citadel-gateway@3.service",
    ]
    assert all(each["hands_over"] and not each["on_demand"] for each in described)
    assert len({each["revision"] for each in described}) == 1


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


MODELS: list[dict[str, object]] = [
    {"name": "a", "engine": {"start_timeout": 10, "drain_timeout": 20}},
    {"name": "b.c-d"},
]


def revisions(models: list[dict[str, object]], identity: object = "release 1") -> dict[str, str]:
    return {each["name"]: each["revision"] for each in services.engine_services(models, identity)}


def test_describes_the_engines() -> None:
    first, second = services.engine_services(MODELS, "release 1")
    assert first["name"] == "citadel-engine@a.service"
    assert first["settings"] == {"TimeoutStartSec": 70, "TimeoutStopSec": 50}
    assert second["name"] == "citadel-engine@b.c-d.service"
    assert second["settings"] == {"TimeoutStartSec": 960, "TimeoutStopSec": 90}


def test_a_model_restarts_only_for_itself_and_for_what_all_share() -> None:
    before = revisions(MODELS)
    assert revisions(MODELS) == before
    assert revisions([MODELS[0], MODELS[1] | {"aliases": ["x"]}]) == before | {
        "citadel-engine@b.c-d.service": revisions([MODELS[1] | {"aliases": ["x"]}])[
            "citadel-engine@b.c-d.service"
        ]
    }
    assert not set(revisions(MODELS, "release 2").values()) & set(before.values())


def test_each_replica_is_a_unit_that_restarts_for_itself_alone() -> None:
    one: dict[str, object] = {"name": "a", "engine": {}, "plan": {"gpus": [0]}}
    two: dict[str, object] = {
        "name": "a",
        "engine": {"replicas": 2},
        "plan": {"gpus": [0], "replicas": [{"gpus": [1]}]},
    }
    moved: dict[str, object] = {**two, "plan": {"gpus": [0], "replicas": [{"gpus": [2]}]}}
    first, second = "citadel-engine@a.service", "citadel-engine@a.2.service"
    assert list(revisions([two])) == [first, second]
    assert revisions([one])[first] == revisions([two])[first] == revisions([moved])[first]
    assert revisions([moved])[second] != revisions([two])[second]


def test_writes_drop_ins() -> None:
    [(path, text)] = services.drop_ins([services.service(GATEWAY, "x", 60, 60)]).items()
    assert path == "citadel-gateway.service.d/citadel.conf"
    assert text.splitlines()[1:] == [
        "[Service]",
        f"Environment=CITADEL_REVISION={services.service(GATEWAY, 'x', 60, 60)['revision']}",
        "TimeoutStartSec=120",
        "TimeoutStopSec=90",
    ]
