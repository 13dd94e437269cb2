"""The server's settings, its rules of who may log in, and what is wrong with a URL."""

import pytest

from .role_modules import load

plugin = load("roles/postgresql/filter_plugins/citadel_postgresql.py")

LIB = "/usr/lib/postgresql"


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ([], ""),
        ([f"{LIB}/9/bin", f"{LIB}/15/bin", f"{LIB}/17/bin"], "17"),
        # What stands keeps its version when a newer one is installed beside it.
        ([f"{LIB}/15/bin", f"{LIB}/17/bin", "/etc/postgresql/15/citadel"], "15"),
        ([f"{LIB}/15/bin", "/etc/postgresql/13/main"], "15"),
    ],
)
def test_the_version_is_found(folders, expected):
    assert plugin.version(folders, "citadel") == expected


def test_settings_are_written_as_the_server_reads_them():
    settings = {"jit": False, "ssl": True, "port": 5432, "random_page_cost": 1.1, "line": "it's \\ %m"}
    assert plugin.configuration(settings) == (
        "jit = off\nssl = on\nport = 5432\nrandom_page_cost = 1.1\nline = 'it''s \\\\ %m'\n"
    )


def test_only_those_who_are_named_may_log_in_and_from_afar_by_tls():
    rules = plugin.access_rules(["10.0.0.12", "fd00::/64"], "citadel", "citadel-gateway")
    assert [line.split() for line in rules.splitlines()] == [
        ["local", "all", "postgres", "peer"],
        ["local", '"citadel"', '"citadel-gateway"', "peer"],
        ["hostssl", '"citadel"', '"citadel-gateway"', "10.0.0.12/32", "scram-sha-256"],
        ["hostssl", '"citadel"', '"citadel-gateway"', "fd00::/64", "scram-sha-256"],
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u@db:5432/d", ""),
        ("postgresql+psycopg://u@db/d?sslmode=verify-full&sslrootcert=/ca.pem", ""),
        ("postgresql://u@/d?host=/run/postgresql", ""),
        ("", "such as postgresql://"),
        ("mysql://u@db/d", "such as postgresql://"),
        ("postgresql://u:secret@db/d", "set postgresql_password"),
        ("postgresql://u@db/d?password=secret", "set postgresql_password"),
        ("postgresql://db/d", "without a user"),
        ("postgresql://u@db", "without a database"),
        ("postgresql://u@/d", "without a host"),
        ("postgresql://u@db:port/d", "is no URL"),
        ("postgresql://u@db/d?sslmode=yes", "sslmode=yes"),
    ],
)
def test_faults_of_a_url(url, said):
    found = plugin.url_faults(url)
    assert said in found
    assert bool(found) == bool(said)
    assert "secret" not in found


def test_a_url_is_taken_apart():
    assert plugin.target("postgresql://u%40x@[fd00::1]:5433/d?sslmode=require") == {
        "host": "fd00::1",
        "port": 5433,
        "user": "u@x",
        "database": "d",
        "tls": "on",
        "ca_file": "",
    }
