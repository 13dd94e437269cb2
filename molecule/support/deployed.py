"""What the tests know of the deployed site, and how they run a playbook against it."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ansible_runner
from openai import OpenAI

PROJECT = Path(__file__).parents[2]
INVENTORY = PROJECT / "molecule" / "inventory"
MODEL = "smollm2-135m-instruct"
# It runs only when somebody asks for it.
EMBEDDING_MODEL = "all-minilm-l6-v2"


@dataclass(frozen=True)
class Site:
    """Where the deployed API answers, and the key that the first deploy made."""

    base_url: str
    key: str

    def client(self, key: str | None = None) -> OpenAI:
        """Return the official client, without the retries that would hide a refusal."""
        return OpenAI(base_url=f"{self.base_url}/v1", api_key=key or self.key, max_retries=0, timeout=120)


@dataclass(frozen=True)
class Run:
    """How a playbook ended: its exit status, what it said, and how many tasks were ok, changed, failed …."""

    status: int
    said: str
    recap: dict[str, int]


def play(
    hostname: str,
    arguments: str = "",
    playbook: str = "site.yml",
    variables: Mapping[str, Any] | None = None,
) -> Run:
    """Run a playbook against the site, as an operator does; `variables` beat the inventory's."""
    with tempfile.TemporaryDirectory() as folder:
        run = ansible_runner.run(
            private_data_dir=folder,
            project_dir=str(PROJECT),
            playbook=playbook,
            inventory=str(INVENTORY),
            envvars={"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "PATH": os.environ["PATH"]},
            extravars=dict(variables or {}),
            cmdline=arguments,
            quiet=True,
        )
        with run.stdout as output:
            said = output.read()
        recap = {outcome: hosts.get(hostname, 0) for outcome, hosts in run.stats.items()}
    return Run(run.rc, said, recap)


def run_site(hostname: str, arguments: str = "", **more: Any) -> dict[str, int]:
    """Run a playbook that must succeed; return its recap."""
    run = play(hostname, arguments, **more)
    assert run.status == 0, run.said[-6000:]
    return run.recap
