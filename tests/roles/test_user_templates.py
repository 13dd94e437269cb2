"""What the operator may do and what the firewall lets in, as the templates say it."""

import re
import shutil
import subprocess

import pytest
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .role_modules import ROLES

ROLE = ROLES / "citadel_user"
VARIABLES = yaml.safe_load((ROLE / "vars/main.yml").read_text())


def render(name, **variables):
    environment = Environment(
        loader=FileSystemLoader(ROLE / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - no HTML
    )
    environment.filters["quote"] = lambda text: f"'{text}'"
    return environment.get_template(name).render(ansible_managed="Ansible managed", **variables)


@pytest.fixture
def sudoers():
    word = VARIABLES["__citadel_user_keys_word"]
    return render(
        "sudoers.d/citadel.j2",
        citadel_user="citadel",
        citadel_root="/opt/citadel",
        __citadel_user_keys_arguments=[
            arguments.replace("{{ __citadel_user_keys_word }}", word).replace(
                "{{ __citadel_user_keys_fields }}", VARIABLES["__citadel_user_keys_fields"]
            )
            for arguments in VARIABLES["__citadel_user_keys_arguments"]
        ],
    )


def rules(sudoers):
    return [line.split(" NOPASSWD: ", 1) for line in sudoers.splitlines() if "NOPASSWD" in line]


def test_nothing_runs_as_anybody_else_but_the_gateways_user(sudoers):
    assert {who for who, _ in rules(sudoers)} == {"citadel ALL=(citadel-gateway:citadel-gateway)"}


def test_no_command_has_a_wildcard_of_the_shell(sudoers):
    for _, command in rules(sudoers):
        program, _, arguments = command.partition(" ")
        assert program.startswith("/")
        assert arguments, "sudo lets any arguments follow a bare command"
        if arguments.startswith("^"):
            assert arguments.endswith("$")
        else:
            assert not set("*?[!\\") & set(arguments)


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ("keys list", True),
        ("keys list --json", True),
        ("keys create --name alice", True),
        ("keys create --name alice --owner team-a@example.org --if-absent", True),
        ("keys revoke a4f0abbd86d3", True),
        ("keys show a4f0abbd86d3 --json", True),
        ("keys create --name ci --team physics --expires 90d --model m-1 --tokens-per-day 2M", True),
        ("keys create --name ops --scope admin", True),
        ("keys change a4f0abbd86d3 --name laptop --expires never --requests-per-minute none", True),
        ("keys rotate a4f0abbd86d3 --grace 24h", True),
        ("audit --key a4f0abbd86d3 --limit 200 --json", True),
        ("keys rotate a4f0abbd86d3 --grace 24h --json", True),
        ("keys revoke a4f0abbd86d3 --json", True),
        ("usage", True),
        ("usage --by key --by model --last 30d --csv", True),
        ("usage --svg /tmp/b", False),
        ("keys rotate a4f0abbd86d3 --write-to /tmp/b", False),
        ("keys change a4f0abbd86d3", False),
        ("keys change a4f0abbd86d3 --scope admin", False),
        ("audit --actor a b", False),
        ("keys", False),
        ("keys list --directory /tmp", False),
        ("keys create --name a --write-to /tmp/b", False),
        ("keys create --name --write-to", False),
        ("keys create --name a b", False),
        ("keys revoke --help", False),
        ("run gateway", False),
        ("--directory /tmp keys list", False),
        ("keys list\n", False),
    ],
)
def test_what_may_follow_citadel(sudoers, arguments, allowed):
    # sudo's expressions are POSIX's; of what is used here, Python's differ in "$" alone.
    patterns = [
        command.split(" ", 1)[1].removeprefix("^").removesuffix("$")
        for _, command in rules(sudoers)
        if "/bin/citadel" in command
    ]
    assert any(re.fullmatch(pattern, arguments) for pattern in patterns) is allowed


@pytest.mark.skipif(
    shutil.which("visudo") is None, reason="no sudo on this machine; the role runs visudo on the host"
)
def test_visudo_accepts_it(sudoers, tmp_path):
    file = tmp_path / "sudoers"
    file.write_text(sudoers)
    subprocess.run(["visudo", "-cf", file], check=True)


