"""The deployed site, as the tests reach it: its inventory, its API, and the first key."""

import json
import os
import subprocess

import pytest
import testinfra
from deployed import INVENTORY, PROJECT, Site
from openai import OpenAI
from testinfra.host import Host


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
