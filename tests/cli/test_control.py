import json
from dataclasses import replace

import pytest

from citadel_llm.cli.common import complete_service
from citadel_llm.services.systemd import JobFailedError, NotPermittedError, SystemdError, UnitState

from .machine import FAILED, LOADING, RUNNING, STOPPED, Machine, Run, state


def test_status_shows_each_service(run: Run, machine: Machine) -> None:
    machine.is_seen_as([RUNNING, LOADING])
    result = run("status")
    assert result.exit_code == 1
    gateway, engine, health = result.output.splitlines()[1:]
    assert gateway.split()[:2] == ["gateway", "running"]
    assert "3.0 GiB" in gateway
    assert engine.split()[:2] == ["small", "starting"]
    assert engine.endswith("loading the weights, 50% (12 s)")
    assert health.split()[:2] == ["health", "running"]


def test_status_is_good_when_all_run(run: Run, machine: Machine) -> None:
    machine.is_seen_as([RUNNING, RUNNING])
    result = run("status", "--json")
    assert result.exit_code == 0
    assert [(one["name"], one["state"]) for one in json.loads(result.output)] == [
        ("gateway", "running"),
        ("small", "running"),
        ("health", "running"),
    ]


def test_status_tells_what_the_health_checks_find(run: Run, machine: Machine) -> None:
    machine.is_seen_as([RUNNING, RUNNING])
    folder = machine.folder / "run" / "health"
    folder.mkdir(parents=True)
    found = [
        {"check": "memory", "status": "ok", "detail": "3.0 GiB available", "remedy": ""},
        {"check": "disk:/var", "status": "failed", "detail": "0.5 GiB free", "remedy": "make room"},
    ]
    state = folder / "state.json"
    state.write_text(json.dumps({"running": True, "checks": found}))
    assert run("status").output.splitlines()[-1] == "disk:/var: failed: 0.5 GiB free (make room)"
    [health] = [one for one in json.loads(run("status", "--json").output) if one["name"] == "health"]
    assert health["checks"] == found
    state.write_text(json.dumps({"running": False, "checks": found}))
    assert "disk" not in run("status").output, "nobody looks any more"


@pytest.fixture
def on_demand(machine: Machine) -> Machine:
    """The host whose model is loaded on demand, by the manager; and with one that no engine can serve."""
    plan = {"residency": "cold", "max_model_len": 2048, "kv_cache_bytes": 1 << 30}
    source = {"kind": "folder", "path": "/x"}
    models = [
        {"name": "small", "source": source, "plan": plan},
        {"name": "imp", "source": source, "runtime": "transformers"},
    ]
    machine.configure(models=models)
    return machine


def test_what_runs_on_demand_may_be_stopped(run: Run, on_demand: Machine) -> None:
    on_demand.is_seen_as([RUNNING, RUNNING, STOPPED])
    result = run("status")
    assert result.exit_code == 0
    [small] = [line for line in result.output.splitlines() if line.startswith("small")]
    assert small.split()[1] == "stopped"
    assert small.endswith("on demand: the first request loads it")


def test_a_start_of_all_leaves_what_runs_on_demand_alone(run: Run, on_demand: Machine) -> None:
    on_demand.is_seen_as([RUNNING, RUNNING, STOPPED])
    assert run("start").exit_code == 0
    assert on_demand.called == ["start citadel.target"]


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_what_runs_on_demand_is_brought_up_by_its_manager_alone(
    run: Run, on_demand: Machine, verb: str
) -> None:
    """It makes room first: a start beside it would meet a GPU that is full."""
    on_demand.is_seen_as([STOPPED])
    result = run(verb, "small")
    assert result.exit_code == 1
    assert "citadel models load small" in result.output
    assert on_demand.called == []
    # One that is up is there already.
    on_demand.is_seen_as([RUNNING])
    assert run("restart", "small").exit_code == 0


def test_what_runs_on_demand_and_fails_is_told(run: Run, on_demand: Machine) -> None:
    on_demand.is_seen_as([RUNNING, RUNNING, FAILED])
    assert run("status").exit_code == 1


def test_start_waits_and_says_what_an_engine_does(run: Run, machine: Machine) -> None:
    queued, later = (
        state("inactive", "dead", job=True),
        state("activating", "start", "compiling (20 s)"),
    )
    machine.is_seen_as([STOPPED], [queued], [LOADING], [later], [RUNNING])
    result = run("start", "small")
    assert result.exit_code == 0
    assert machine.called == ["start citadel-engine@small.service"]
    assert "small: starting: loading the weights, 50%\nsmall: starting: compiling\n" in result.output
    assert "running" in result.output.splitlines()[-1]


def test_without_a_name_the_target_is_meant(run: Run, machine: Machine) -> None:
    # The target's job is over at once; its services' jobs are not.
    waiting = state("inactive", "dead", job=True)
    machine.is_seen_as([RUNNING, STOPPED], [RUNNING, waiting], [RUNNING, LOADING], [RUNNING, RUNNING])
    assert run("start").exit_code == 0
    assert machine.called == ["start citadel.target"]


def test_stop_is_good_when_nothing_runs_any_more(run: Run, machine: Machine) -> None:
    machine.is_seen_as(
        [RUNNING], [state("deactivating", "stop-sigterm", "finishing what is in flight")], [STOPPED]
    )
    result = run("stop", "small")
    assert result.exit_code == 0
    assert "finishing what is in flight" in result.output


