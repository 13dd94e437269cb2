"""The role `postgresql` with somebody else's server: another one on the host, made as its owner is told."""

import re
from typing import Any

import pytest
from deployed import PROJECT, play, run_site
from shared_site import SharedSite, until

pytestmark = pytest.mark.usefixtures("moved")

URL = "postgresql://citadel@127.0.0.1:5433/citadel?sslmode=require"
PASSWORD = "a password: with 'quotes' & more"  # noqa: S105 - of a server that ends with its host
PASSWORD_FILE = "/var/lib/citadel/gateway/external-password"  # noqa: S105 - a path


@pytest.fixture(scope="module")
def external(shared: SharedSite, tls: dict[str, Any]) -> dict[str, Any]:
    """The inventory's words for a server that its owner has made by the page's own words."""
    page = (PROJECT / "docs/database.md").read_text()
    [statements] = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    statements = statements.replace("'…'", "'" + PASSWORD.replace("'", "''") + "'")
    version = shared.do("pg_lsclusters --no-header").split()[0]
    options = "--port=5433 --encoding=UTF8 --locale=C.UTF-8 --start"
    shared.do(f"pg_createcluster {options} {version} theirs -- --auth-host=scram-sha-256")
    psql = "sudo -u postgres psql --port=5433 --set=ON_ERROR_STOP=1"
    shared.do(f"cd / && {psql} <<'SQL'\n{statements}\nSQL")
    return {
        **tls,
        "postgresql_state": "external",
        "postgresql_url": URL,
        "postgresql_password": PASSWORD,
        "valkey_state": "present",
    }


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"postgresql_password": "wrong"}, "correct postgresql_password"),
        ({"postgresql_url": URL.replace("/citadel?", "/nowhere?")}, "make the database"),
    ],
)
def test_a_login_that_does_not_work_is_refused_before_anything_is_changed(
    hostname: str, external: dict[str, Any], wrong: dict[str, str], said: str
) -> None:
    run = play(hostname, variables=external | wrong)
    assert run.status != 0
    assert said in " ".join(run.said.split())
    assert (run.recap["failures"], run.recap["changed"]) == (1, 0)


def test_the_site_moves_there_and_its_keys_with_it(
    hostname: str, shared: SharedSite, external: dict[str, Any], old_key: str
) -> None:
    shared.do("citadel stop gateway")
    before = shared.kept()
    shared.do(f"install -o citadel-gateway -m 0600 /dev/stdin {PASSWORD_FILE} <<'SECRET'\n{PASSWORD}\nSECRET")
    said = shared.citadel(f"database copy --to '{URL}' --password-file {PASSWORD_FILE}")
    assert f"{before.requests} usage_records" in said
    run_site(hostname, "--tags user,postgresql,valkey,config,gateway", variables=external)
    after = shared.kept()
    assert (after.keys, after.audit) == (before.keys, before.audit)
    assert after.requests >= before.requests
    noted = shared.noted("kept")
    assert shared.ask(old_key).status_code == 200
    until(lambda: shared.noted("kept") == noted + 1)
