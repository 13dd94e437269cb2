"""The role `valkey`: who may do what there, and the limits of keys with it and while it is away."""

import json

import pytest
from shared_site import SharedSite, until

pytestmark = pytest.mark.usefixtures("moved")

UP = "citadel_gateway_limit_store_up"
AWAY = "the limits' store cannot be used"


@pytest.fixture(scope="module")
def client(shared: SharedSite) -> str:
    """How somebody asks at the store."""
    program = shared.do("command -v valkey-cli || command -v redis-cli").strip()
    return f"{program} -e -h {shared.address}"


@pytest.fixture(scope="module")
def store(client: str) -> str:
    """How the gateways' account asks there."""
    password = "$(cat /etc/citadel/credentials/limits-password)"  # noqa: S105 - where it stands
    return f"REDISCLI_AUTH={password} {client} --user citadel-gateway"


@pytest.fixture(scope="module")
def unit(shared: SharedSite) -> str:
    listing = "systemctl list-units --plain --no-legend 'valkey-server@citadel*' 'redis-server@citadel*'"
    return shared.do(listing).split()[0]


def test_the_account_counts(store: str, shared: SharedSite) -> None:
    assert shared.do(f"{store} PING").strip() == "PONG"
    assert shared.do(f"{store} INCRBY citadel:limits:a-test 2").strip() == "2"
    shared.do(f"{store} EXPIRE citadel:limits:a-test 1")


@pytest.mark.parametrize(
    "command",
    [
        "SET citadel:limits:a 1",
        "GET another:key",
        "DEL citadel:limits:a",
        "KEYS '*'",
        "FLUSHALL",
        "CONFIG GET dir",
        "ACL LIST",
        "EVAL 'return 1' 0",
        "PUBLISH a b",
        "SHUTDOWN",
    ],
)
def test_the_account_can_do_nothing_but_count(store: str, shared: SharedSite, command: str) -> None:
    assert "NOPERM" in shared.refused(f"{store} {command}")


def test_nobody_gets_in_without_the_password(client: str, shared: SharedSite) -> None:
    assert "NOAUTH" in shared.refused(f"{client} PING")
    wrong = f"REDISCLI_AUTH=wrong {client} --user citadel-gateway"
    assert "WRONGPASS" in shared.refused(f"{wrong} PING")
    for user in ("citadel", "citadel-engine"):
        shared.refused(f"sudo -u {user} cat /etc/citadel/credentials/limits-password")


def test_the_firewall_opens_nothing_for_one_host(shared: SharedSite) -> None:
    """There is no other gateway to count with."""
    assert shared.listeners(6379) == {shared.address}
    assert "6379" not in shared.do("nft list table inet citadel")


def test_a_keys_limit_holds_and_is_counted_there(shared: SharedSite, unit: str) -> None:
    assert shared.metric(UP) == 1
    key = shared.make_key("limited", "--requests-per-minute 3")
    answers = [shared.ask(key) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    known = shared.citadel("keys list --json")
    [number] = [each["id"] for each in json.loads(known) if each["name"] == "limited"]
    data = shared.do(f"systemctl show --property=ReadWritePaths {unit}").split("=", 1)[1].split()[0]
    # What stands on its disk, for its account may not list what is there.
    until(lambda: shared.do(f"grep -rlac 'citadel:limits:.*{number}' {data} || true").strip() != "", 10)


def test_requests_go_on_while_it_is_away(shared: SharedSite, old_key: str, unit: str) -> None:
    since = shared.do("date '+%Y-%m-%d %H:%M:%S.%N'").strip()
    shared.do(f"systemctl stop {unit}")
    until(lambda: shared.metric(UP) == 0)
    assert {shared.ask(old_key).status_code for _ in range(10)} == {200}
    shared.do(f"systemctl start {unit}")
    until(lambda: shared.metric(UP) == 1)
    assert shared.ask(old_key).status_code == 200
    journal = shared.do(f"journalctl --unit=citadel-gateway --since='{since}' --output=cat --no-pager")
    assert journal.count(AWAY) == 1
