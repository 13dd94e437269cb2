"""A node for tests: its services as the processes that the units start, over a real vLLM."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
import yaml

from citadel_llm.config import load
from citadel_llm.store import KeyStore


@dataclass
class Node:
    """A folder with settings, and the services that were started from it.

    Attributes:
        folder: Where it keeps all it has.
        tree: Its settings, over what every node of the tests has.
        port: Where its gateway listens; chosen when 0.
        trust: What vouches for its certificate, where it speaks TLS.
    """

    folder: Path
    tree: dict[str, Any]
    port: int = 0
    trust: ssl.SSLContext | None = None
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = self.port or _free_port()
        own = {
            "address": "127.0.0.1",
            "port": self.port,
            "database": f"sqlite:///{self.folder}/citadel.db",
            "state_dir": str(self.folder),
            "drain_timeout_seconds": 5,
            "accounting": {"spool_dir": str(self.folder / "spool"), "flush_seconds": 0.2},
        }
        tree = {"environment": "staging", "run_dir": str(self.folder / "run"), **self.tree}
        tree["gateway"] = own | self.tree.get("gateway", {})
        file = self.folder / "config/global/site.yml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump(tree))

    @property
    def url(self) -> str:
        scheme = "https" if "tls" in self.tree.get("gateway", {}) else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def key(self, name: str, **fields: Any) -> str:
        """Make a key."""
        store = KeyStore(load(self.folder / "config").gateway.database_url())
        try:
            return store.create(name, **fields)[1]
        finally:
            store.close()

    def run(self, *service: str) -> subprocess.Popen[bytes]:
        """Start a service; it ends with this process."""
        words = [sys.executable, "-c", "from citadel_llm.cli import main; main()", "run", *service]
        with (self.folder / f"{service[-1]}.log").open("ab") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *words],
                env={**os.environ, "CITADEL_CONFIG": str(self.folder / "config")},
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    def log(self, service: str) -> list[dict[str, Any]]:
        """What a service has logged."""
        return [json.loads(line) for line in (self.folder / f"{service}.log").read_text().splitlines()]

    def wait_for(self, state: str, within: float = 120.0) -> None:
        """Wait until every model of the gateway is in a state."""

        def is_so() -> bool:
            for process in self._started:
                assert process.poll() is None, self.last_lines()
            states = self.ready()
            return bool(states) and all(each["state"] == state for each in states)

        wait_until(is_so, within, self.last_lines)

    def ready(self) -> list[dict[str, Any]]:
        """What the gateway says of its models; nothing while it does not answer."""
        try:
            return list(self.get("/ready").json()["models"])
        except httpx2.TransportError:
            return []

    def get(self, path: str, key: str = "") -> httpx2.Response:
        """Ask the gateway."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return self._http.get(f"{self.url}{path}", headers=headers)

    def post(self, path: str, key: str, body: dict[str, Any]) -> httpx2.Response:
        """Ask the gateway something that has a body."""
        return self._http.post(f"{self.url}{path}", headers={"authorization": f"Bearer {key}"}, json=body)

    @cached_property
    def _http(self) -> httpx2.Client:
        # Once, and without the system's authorities: reading them takes longer than most questions.
        return httpx2.Client(timeout=5, verify=self.trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def last_lines(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(line for log in logs for line in log.read_text().splitlines()[-30:])

    def close(self) -> None:
        self._http.close()
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            process.wait(timeout=60)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(
    condition: Callable[[], bool], within: float = 15.0, explain: Callable[[], str] = lambda: ""
) -> None:
    """Wait for something that happens soon."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"it did not happen in time\n{explain()}"
        time.sleep(0.05)
