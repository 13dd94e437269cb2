"""Where the deployed API is and how to get onto its host: read from the inventory, not repeated."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Site:
    """What a client needs to know of the demo's site."""

    host: str
    address: str
    port: int
    model: str
    root: str
    ssh_config: Path

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return f"http://{self.address}:{self.port}/v1"

    @property
    def ssh(self) -> list[str]:
        """The words of a command that logs in to the host."""
        return ["ssh", "-F", str(self.ssh_config), self.host]

    @property
    def key_command(self) -> list[str]:
        """The words of a command that prints the first API key."""
        return [*self.ssh, "sudo", "cat", f"{self.root}/secrets/first-api-key"]


def read(project: Path, inventory: Path) -> Site:
    """The site of an inventory: its first host and its first model."""
    hosts = _yaml(inventory / "hosts.yml")["citadel"]["hosts"]
    name, host = next(iter(hosts.items()))
    variables = _yaml(project / "roles/citadel/defaults/main.yml")
    for file in sorted((inventory / "group_vars/all").glob("*.yml")):
        variables |= _yaml(file)
    return Site(
        host=name,
        address=host["ansible_host"],
        port=variables["citadel_api_port"],
        model=variables["citadel_models"][0]["name"],
        root=variables["citadel_root"],
        ssh_config=Path(variables["lab_host_state_dir"]) / "ssh/config",
    )


def _yaml(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content
