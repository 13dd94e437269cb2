"""The deployed site, moved from its file to a server of its own, and counting limits in its own store."""

import re
from typing import Any

import pytest
from deployed import run_site
from deployed_fixtures import host, hostname, site
from shared_site import KEPT_REQUESTS, SOCKET, Moved, SharedSite
from testinfra.host import Host

__all__ = ["host", "hostname", "site"]


@pytest.fixture(scope="session")
def shared(host: Host, hostname: str, request: pytest.FixtureRequest) -> SharedSite:
    """The site with a file of its own, unless `full` has left one. Only then is there a key to ask with."""
    with host.sudo():
        is_there = host.file("/opt/citadel/secrets/first-api-key").exists
    if not is_there:
        run_site(hostname)
    return SharedSite(host, hostname, request.getfixturevalue("site"))


@pytest.fixture(scope="session")
def variables(shared: SharedSite) -> dict[str, Any]:
    """The inventory's words for both servers; this machine is one that may log in at the database, too."""
    return {
        "postgresql_state": "present",
        "postgresql_client_sources": [f"{shared.own_address}/32"],
        "valkey_state": "present",
    }


@pytest.fixture(scope="session")
def old_key(shared: SharedSite) -> str:
    """A key that was made and used before anything moved."""
    key = shared.make_key("kept", "--owner ada --team physics")
    answers = [shared.ask(key).status_code for _ in range(KEPT_REQUESTS)]
    assert answers == [200] * KEPT_REQUESTS
    return key


@pytest.fixture(scope="session")
def moved(shared: SharedSite, hostname: str, variables: dict[str, Any], old_key: str) -> Moved:
    """The site with both servers, to which it moved as docs/database.md says."""
    assert old_key  # made before it
    run_site(hostname, "--tags postgresql", variables=variables)
    shared.do("citadel stop gateway")
    before = shared.kept()
    said = shared.citadel(f"database copy --to '{SOCKET}'")
    run_site(hostname, variables=variables)
    copied = {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", said)}
    return Moved(before, copied, shared.kept())