def test_a_start_that_fails_says_why_and_where_to_look(run: Run, machine: Machine) -> None:
    machine.is_seen_as([FAILED])
    machine.answers(JobFailedError("start citadel-engine@small.service", "failed"))
    result = run("restart", "small")
    assert result.exit_code == 1
    assert "failed: out of memory" in result.output
    assert "small is failed: see `citadel logs small`" in result.output


def test_a_start_by_hand_is_not_refused_for_earlier_failures(run: Run, machine: Machine) -> None:
    machine.is_seen_as([FAILED], [LOADING], [RUNNING])
    assert run("start", "small").exit_code == 0
    assert machine.called == [
        "reset_failed citadel-engine@small.service",
        "start citadel-engine@small.service",
    ]


def test_who_may_not_is_told_so(run: Run, machine: Machine) -> None:
    machine.is_seen_as([RUNNING])
    machine.answers(NotPermittedError("not permitted: reload citadel-gateway.service: Access denied"))
    result = run("restart", "gateway")
    assert result.exit_code == 4
    assert "not permitted: reload citadel-gateway.service" in result.output


@pytest.mark.parametrize(("seen", "verb"), [(RUNNING, "reload"), (STOPPED, "restart")])
def test_a_gateway_that_runs_is_replaced_without_a_gap(
    run: Run, machine: Machine, seen: UnitState, verb: str
) -> None:
    machine.is_seen_as([seen], [seen], [RUNNING])
    run("restart", "gateway")
    assert machine.called == [f"{verb} citadel-gateway.service"]


def test_systemd_replaces_a_gateways_workers_with_the_first(run: Run, machine: Machine) -> None:
    machine.configure(gateway={"workers": 2, "limits": {"store": "valkey://127.0.0.1/0"}})
    new = state("active", "running", main_pid=999)
    machine.is_seen_as([RUNNING, RUNNING], [RUNNING, RUNNING], [new, new])
    assert run("restart", "gateway").exit_code == 0
    assert machine.called == ["reload citadel-gateway.service"]
    machine.is_seen_as([RUNNING, RUNNING], [RUNNING, RUNNING], [new, RUNNING])
    result = run("restart", "gateway")
    assert result.exit_code == 1
    assert "gateway.2 goes on as it was: see `citadel logs gateway.2`" in result.output


def test_a_gateway_that_does_not_come_up_is_told(run: Run, machine: Machine) -> None:
    machine.is_seen_as([RUNNING])
    machine.answers(JobFailedError("reload citadel-gateway.service", "failed"))
    result = run("restart", "gateway")
    assert result.exit_code == 1
    assert "reload citadel-gateway.service: it failed" in result.output


def test_a_model_of_several_engines_is_started_with_all_of_them(run: Run, machine: Machine) -> None:
    model = {"name": "small", "source": {"kind": "folder", "path": "/x"}, "engine": {"replicas": 2}}
    machine.configure(models=[model])
    machine.is_seen_as([RUNNING, RUNNING])
    assert run("start", "small").exit_code == 0
    assert sorted(machine.called) == [f"start citadel-engine@{name}.service" for name in ("small.2", "small")]


@pytest.mark.parametrize("command", ["start", "stop", "restart", "reload", "logs"])
def test_an_unknown_name_changes_nothing(run: Run, machine: Machine, command: str) -> None:
    result = run(command, "smal")
    assert result.exit_code == 2
    assert "there is no service 'smal'; there are: gateway, small" in result.output
    assert machine.called == []


def test_a_reload_interrupts_nobody(run: Run, machine: Machine) -> None:
    new = replace(RUNNING, main_pid=999)
    machine.is_seen_as([RUNNING, STOPPED], [new])
    assert run("reload").exit_code == 0
    assert machine.called == ["reload citadel-gateway.service", "reload citadel-health.service"]


def test_a_reload_that_fails_says_so(run: Run, machine: Machine) -> None:
    machine.is_seen_as([RUNNING])
    machine.answers(SystemdError("reload citadel-engine@small.service: Job type reload is not applicable"))
    result = run("reload", "small")
    assert result.exit_code == 1
    assert "Job type reload is not applicable" in result.stderr


@pytest.mark.parametrize("verb", ["start", "stop", "restart", "reload"])
def test_a_script_reads_how_it_ended(run: Run, machine: Machine, verb: str) -> None:
    machine.is_seen_as([RUNNING], [STOPPED if verb == "stop" else replace(RUNNING, main_pid=999)])
    result = run(verb, "gateway", "--json")
    assert result.exit_code == 0
    [gateway] = json.loads(result.stdout)
    assert (gateway["name"], gateway["state"]) == ("gateway", "stopped" if verb == "stop" else "running")


def test_the_shell_completes_names(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITADEL_CONFIG", str(machine.folder / "config"))
    assert complete_service("") == ["gateway", "small", "health"]
    assert complete_service("s") == ["small"]
    machine.configure(gatway={})
    assert complete_service("") == []


@pytest.mark.parametrize("command", ["status", "start", "logs", "doctor"])
def test_a_wrong_configuration_is_told_by_all(run: Run, machine: Machine, command: str) -> None:
    machine.configure(gatway={})
    result = run(command)
    assert result.exit_code == 2
    assert "gatway: there is no such setting; did you mean 'gateway'?" in result.output
