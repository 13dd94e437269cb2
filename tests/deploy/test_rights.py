"""Who may do what with which unit. That systemd holds them to it is seen in tests/lab/test_rights.py."""

from .modules import load

services = load("roles/systemd_units/filter_plugins/citadel_services.py")

GATEWAYS = ["citadel-gateway.service", "citadel-gateway@2.service"]
ALWAYS, ON_DEMAND = "citadel-engine@always.service", "citadel-engine@wanted.service"
HELPERS = ["citadel-health.service", "citadel-manager.service"]


def granted(operator: str = "citadel") -> set[tuple[str, str, str]]:
    described = [
        {"name": name, "on_demand": name == ON_DEMAND} for name in [*GATEWAYS, ALWAYS, ON_DEMAND, *HELPERS]
    ]
    found = services.rights(described, operator)
    return {
        (right["account"], verb, unit)
        for right in found
        for verb in right["verbs"]
        for unit in right["units"]
    }


def test_the_operator_may_all_that_operating_needs() -> None:
    units = ["citadel.target", *GATEWAYS, ALWAYS, ON_DEMAND, *HELPERS]
    verbs = ["start", "stop", "restart", "reload", "reset-failed"]
    may = {(verb, unit) for account, verb, unit in granted() if account == "citadel"}
    assert may == {(verb, unit) for verb in verbs for unit in units}


def test_the_manager_moves_only_what_runs_on_demand() -> None:
    may = {(verb, unit) for account, verb, unit in granted() if account == "citadel-manager"}
    assert may == {(verb, ON_DEMAND) for verb in ("start", "stop", "restart")}


def test_the_health_checks_recover_only_what_serves() -> None:
    may = {(verb, unit) for account, verb, unit in granted() if account == "citadel-health"}
    stopped = {("stop", unit) for unit in (ALWAYS, ON_DEMAND)}
    assert may == {("restart", unit) for unit in (*GATEWAYS, ALWAYS, ON_DEMAND)} | stopped


def test_without_an_operator_nobody_is_one() -> None:
    assert {account for account, _, _ in granted("")} == {"citadel-manager", "citadel-health"}
