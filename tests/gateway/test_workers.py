"""Several workers of one gateway: real processes on one socket, with a real store for their limits.

tests/lab/test_hand_over.py has a gateway under the real systemd; here the test is what starts and ends them.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.key_limits.valkey_server import ValkeyServer

from .gateway_site import CHAT, LoopThread, wait_until
from .test_service import Process, _free_port

# It starts three gateways for each test, which takes seconds.
pytestmark = pytest.mark.lab

COUNT = 3
REQUESTS = "citadel_gateway_requests_total"


class Workers:
    """The processes of one gateway."""

    def __init__(self, site: Process) -> None:
        self.site = site
        self.url = str(site.http.base_url)
        self.auth = {"authorization": f"Bearer {site.key}"}
        self.running: dict[int, int] = {}
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, number: int, *options: str) -> subprocess.Popen[bytes]:
        """As its unit does it: with a folder of its own, and one for all."""
        folder = self.folder(number)
        folder.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "CITADEL_CONFIG": str(self.site.folder),
            "RUNTIME_DIRECTORY": str(folder),
            "STATE_DIRECTORY": str(self.site.folder),
        }
        command = [sys.executable, "-m", "citadel_llm.cli", "run", "gateway", f"--worker={number}", *options]
        with self.site.log.open("ab") as log:
            child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._children.append(child)
        if not options:
            self.running[number] = child.pid
        return child

    def wait_for(self, *numbers: int) -> None:
        """Wait until they are there: the metrics' socket is the last of what they open."""
        wait_until(lambda: all((self.folder(each) / "metrics.sock").exists() for each in numbers), within=60)

    def folder(self, number: int) -> Path:
        return self.site.folder / (f"gateway.{number}" if number > 1 else "gateway")

    def hand_over(self, number: int) -> None:
        """What `systemctl reload` runs."""
        before = self.running[number]
        assert self.start(number, "--hand-over").wait(timeout=60) == 0, self.said()
        self.running[number] = next(pid for pid in self.processes(number) if pid != before)

    def processes(self, number: int) -> list[int]:
        """Those that run as this worker."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes()
                if f"--worker={number}".encode() in words and str(self.site.folder).encode() in environment:
                    found.append(int(entry.name))
        return found

    def kill(self, number: int) -> None:
        """End it at once; systemd removes its folder."""
        os.kill(self.running[number], signal.SIGKILL)
        for child in self._children:
            if child.pid == self.running[number]:
                child.wait()
        shutil.rmtree(self.folder(number))

    def settings(self, **gateway: object) -> None:
        file = self.site.folder / "global" / "citadel.yml"
        settings = json.loads(file.read_text())
        file.write_text(json.dumps(settings | {"gateway": settings["gateway"] | gateway}))

    def metrics(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        text = httpx2.get(f"{self.url}/metrics", verify=False).text
        types = [line for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(types) == len(set(types))
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def by_worker(self, name: str) -> dict[str, float]:
        return {labels["worker"]: value for labels, value in self.metrics()[name]}

    def said(self) -> str:
        return self.site.log.read_text()

    def end(self) -> None:
        for number in range(1, COUNT + 1):
            for pid in self.processes(number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for child in self._children:
            child.wait()


@pytest.fixture
def workers(tmp_path: Path, loop_thread: LoopThread) -> Iterator[Workers]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    server = ValkeyServer(folder)
    server.start()
    site = Process(tmp_path, loop_thread, _free_port(), workers=COUNT, limits={"store": server.url})
    loop_thread.run(site.engine.start())
    workers = Workers(site)
    try:
        for number in range(1, COUNT + 1):
            workers.start(number)
        workers.wait_for(*workers.running)
        site.wait_until_ready()
        # Or its connection would be an idle one that its worker keeps.
        site.http.close()
        yield workers
    finally:
        workers.end()
        site.end()
        loop_thread.run(site.engine.stop())
        server.kill()


class Load:
    """Clients that ask all the time, on connections that they keep, or on a new one for each request."""

    def __init__(self, workers: Workers, *, keep: bool) -> None:
        self._workers, self._keep = workers, keep
        self._stop = threading.Event()
        self.began_failing: list[tuple[float, str]] = []
        self.statuses: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._ask) for _ in range(6)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, requests: int = 60) -> None:
        """Return after so many more answers."""
        enough = self.statuses.total() + requests
        wait_until(lambda: self.statuses.total() >= enough)

    def _ask(self) -> None:
        limits = httpx2.Limits(max_keepalive_connections=None if self._keep else 0)
        ask = {"model": CHAT, "messages": []}
        with httpx2.Client(base_url=self._workers.url, verify=False, limits=limits, timeout=20) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    answer = client.post("/v1/chat/completions", json=ask, headers=self._workers.auth)
                    self.statuses[answer.status_code] += 1
                except httpx2.TransportError as error:
                    self.began_failing.append((began, repr(error)))


def test_each_tells_the_metrics_of_all(workers: Workers) -> None:
    for _ in range(30):
        httpx2.get(f"{workers.url}/v1/models", headers=workers.auth, verify=False)
    found = workers.metrics()
    assert sum(value for labels, value in found[REQUESTS] if labels["route"] == "/v1/models") == 30
    assert workers.by_worker("citadel_gateway_worker_up") == {"1": 1, "2": 1, "3": 1}
    # They count limits together, all three.
    wait_until(lambda: workers.by_worker("citadel_gateway_limit_gateways") == {"1": 3, "2": 3, "3": 3})
    assert workers.by_worker("citadel_gateway_limit_store_up") == {"1": 1, "2": 1, "3": 1}
    # The engine's page once, whichever was asked.
    assert [labels for labels, _ in found["vllm:num_requests_running"]] == [
        {"engine": CHAT, "exported_engine": "0", "model_name": CHAT}
    ]
    # One that hangs costs its own part.
    os.kill(workers.running[2], signal.SIGSTOP)
    with contextlib.closing(httpx2.Client(base_url=workers.url, verify=False, timeout=1)) as client:
        while True:
            with contextlib.suppress(httpx2.TransportError):
                # It may be the hanging one that has accepted this connection.
                client.get("/health")
                break
        text = client.get("/metrics", timeout=20).text
    os.kill(workers.running[2], signal.SIGCONT)
    assert 'citadel_gateway_worker_up{worker="2"} 0.0' in text
    assert 'citadel_gateway_keys_known{worker="3"}' in text
    assert 'citadel_gateway_keys_known{worker="2"}' not in text


def test_a_killed_one_takes_along_only_what_it_had_in_hand(workers: Workers) -> None:
    for number in (2, 1):
        with Load(workers, keep=False) as load:
            workers.kill(number)
            after = time.monotonic()
            load.go_on(200)
            # It comes back, the first too, on the socket that the others accept on.
            workers.start(number)
            workers.wait_for(number)
        assert set(load.statuses) == {200}
        assert [text for began, text in load.began_failing if began > after] == []
        assert len(load.began_failing) <= 6
        assert workers.by_worker("citadel_gateway_worker_up") == {"1": 1, "2": 1, "3": 1}


def test_each_hands_over_and_no_request_fails(workers: Workers) -> None:
    workers.settings(docs=False)
    with Load(workers, keep=True) as load:
        for number in (1, 2, 3):
            workers.hand_over(number)
            load.go_on()
    assert load.began_failing == []
    assert set(load.statuses) == {200}
    # Each is the new one.
    for _ in range(20):
        assert httpx2.get(f"{workers.url}/docs", verify=False).status_code == 404


def test_all_move_to_another_port(workers: Workers) -> None:
    port = _free_port()
    workers.settings(port=port)
    for number in (1, 2, 3):
        workers.hand_over(number)
    workers.url = f"http://127.0.0.1:{port}"
    assert workers.by_worker("citadel_gateway_worker_up") == {"1": 1, "2": 1, "3": 1}


def test_one_that_is_no_longer_wanted_leaves_without_a_failure(workers: Workers) -> None:
    with Load(workers, keep=True) as load:
        workers.settings(workers=1)
        workers.hand_over(1)
        for number in (2, 3):
            os.kill(workers.running[number], signal.SIGTERM)
        load.go_on(300)
    assert load.began_failing == []
    assert set(load.statuses) == {200}
    wait_until(lambda: not workers.processes(2) and not workers.processes(3), within=90)
    # Alone, it is as it was before there were several.
    assert "citadel_gateway_worker_up" not in workers.metrics()
    assert workers.metrics()["citadel_gateway_keys_known"][0][0] == {}
    assert workers.start(2, "--hand-over").wait(timeout=30) == 3
    assert "there is no worker 2 of 1 (gateway.workers)" in workers.said()
