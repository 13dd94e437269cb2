"""What stood in SQLite stands in PostgreSQL, and limits are counted in Valkey, as the users see it."""

import httpx2 as httpx
import pytest
from deployed import MODEL, Site
from openai import OpenAI
from testinfra.host import Host

OLD_DATABASE = "/var/lib/citadel/gateway/citadel.db"
# Debian 12 has Redis for it.
COUNTERS = "/var/lib/redis/citadel /var/lib/valkey/citadel"


def citadel(host: Host, command: str) -> str:
    """What a command of the gateway's user says, to whose database it belongs."""
    with host.sudo("citadel-gateway"):
        return str(
            host.check_output(
                f"cd / && CITADEL_CONFIG=/opt/citadel/config /opt/citadel/bin/citadel {command}"
            )
        )


def psql(host: Host, query: str) -> str:
    with host.sudo("postgres"):
        return str(host.check_output(f'cd / && psql --no-align --tuples-only citadel --command "{query}"'))


def old(host: Host, query: str) -> list[str]:
    """What the old file, which stays where it is, says."""
    code = (
        f"import sqlite3, sys; database = sqlite3.connect('file:{OLD_DATABASE}?mode=ro', uri=True); "
        "print(*[row[0] for row in database.execute(sys.argv[1])])"
    )
    with host.sudo():
        return str(host.check_output("python3 -c %s %s", code, query)).split()


def until(host: Host, condition: str) -> bool:
    """Wait until a shell's condition holds on the host, as root."""
    with host.sudo():
        script = f"for i in $(seq 120); do {condition} && exit 0; sleep 0.5; done; exit 1"
        return int(host.run("sh -c %s", script).rc) == 0


def test_the_keys_moved_along(host: Host, client: OpenAI) -> None:
    """The first key was made in the old database: had it stayed there, this client would be refused."""
    keys = old(host, "select id from api_keys")
    assert keys
    assert set(keys) <= set(psql(host, "select id from api_keys").split())
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=4
    )
    assert answer.choices[0].text.startswith(" Paris")


def test_usage_moved_along_and_goes_on(host: Host, client: OpenAI) -> None:
    [moved] = (int(count) for count in old(host, "select count(*) from usage_records"))
    before = int(psql(host, "select count(*) from usage_records"))
    assert before >= moved
    client.completions.create(model=MODEL, prompt="Hello", max_tokens=1)
    count = "psql --no-align --tuples-only citadel --command 'select count(*) from usage_records'"
    assert until(host, f'test "$(cd / && runuser --user=postgres -- {count})" -gt {before}')


def test_a_limit_is_counted_in_valkey(host: Host, site: Site) -> None:
    name = "limited-by-a-test"
    key = citadel(host, f"keys create --name {name} --requests-per-minute 2").strip()
    try:
        seen = [
            httpx.post(
                f"{site.base_url}/v1/completions",
                headers={"Authorization": f"Bearer {key}"},
                json={"model": MODEL, "prompt": "Hello", "max_tokens": 1},
                timeout=120,
            ).status_code
            for _ in range(3)
        ]
        assert seen == [200, 200, 429]
        [key_id] = psql(
            host, "select id from api_keys where requests_per_minute = 2 and revoked_at is null"
        ).split()
        # In the server's own log of what was written; it answers to the gateways' account alone.
        assert until(
            host, f"grep --recursive --text --quiet 'citadel:limits:.*{key_id}' {COUNTERS} 2>/dev/null"
        )
    finally:
        citadel(host, f"keys revoke {name}")


@pytest.mark.parametrize("unit", ["postgresql@*-citadel", "*-server@citadel"])
def test_the_servers_units_are_hardened(host: Host, unit: str) -> None:
    with host.sudo():
        assert "ProtectSystem=strict" in host.check_output("systemctl show --property=ProtectSystem %s", unit)
