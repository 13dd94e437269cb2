"""Who may start and stop what, by the deployed polkit rule, asked of a lab host's systemd and polkit."""

import json
import os
from collections.abc import Iterator
from typing import Any

import jinja2
import pytest
from tests.deploy.modules import load

from .conftest import PROJECT, OwnLab

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts are root's")]

HOST = {"name": "citadel-test-6", "address": "10.89.14.16"}
TEMPLATE = "roles/systemd_units/templates/polkit-1/rules.d/50-citadel.rules.j2"
GATEWAY, HEALTH = "citadel-gateway.service", "citadel-health.service"
ALWAYS, ON_DEMAND = "citadel-engine@always.service", "citadel-engine@wanted.service"
SERVICE = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecReload=/bin/true\n"
UNITS = {
    "citadel.target": "[Unit]\nDescription=all of it\n",
    GATEWAY: SERVICE,
    HEALTH: SERVICE,
    "citadel-engine@.service": SERVICE,
    "other.service": SERVICE,
}
OPERATOR, MANAGER, CHECKS = "citadel", "citadel-manager", "citadel-health"


class Host:
    def __init__(self, lab: OwnLab) -> None:
        self.lab = lab

    def run(self, command: str) -> tuple[int, str]:
        done = self.lab.ssh(HOST, f"sudo sh -c {json.dumps(command)}")
        return done.returncode, done.stdout + done.stderr

    def install(self) -> None:
        root = self.lab.root_of(HOST)
        for name, text in UNITS.items():
            (root / "etc/systemd/system" / name).write_text(text)
        users = " && ".join(f"useradd --system {name}" for name in (OPERATOR, MANAGER, CHECKS))
        install = "apt-get update -qq && apt-get install -qq --no-install-recommends polkitd"
        code, said = self.run(f"{install} && {users} && systemctl daemon-reload")
        assert code == 0, said
        (root / "etc/polkit-1/rules.d/50-citadel.rules").write_text(rules())

    def may(self, account: str, command: str) -> bool:
        code, said = self.run(f"runuser -u {account} -- {command} </dev/null")
        refused = any(word in said for word in ("Access denied", "authentication required", "not permitted"))
        assert (code == 0) != refused, f"{command}: neither done nor refused: {said}"
        return code == 0


def rules() -> str:
    """The role's template, with what the role's filter makes of these services."""
    names = (GATEWAY, HEALTH, ALWAYS, ON_DEMAND, MANAGER + ".service")
    described = [{"name": name, "on_demand": name == ON_DEMAND} for name in names]
    return render_rules(
        load("roles/systemd_units/filter_plugins/citadel_services.py").rights(described, OPERATOR)
    )


def render_rules(rights: Any) -> str:
    """The role's template for these rights."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)  # noqa: S701 - no HTML

    def as_json(value: Any, indent: int, sort_keys: bool) -> str:
        return json.dumps(value, indent=indent, sort_keys=sort_keys)

    environment.filters["to_nice_json"] = as_json
    template = environment.from_string((PROJECT / TEMPLATE).read_text())
    return template.render(ansible_managed="Ansible managed", __systemd_units_rights=rights)


# systemd 252 and 257, which ask polkit differently.
@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(lab: OwnLab, request: pytest.FixtureRequest) -> Iterator[Host]:
    lab("up", HOST, lab_host_suite=request.param)
    try:
        host = Host(lab)
        host.install()
        yield host
    finally:
        lab("down", HOST)


@pytest.mark.parametrize(
    ("account", "command", "allowed"),
    [
        (OPERATOR, "systemctl start citadel.target", True),
        (OPERATOR, f"systemctl restart {GATEWAY}", True),
        (OPERATOR, f"systemctl reload {GATEWAY}", True),
        (OPERATOR, f"systemctl reset-failed {GATEWAY}", True),
        (OPERATOR, f"systemctl stop {ALWAYS}", True),
        (OPERATOR, "systemctl start other.service", False),
        (OPERATOR, "systemctl stop ssh.service", False),
        (OPERATOR, "systemctl start citadel-engine@another.service", False),
        (OPERATOR, f"systemctl kill {GATEWAY}", False),
        (OPERATOR, f"systemctl set-property --runtime {GATEWAY} CPUWeight=1", False),
        (OPERATOR, f"systemctl mask {GATEWAY}", False),
        (OPERATOR, "systemctl enable other.service", False),
        (OPERATOR, "systemctl daemon-reload", False),
        (OPERATOR, "systemctl reboot", False),
        (OPERATOR, "systemd-run --unit=any /bin/true", False),
        (OPERATOR, "systemd-run --unit=citadel-engine@always /bin/true", False),
        # Named in the rule, and with no file of its own: systemd 257 asks for it as for a start.
        (OPERATOR, "systemd-run --unit=citadel-manager /bin/true", False),
        (MANAGER, f"systemctl start {ON_DEMAND}", True),
        (MANAGER, f"systemctl restart {ON_DEMAND}", True),
        (MANAGER, f"systemctl stop {ON_DEMAND}", True),
        (MANAGER, f"systemctl restart {ALWAYS}", False),
        (MANAGER, f"systemctl restart {GATEWAY}", False),
        (MANAGER, "systemctl start citadel.target", False),
        (CHECKS, f"systemctl restart {GATEWAY}", True),
        (CHECKS, f"systemctl restart {ALWAYS}", True),
        (CHECKS, f"systemctl stop {ALWAYS}", True),
        (CHECKS, f"systemctl stop {GATEWAY}", False),
        (CHECKS, f"systemctl restart {HEALTH}", False),
        ("nobody", f"systemctl restart {GATEWAY}", False),
    ],
)
def test_each_may_what_its_work_needs_and_nothing_else(
    host: Host, account: str, command: str, allowed: bool
) -> None:
    assert host.may(account, command) is allowed
