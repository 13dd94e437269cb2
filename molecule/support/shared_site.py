"""The deployed site as its operator and its clients use it, for the tests of what several hosts share."""

import json
import shlex
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
from deployed import MODEL, Site
from testinfra.host import Host

# The database on the site's own server, as the gateway on its host reaches it.
SOCKET = "postgresql+psycopg://citadel-gateway@/citadel?host=/run/postgresql"
# What the key of before has asked before anything moves.
KEPT_REQUESTS = 3
# Where its certificate and the key of it stand on the host.
CERTIFICATE, TLS_KEY = "/etc/ssl/certs/api.pem", "/etc/citadel/credentials/tls-key"
_METRICS = f"""
import ssl, urllib.request
trusted = ssl.create_default_context(cafile={CERTIFICATE!r})
print(urllib.request.urlopen("https://127.0.0.1:8000/metrics", context=trusted).read().decode())
"""


@dataclass(frozen=True)
class Kept:
    """What the database holds, as the commands show it."""

    keys: list[Any]
    audit: list[Any]
    requests: int


@dataclass(frozen=True)
class Moved:
    """What the old database held, what `citadel database copy` said it took, and what the new one holds."""

    before: Kept
    copied: dict[str, int]
    after: Kept


class SharedSite:
    """The host with the gateway; what it says is asked for as root, who may do all of it."""

    def __init__(self, host: Host, hostname: str, site: Site) -> None:
        self.api = site
        variables = host.backend.get_variables()
        self.address = str(variables["ansible_host"])
        self._trusted: ssl.SSLContext | None = None
        # By SSH itself: what is asked here is asked often, and a module for each would take most of the time.
        self._ssh = ["ssh", "-F", f"{variables['lab_host_state_dir']}/ssh/config", hostname]

    @property
    def own_address(self) -> str:
        """The address by which this machine reaches the host."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect((self.address, 9))
            return str(way.getsockname()[0])

    def speaks_tls(self, ca_file: Path) -> None:
        """From now on the API is asked by https."""
        self.api = replace(self.api, base_url=f"https://{self.address}:8000")
        self._trusted = ssl.create_default_context(cafile=ca_file)

    def do(self, command: str) -> str:
        """What a command says to root; it must succeed."""
        done = self._run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def refused(self, command: str) -> str:
        """What is said to somebody whose command must fail."""
        done = self._run(command)
        assert done.returncode != 0, f"{command}: {done.stdout}"
        return done.stdout + done.stderr

    def put(self, file: Path, path: str, mode: str, group: str = "root") -> None:
        """Put a file on the host, as root's."""
        self.do(f"install -D -g {group} -m {mode} /dev/stdin {path} <<'FILE'\n{file.read_text()}FILE")

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        asked = [*self._ssh, f"sudo sh -c {shlex.quote(command)}"]
        return subprocess.run(asked, capture_output=True, text=True, check=False, timeout=300)

    def psql(self, statement: str) -> str:
        """What the site's own server says to its administrator."""
        command = "sudo -u postgres psql --tuples-only --no-align citadel"
        return self.do(f"cd / && {command} <<'SQL'\n{statement}\nSQL").strip()

    def citadel(self, command: str) -> str:
        """What a command says to the gateway's user."""
        return self.do(f"cd / && sudo -u citadel-gateway citadel {command}")

    def kept(self) -> Kept:
        """What the database holds now."""
        usage = json.loads(self.citadel("usage --by key --json"))
        return Kept(
            keys=json.loads(self.citadel("keys list --json")),
            audit=json.loads(self.citadel("audit --limit 10000 --json")),
            requests=sum(row["requests"] for row in usage),
        )

    def noted(self, name: str) -> int:
        """How many requests of a key the database knows."""
        return sum(row["requests"] for row in json.loads(self.citadel(f"usage --by key --key {name} --json")))

    def make_key(self, name: str, options: str = "") -> str:
        """A new key."""
        return str(json.loads(self.citadel(f"keys create --name {name} {options} --json"))["key"])

    def ask(self, key: str) -> httpx.Response:
        """What a client gets who asks for one token."""
        return httpx.post(
            f"{self.api.base_url}/v1/completions",
            headers={"Authorization": f"Bearer {key}"},
            json={"model": MODEL, "prompt": "The capital of France is", "max_tokens": 1},
            timeout=60,
            verify=self._trusted or True,
        )

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.do(f"python3 -c {shlex.quote(_METRICS)}").splitlines()
        found = [float(line.rsplit(" ", 1)[1]) for line in lines if line.split(" ")[0].split("{")[0] == name]
        assert found, name
        return sum(found)

    def listeners(self, port: int) -> set[str]:
        """The addresses on which something listens at a port."""
        listing = self.do(f"ss --listening --tcp --numeric --no-header sport = :{port}")
        return {line.split()[3].rsplit(":", 1)[0] for line in listing.splitlines()}


def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what must come."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.2)
