"""Task-002: the operator's account, its environment, its rights, and who is let in."""

import socket
from urllib.parse import urlsplit

import pytest
from testinfra.host import Host

from checks.probe import said
from checks.recorder import Evidence, NotProven
from checks.site import Site


def answers(address: str, port: int) -> bool:
    """Whether a TCP port can be reached from here."""
    try:
        with socket.create_connection((address, port), timeout=3):
            return True
    except OSError:
        return False


def may_move(host: Host, user: str, pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these units and verbs polkit lets an account have of systemd; nothing is done."""
    ask = "pkcheck --action-id org.freedesktop.systemd1.manage-units --process $account"
    lines = [f"setpriv --reuid={user} --regid={user} --clear-groups sleep 60 & account=$!; sleep 0.2"]
    lines += [
        f"{ask} --detail unit {unit} --detail verb {verb} >/dev/null 2>&1 && echo {unit} {verb}"
        for unit, verb in pairs
    ]
    told = said(host, "\n".join([*lines, "kill $account"]))
    return {(unit, verb) for unit, verb in (line.split() for line in told.splitlines())}


@pytest.mark.item("002", "citadel user and group created")
def check_accounts(host: Host, site: Site, evidence: Evidence) -> None:
    operator = host.user(site.user)
    assert operator.exists
    assert operator.group == site.group
    for name in ("citadel-gateway", "citadel-engine", "citadel-health"):
        assert host.user(name).shell.endswith("nologin"), f"{name} can log in"
    evidence(f"{site.user}:{site.group} ({operator.shell}); the services' accounts cannot log in")


@pytest.mark.item("002", "User environment configured")
def check_environment(host: Host, site: Site, evidence: Evidence) -> None:
    version = said(host, f"runuser --login {site.user} --command 'citadel version'")
    evidence(f"in a login of {site.user}, `citadel version` says {version}")


@pytest.mark.item("002", "SSH access configured")
def check_ssh(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    if site.connection["kind"] == "local":
        not_proven("this host is its own controller: no SSH is used")
    settings = dict(line.split(" ", 1) for line in said(host, "sshd -T").splitlines() if " " in line)
    assert settings["pubkeyauthentication"] == "yes"
    evidence(f"entered by key; passwords: {settings['passwordauthentication']}")
    home = host.user(site.user).home
    if not host.file(f"{home}/.ssh/authorized_keys").exists:
        not_proven(f"no key may log in as {site.user}: citadel_user_authorized_keys is empty")
    assert host.file(f"{home}/.ssh/authorized_keys").mode == 0o600


@pytest.mark.item("002", "System settings optimized")
def check_settings(host: Host, evidence: Evidence, not_proven: NotProven) -> None:
    path = "/etc/sysctl.d/60-citadel.conf"
    lines = [line for line in said(host, "cat %s", path).splitlines() if "=" in line and line[0] not in "#;"]
    wanted = {key.strip().lstrip("-"): value.strip() for key, value in (line.split("=", 1) for line in lines)}
    found = {key: host.run("sysctl --values %s", key).stdout.split() for key in wanted}
    missed = [key for key, value in wanted.items() if found[key] != value.split()]
    evidence(f"{len(wanted) - len(missed)} of {len(wanted)} kernel settings of {path} in force")
    if missed and host.run("systemd-detect-virt --container").rc == 0:
        not_proven(f"a container does not let through {', '.join(missed)}")
    assert not missed, f"not in force: {', '.join(missed)}"


@pytest.mark.item("002", "User permissions established")
def check_rights(host: Host, site: Site, evidence: Evidence) -> None:
    verbs = ("start", "stop", "restart")
    wanted = [(unit, verb) for unit in site.services for verb in verbs]
    missed = sorted(set(wanted) - may_move(host, site.user, wanted))
    assert not missed, f"{site.user} may not, by polkit: {missed}"
    refused = [("ssh.service", "stop"), (f"{site.services[0]}", "kill"), ("citadel-engine@.service", "start")]
    allowed = may_move(host, site.user, refused)
    assert not allowed, f"{site.user} may, by polkit: {sorted(allowed)}"
    as_root = ["/bin/true", "/bin/sh", "/usr/bin/systemctl start citadel.target"]
    allowed_as_root = [
        command
        for command in as_root
        if host.run(f"runuser -u {site.user} -- sudo -n --list {command}").rc == 0
    ]
    assert not allowed_as_root, f"{site.user} may as root: {allowed_as_root}"
    evidence(
        f"{site.user} may start, stop and restart Citadel's units, and no others, and run nothing as root"
    )


@pytest.mark.item("002", "Access control configured")
def check_access(host: Host, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    url = urlsplit(site.api_url)
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    assert answers(str(url.hostname), port), f"{site.api_url} cannot be reached from here"
    tables = said(host, "nft list tables")
    if "citadel" not in tables:
        not_proven("the host's firewall is not Citadel's (citadel_user_firewall is false)")
    if site.connection["kind"] == "local":
        not_proven("this host is its own controller: nothing is seen from outside")
    guarded = [] if site.monitoring_sources else [site.prometheus_port, site.node_exporter_port]
    open_ports = [port for port in guarded if answers(str(url.hostname), port)]
    assert not open_ports, f"reachable from outside: {open_ports}"
    evidence(f"from outside: the API is reachable, {guarded or 'nothing else asked'} are not")
