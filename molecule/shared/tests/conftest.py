"""The deployed site, moved to a server of its own, counting limits in its own store, and speaking TLS."""

import re
from pathlib import Path
from typing import Any

import pytest
from deployed import run_site
from deployed_fixtures import host, hostname, site
from shared_site import CERTIFICATE, KEPT_REQUESTS, SOCKET, TLS_KEY, Moved, SharedSite
from testinfra.host import Host
from tests.certificates import make_certificate

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
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What clients believe: the API's certificate, which vouches for itself."""
    return tmp_path_factory.mktemp("api") / "cert.pem"


@pytest.fixture(scope="session")
def tls(shared: SharedSite, ca_file: Path) -> dict[str, Any]:
    """The inventory's words for a certificate, which the host gets as docs/deploy.md says."""
    make_certificate(ca_file.parent, shared.address, "127.0.0.1", days=90)
    shared.put(ca_file, CERTIFICATE, "0644")
    shared.put(ca_file.with_name("key.pem"), TLS_KEY, "0600")
    return {
        "config_gateway": {"tls": {"certificate": CERTIFICATE, "key": {"credential": "tls-key"}}},
        "validation_api_ca_file": str(ca_file),
    }


@pytest.fixture(scope="session")
def variables(shared: SharedSite, tls: dict[str, Any]) -> dict[str, Any]:
    """The inventory's words for both servers; this machine is one that may log in at the database, too."""
    return {
        **tls,
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
def moved(shared: SharedSite, hostname: str, variables: dict[str, Any], old_key: str, ca_file: Path) -> Moved:
    """The site with both servers, to which it moved as docs/database.md says, and with a certificate."""
    assert old_key  # made before it
    run_site(hostname, "--tags postgresql", variables=variables)
    shared.do("citadel stop gateway")
    before = shared.kept()
    said = shared.citadel(f"database copy --to '{SOCKET}'")
    run_site(hostname, variables=variables)
    shared.speaks_tls(ca_file)
    copied = {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", said)}
    return Moved(before, copied, shared.kept())
