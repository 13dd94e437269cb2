"""The role `postgresql` with a server of the site's own: what moves, who may do what, what if it is away."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import psycopg
import pytest
from deployed import run_site
from shared_site import KEPT_REQUESTS, Moved, SharedSite, until

pytestmark = pytest.mark.usefixtures("moved")

# What the gateway's role must not do, each refused for want of a right (SQLSTATE 42501).
BEYOND = [
    "CREATE DATABASE other",
    "DROP DATABASE citadel",
    "CREATE SCHEMA other",
    "CREATE TEMPORARY TABLE other (id integer)",
    "CREATE EXTENSION hstore",
    "CREATE ROLE other",
    'ALTER ROLE "citadel-gateway" CREATEDB',
    "SET ROLE postgres",
    "ALTER SYSTEM SET log_statement = 'all'",
    "COPY api_keys TO PROGRAM 'id'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT rolpassword FROM pg_authid",
]


@pytest.fixture(scope="module")
def login(shared: SharedSite) -> dict[str, Any]:
    """How somebody on another machine logs in, who was given the password."""
    return {
        "host": shared.address,
        "dbname": "citadel",
        "user": "citadel-gateway",
        "password": shared.do("cat /etc/citadel/credentials/database-password"),
        "sslmode": "require",
        "channel_binding": "require",
        "connect_timeout": 5,
        "autocommit": True,
    }


def test_nothing_is_lost_by_the_move(moved: Moved) -> None:
    assert (moved.after.keys, moved.after.audit) == (moved.before.keys, moved.before.audit)
    # The deployment itself asks its own questions, with the first key.
    assert moved.after.requests >= moved.before.requests >= KEPT_REQUESTS
    assert moved.copied["usage_records"] == moved.before.requests
    assert moved.copied["api_keys"] == len(moved.before.keys)
    assert moved.copied["audit_log"] == len(moved.before.audit)


def test_a_key_of_before_works_and_its_use_is_added_to_what_it_was(
    shared: SharedSite, old_key: str, login: dict[str, Any]
) -> None:
    assert shared.noted("kept") == KEPT_REQUESTS
    assert shared.ask(old_key).status_code == 200
    until(lambda: shared.noted("kept") == KEPT_REQUESTS + 1)
    counted = "SELECT count(*) FROM usage_records JOIN api_keys ON api_keys.id = key_id WHERE name = 'kept'"
    with psycopg.connect(**login) as connection:
        assert connection.execute(counted).fetchone() == (KEPT_REQUESTS + 1,)


@pytest.mark.parametrize("statement", BEYOND)
def test_the_gateways_role_may_do_no_more_than_it_needs(login: dict[str, Any], statement: str) -> None:
    with psycopg.connect(**login) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"dbname": "postgres"}, "no pg_hba.conf entry"),
        ({"dbname": "template1"}, "no pg_hba.conf entry"),
        ({"user": "postgres"}, "no pg_hba.conf entry"),
        ({"sslmode": "disable", "channel_binding": "disable"}, "no encryption"),
    ],
)
def test_nobody_else_gets_in(login: dict[str, Any], other: dict[str, str], said: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=said):
        psycopg.connect(**{**login, **other})


def test_other_users_of_the_host_do_not_get_in(shared: SharedSite) -> None:
    for user in ("citadel", "citadel-engine"):
        for role in ("citadel-gateway", "postgres"):
            said = shared.refused(
                f"cd / && sudo -u {user} psql --username={role} citadel --command='SELECT 1'"
            )
            assert "Peer authentication failed" in said
        shared.refused(f"sudo -u {user} cat /etc/citadel/credentials/database-password")


def test_passwords_are_kept_and_asked_for_by_scram_and_it_listens_where_it_must(
    shared: SharedSite,
) -> None:
    kept = shared.psql("SELECT left(rolpassword, 14) FROM pg_authid WHERE rolpassword IS NOT NULL")
    assert kept == "SCRAM-SHA-256$"
    rules = shared.psql("SELECT type, auth_method FROM pg_hba_file_rules WHERE type <> 'local'")
    assert rules == "hostssl|scram-sha-256"
    assert shared.listeners(5432) == {shared.address}
    firewall = shared.do("nft list table inet citadel").splitlines()
    [opened] = [line for line in firewall if "5432" in line]
    assert f"saddr {shared.own_address} " in opened


def test_a_second_run_changes_nothing(hostname: str, variables: dict[str, Any]) -> None:
    assert run_site(hostname, variables=variables)["changed"] == 0


def test_a_check_changes_nothing(hostname: str, variables: dict[str, Any]) -> None:
    arguments = "--check --diff --tags postgresql,valkey,config"
    recap = run_site(hostname, arguments, variables=variables)
    assert (recap["ok"] > 0, recap["changed"]) == (True, 0)


def test_requests_are_answered_while_it_is_away_and_noted_once_it_is_back(
    shared: SharedSite, old_key: str
) -> None:
    version = shared.do("pg_lsclusters --no-header").split()[0]
    unit = f"postgresql@{version}-citadel.service"
    noted, errors = shared.noted("kept"), "citadel_gateway_usage_delivery_errors_total"
    failed = shared.metric(errors)
    answers: list[int] = []
    enough = Event()

    def client() -> None:
        while not enough.is_set():
            answers.append(shared.ask(old_key).status_code)

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(client) for _ in range(2)]
        try:
            until(lambda: len(answers) >= 4)
            shared.do(f"systemctl stop {unit}")
            without = len(answers)
            until(lambda: len(answers) >= without + 10 and shared.metric(errors) > failed)
            shared.do(f"systemctl start {unit}")
            again = len(answers)
            until(lambda: len(answers) >= again + 4)
        finally:
            enough.set()
    for each in clients:
        each.result()
    assert set(answers) == {200}
    until(lambda: shared.noted("kept") >= noted + len(answers))
    assert shared.noted("kept") == noted + len(answers)