def firewall(**variables):
    defaults = {
        "__citadel_user_ssh_ports": [22, 2222],
        "citadel_api_port": 8000,
        "citadel_user_firewall_api_sources": ["0.0.0.0/0", "::/0"],
        "__citadel_monitoring_ports": [9090, 9100],
        "citadel_monitoring_sources": [],
        "citadel_user_firewall_allow": [],
    }
    return render("nftables.d/citadel.nft.j2", **(defaults | variables))


def accepted(rules):
    return [line.strip() for line in rules.splitlines() if " dport " in line and "DHCP" not in line]


def test_ssh_and_the_api_are_let_in_and_the_monitoring_from_nowhere():
    assert accepted(firewall()) == [
        'tcp dport { 22, 2222 } accept comment "SSH"',
        'ip saddr 0.0.0.0/0 tcp dport { 8000 } accept comment "API"',
        'ip6 saddr ::/0 tcp dport { 8000 } accept comment "API"',
    ]


def test_the_monitoring_is_let_in_from_where_the_inventory_says():
    rules = accepted(firewall(citadel_monitoring_sources=["10.1.0.0/16", "fd00::/8"]))
    assert 'ip saddr 10.1.0.0/16 tcp dport { 9090, 9100 } accept comment "monitoring"' in rules
    assert 'ip6 saddr fd00::/8 tcp dport { 9090, 9100 } accept comment "monitoring"' in rules


def test_the_other_gateways_reach_the_api_and_the_database():
    rules = accepted(
        firewall(
            citadel_user_firewall_api_sources=[],
            postgresql_port=5433,
            __citadel_peer_sources=["10.0.0.12"],
            __citadel_database_sources=["10.0.0.12", "fd00::/64"],
        )
    )
    assert rules[1:] == [
        'ip saddr 10.0.0.12 tcp dport { 8000 } accept comment "other gateways"',
        'ip saddr 10.0.0.12 tcp dport { 5433 } accept comment "database"',
        'ip6 saddr fd00::/64 tcp dport { 5433 } accept comment "database"',
    ]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"name": "syslog", "port": 514, "protocol": "udp", "sources": ["10.0.0.0/8"]},
            ['ip saddr 10.0.0.0/8 udp dport { 514 } accept comment "syslog"'],
        ),
        (
            {"name": "web", "port": 443},
            [
                'ip saddr 0.0.0.0/0 tcp dport { 443 } accept comment "web"',
                'ip6 saddr ::/0 tcp dport { 443 } accept comment "web"',
            ],
        ),
    ],
)
def test_further_ports(entry, expected):
    assert accepted(firewall(citadel_user_firewall_allow=[entry]))[3:] == expected


def test_only_our_own_table_is_touched():
    rules = firewall()
    assert "flush" not in rules
    assert set(re.findall(r"table (\S+ \S+)", rules)) == {"inet citadel"}


@pytest.mark.skipif(
    shutil.which("nft") is None, reason="no nftables on this machine; the role runs nft on the host"
)
def test_nft_accepts_it(tmp_path):
    file = tmp_path / "citadel.nft"
    file.write_text(firewall(citadel_monitoring_sources=["10.1.0.0/16", "fd00::/8"]))
    done = subprocess.run(["nft", "--check", "--file", file], capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("only root may ask nft")
    assert done.returncode == 0, done.stderr


def test_the_environment_is_the_operators_alone():
    text = render(
        "profile.d/citadel.sh.j2",
        citadel_user="citadel",
        citadel_root="/opt/citadel",
        citadel_environment="production",
        citadel_user_environment={"EDITOR": "vi"},
    )
    script = f'id() {{ echo "$who"; }}\nPATH=/bin\n{text}\necho "$PATH:$EDITOR"'
    shown = {
        who: subprocess.run(
            ["/bin/sh", "-uc", f"EDITOR=; who={who}; {script}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for who in ("citadel", "root")
    }
    assert shown == {"citadel": "/bin:/opt/citadel/bin:vi", "root": "/bin:"}
