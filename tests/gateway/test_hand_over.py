"""The hand-over from a gateway to its successor, as systemd would see it: processes, a socket for notices.

tests/lab/test_hand_over.py has it under the real systemd, with clients that ask all the time.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from .fake_engine import FakeEngine
from .gateway_site import CHAT, LoopThread, wait_until
from .test_service import Process, _free_port, _slow_answer, _stream

# It starts four gateways, which takes seconds.
pytestmark = pytest.mark.lab


class Notices:
    """What systemd was told, and the file that it was given to keep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self.kept: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def read(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while True:
                text, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 4)
                self.said.append(text.decode())
                self.kept += descriptors
        return "\n".join(self.said)

    @property
    def main_process(self) -> int | None:
        """The process that was said to be the main one last."""
        found = [line for line in self.read().splitlines() if line.startswith("MAINPID=")]
        return int(found[-1].partition("=")[2]) if found else None

    def close(self) -> None:
        self.read()
        for descriptor in self.kept:
            os.close(descriptor)
        self._socket.close()


class Handing:
    """A gateway that can hand over."""

    def __init__(self, gateway: Process, notices: Notices, environment: dict[str, str]) -> None:
        self.gateway = gateway
        self.notices = notices
        self.environment = environment

    def hand_over(self) -> int:
        """What `systemctl reload` runs."""
        command = [sys.executable, "-m", "citadel_llm.cli", "run", "gateway", "--hand-over"]
        environment = {**os.environ, **self.environment, "CITADEL_CONFIG": str(self.gateway.folder)}
        with self.gateway.log.open("ab") as log:
            return subprocess.run(
                command, env=environment, stdout=log, stderr=log, timeout=60, check=False
            ).returncode


@pytest.fixture
def handing(tmp_path: Path, loop_thread: LoopThread) -> Iterator[Handing]:
    notices = Notices(tmp_path / "notify")
    (tmp_path / "runtime").mkdir()
    environment = {"NOTIFY_SOCKET": str(notices.path), "RUNTIME_DIRECTORY": str(tmp_path / "runtime")}
    gateway = Process(tmp_path, loop_thread, _free_port())
    loop_thread.run(gateway.engine.start())
    gateway.start(env=environment)
    gateway.wait_until_ready()
    yield Handing(gateway, notices, environment)
    if notices.main_process:
        with contextlib.suppress(ProcessLookupError):
            os.kill(notices.main_process, signal.SIGKILL)
    gateway.end()
    notices.close()
    loop_thread.run(gateway.engine.stop())


def _answers(engine: FakeEngine) -> int:
    return sum(seen.path == "/v1/chat/completions" for seen in engine.seen)


def test_a_successor_takes_over_while_the_old_one_finishes(handing: Handing) -> None:
    gateway, notices = handing.gateway, handing.notices
    key = {"authorization": f"Bearer {gateway.key}"}
    # One that keeps a connection as long as the test takes.
    limits = httpx2.Limits(keepalive_expiry=60)
    idle = httpx2.Client(base_url=gateway.http.base_url, verify=False, timeout=20, limits=limits)
    assert idle.get("/v1/models", headers=key).headers.get("connection") != "close"
    _slow_answer(gateway.engine, 6.0)
    texts: list[str] = []
    client = threading.Thread(target=_stream, args=(gateway, texts))
    client.start()
    wait_until(lambda: _answers(gateway.engine) == 1)

    # One that cannot come up changes nothing.
    settings = gateway.folder / "global" / "citadel.yml"
    good = json.loads(settings.read_text())
    server = {"database": "postgresql://u@h/d", "database_password": {"file": "/nonexistent"}}
    lost = good | {"gateway": good["gateway"] | server}
    settings.write_text(json.dumps(lost))
    assert handing.hand_over() == 3
    assert notices.main_process is None
    assert "the database's password cannot be read" in gateway.log.read_text()

    settings.write_text(json.dumps(good | {"gateway": good["gateway"] | {"docs": False}}))
    assert handing.hand_over() == 0
    assert notices.main_process not in {None, gateway.process and gateway.process.pid}
    assert [text for text in notices.said if "FDSTORE=1" in text and "FDNAME=api" in text]
    # The successor answers those who come, with the new settings; the old one those who are there, once more.
    # For a moment both accept.
    wait_until(lambda: httpx2.get(f"{gateway.http.base_url}/docs", verify=False).status_code == 404)
    last = idle.get("/v1/models", headers=key)
    assert (last.status_code, last.headers["connection"]) == (200, "close")
    idle.close()
    client.join()
    assert "".join(texts).endswith("data: [DONE]\n\n"), gateway.log.read_text()
    gateway.http.close()
    assert gateway.wait() == 0
    assert "STOPPING=1" not in notices.read()
    assert f"MAINPID={notices.main_process}" in notices.read()
    assert CHAT in httpx2.get(f"{gateway.http.base_url}/v1/models", headers=key, verify=False).text
    assert "Traceback" not in gateway.log.read_text()
