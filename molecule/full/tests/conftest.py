"""The deployed site, as the tests reach it: its inventory, its API, and the first key."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra
from openai import OpenAI
from testinfra.host import Host

PROJECT = Path(__file__).parents[3]
INVENTORY = PROJECT / "molecule" / "inventory"
MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Site:
    """Where the deployed API answers, and the key that the first deploy made."""

    base_url: str
    key: str

    def client(self, key: str | None = None) -> OpenAI:
        """Return the official client, without the retries that would hide a refusal."""
        return OpenAI(base_url=f"{self.base_url}/v1", api_key=key or self.key, max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def hostname() -> str:
    """The name of the lab host in the inventory."""
    listing = subprocess.run(
        ["ansible-inventory", "--inventory", str(INVENTORY), "--list"],
        check=True,
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )
    [name] = json.loads(listing.stdout)["citadel"]["hosts"]
    return str(name)


@pytest.fixture(scope="session")
def host(hostname: str) -> Host:
    """The lab host, by Ansible's own connection to it."""
    os.environ["ANSIBLE_CONFIG"] = str(PROJECT / "ansible.cfg")
    return testinfra.get_host(f"ansible://{hostname}?ansible_inventory={INVENTORY}&force_ansible=true")


@pytest.fixture(scope="session")
def site(host: Host) -> Site:
    """The API's address and the first key, which is read on the host and shown nowhere."""
    variables = host.backend.get_variables()
    with host.sudo():
        key = host.file("/opt/citadel/secrets/first-api-key").content_string.strip()
    return Site(base_url=f"http://{variables['ansible_host']}:8000", key=key)


@pytest.fixture(scope="session")
def client(site: Site) -> OpenAI:
    """The official client with a right key."""
    return site.client()
