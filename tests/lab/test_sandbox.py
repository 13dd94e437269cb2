"""What each unit's sandbox keeps from its service, tried from within on a booted host.

The unit is the deployed one with another program in the service's place. Beside it runs the same program as
the same account without a sandbox: what that could not do either would prove nothing of the sandbox.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator

import pytest

from .conftest import PROJECT, OwnLab
from .deployed import render_unit

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts are root's")]

HOST = {"name": "citadel-test-8", "address": "10.89.14.18"}
UNITS = {
    "citadel-gateway": "citadel-gateway.service",
    "citadel-engine": "citadel-engine@.service",
    "citadel-manager": "citadel-manager.service",
    "citadel-health": "citadel-health.service",
}
PROBE = "/opt/citadel/test/sandbox_probe.py"

# What a service is there for, and so may do.
MAY = {
    # Its own account's group reads them.
    "citadel-gateway": {"read the gateway's credentials", "speak TCP"},
    # torch and Triton compile at run time, and run what they have compiled.
    "citadel-engine": {"map writable code", "run a program of its own", "speak TCP"},
    "citadel-manager": set(),
    "citadel-health": {"speak TCP"},
}
# What no account but root may do anywhere; the sandbox forbids it once more.
ROOTS = {
    "write /etc",
    "write /usr",
    "write the release",
    "write the configuration",
    "write /var/lib",
    "set a kernel setting",
    "set the host's name",
    "become root",
    "run in real time",
    "speak raw packets",
}


class Host:
    def __init__(self, lab: OwnLab) -> None:
        self.lab = lab
        self.root = lab.root_of(HOST)

    def do(self, command: str) -> str:
        done = self.lab.ssh(HOST, f"sudo sh -c {json.dumps(command)}")
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def install(self) -> None:
        for account in UNITS:
            self.do(f"useradd --system {account}")
            self.do(f"install -d -o {account} /run/citadel/settings/{account}")
        folders = ("engines", "locks", "manager", "manager-control")
        self.do(" ".join(["mkdir -p", *(f"/run/citadel/{folder}" for folder in folders)]))
        self.do("mkdir -p /opt/citadel/current /opt/citadel/config /opt/citadel/test")
        # Open to all, so that the sandbox alone is in the way.
        self.do("install -d -m 755 /opt/citadel/secrets && echo x >/opt/citadel/secrets/probe")
        self.do("install -d -m 777 /var/lib/citadel/everybodys && echo x >/tmp/citadel-host-probe")
        self.do("useradd --create-home somebody")
        self.do("mknod /dev/citadel-probe c 1 5 && chmod 666 /dev/citadel-probe")
        self.do(
            "install -d -m 750 -g citadel-gateway /etc/citadel/credentials && "
            "install -m 640 -g citadel-gateway /tmp/citadel-host-probe /etc/citadel/credentials/probe"
        )
        shutil.copy(PROJECT / "tests/lab/sandbox_probe.py", self.root / "opt/citadel/test")

    def could_in_the_unit(self, account: str) -> set[str]:
        """What the probe could do in the place of the service."""
        text = render_unit(f"{UNITS[account]}.j2", __citadel_credentials={})
        text = re.sub(r"(?m)^ExecStart=.*$", f"ExecStart=/usr/bin/python3 {PROBE}", text)
        text = re.sub(r"(?m)^(ExecReload|WatchdogSec|Restart|FileDescriptorStoreMax)=.*$\n", "", text)
        text = text.replace("Type=notify", "Type=oneshot")
        # Of the template one instance.
        text = text.replace("%i", "probe")
        unit = f"probe-{account}.service"
        (self.root / "etc/systemd/system" / unit).write_text(text)
        self.do(f"systemctl daemon-reload; systemctl start {unit} || (journalctl -u {unit} >&2; exit 1)")
        said = self.do(f"journalctl --unit={unit} --output=cat --no-pager")
        print(said)  # noqa: T201 - shown with a failure
        return _could(said)

    def could_without(self, account: str) -> set[str]:
        """What it could do as the same account, and with the same groups, without a sandbox."""
        groups = (
            "--groups=citadel-gateway"
            if account in {"citadel-manager", "citadel-health"}
            else "--clear-groups"
        )
        command = f"setpriv --reuid={account} --regid={account} {groups} python3 {PROBE}"
        return _could(self.do(f"cd / && {command}"))


def _could(said: str) -> set[str]:
    [line] = re.findall(r"^could: (.*)$", said, re.MULTILINE)
    return set(json.loads(line))


@pytest.fixture(scope="module")
def host(lab: OwnLab) -> Iterator[Host]:
    lab("up", HOST)
    try:
        host = Host(lab)
        host.install()
        yield host
    finally:
        lab("down", HOST)


@pytest.mark.parametrize("account", UNITS)
def test_a_service_can_do_what_it_is_there_for_and_nothing_else(host: Host, account: str) -> None:
    assert host.could_in_the_unit(account) == MAY[account]


@pytest.mark.parametrize("account", UNITS)
def test_it_is_the_sandbox_that_forbids_it(host: Host, account: str) -> None:
    could = host.could_without(account)
    assert not could & ROOTS
    assert {
        "write another's state",
        "read the secrets",
        "see the host's /tmp",
        "list homes",
        "see others' processes",
        "open a device",
        "make a program setuid",
        "change the personality",
        "be traced",
        "speak TCP",
        "map writable code",
        "run a program of its own",
    } <= could
