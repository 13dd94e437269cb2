"""What the firewall's rollback does on a host: the role's own commands, with the real nftables and systemd.

That the role runs them when no connection gets through is not looked at here.
"""

import os
import shlex
from collections.abc import Iterator

import jinja2
import pytest
import yaml

from .conftest import PROJECT, OwnLab

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts are root's")]

HOST = {"name": "citadel-test-24", "address": "10.89.14.24"}
ROLE = PROJECT / "roles/citadel_user"
FILE = "/etc/nftables.d/citadel.nft"
UNIT = "citadel-firewall.service"
NAMES = {
    **yaml.safe_load((ROLE / "vars/main.yml").read_text()),
    "ansible_managed": "",
    "citadel_user_firewall_confirm_timeout": 1,
}


def render(text: str) -> str:
    return jinja2.Environment().from_string(text).render(NAMES)  # noqa: S701 - no web page


def command_of(task: str) -> str:
    """The last argument of a task's command: what the shell is told."""
    tasks = yaml.safe_load((ROLE / "tasks/load_firewall.yml").read_text())
    [found] = [each["ansible.builtin.command"] for each in tasks if each["name"] == task]
    return render(found["argv"][-1])


class Host:
    def __init__(self, lab: OwnLab) -> None:
        self.lab, self.root = lab, lab.root_of(HOST)

    def do(self, command: str) -> str:
        done = self.lab.ssh(HOST, f"sudo sh -c {shlex.quote(command)}")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def load(self, port: int) -> str:
        """Load rules as the role does; what is in force then."""
        chain = f"type filter hook input priority filter; policy accept\ntcp dport {port} accept"
        table = f"table inet citadel {{\nchain input {{\n{chain}\n}}\n}}\n"
        text = f"table inet citadel\ndelete table inet citadel\n{table}"
        file = self.root / FILE.removeprefix("/")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        self.do(f"systemctl daemon-reload; systemctl reload-or-restart {UNIT}")
        return self.rules()

    def rules(self) -> str:
        return self.do("nft list tables; nft list table inet citadel 2>&1 || true")


@pytest.fixture(scope="module")
def host(lab: OwnLab) -> Iterator[Host]:
    lab("up", HOST)
    try:
        host = Host(lab)
        host.do("command -v nft || (apt-get update -q && apt-get install -q -y nftables)")
        unit = (ROLE / "templates/systemd/system/citadel-firewall.service.j2").read_text()
        (host.root / "etc/systemd/system" / UNIT).write_text(render(unit))
        yield host
    finally:
        lab("down", HOST)


def test_where_there_were_none_there_are_none_again(host: Host) -> None:
    host.do(command_of("Keep the rules that are in force, for the rollback"))
    assert "1234" in host.load(1234)
    roll_back(host)
    assert "citadel" not in host.do("nft list tables")
    assert host.do(f"ls {FILE} 2>/dev/null || true") == ""
    assert host.do(f"systemctl is-active {UNIT} || true").strip() == "inactive"


def test_the_rules_of_before_come_back_and_stay(host: Host) -> None:
    before = host.load(22)
    host.do(command_of("Keep the rules that are in force, for the rollback"))
    assert host.load(1234) != before
    roll_back(host)
    assert host.rules() == before
    # Those of the file, too, with which the host would start.
    host.do(f"systemctl restart {UNIT}")
    assert host.rules() == before


def roll_back(host: Host) -> None:
    """As the timer does it, whose unit systemd has read again in between."""
    command = command_of("Arm the firewall's rollback")
    words = ["systemd-run", "--collect", "--unit=rollback", "--on-active=2", "/bin/sh", "-c", command]
    host.do(f"{shlex.join(words)} && systemctl daemon-reload")
    host.do(
        "for n in $(seq 100); do systemctl is-active -q rollback.timer || exit 0; sleep 0.2; done; exit 1"
    )
    host.do(
        "for n in $(seq 100); do systemctl is-active -q rollback.service || exit 0; sleep 0.2; done; exit 1"
    )
