"""A real Valkey or Redis on a port of its own, which can be killed, stopped and started again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path


class ValkeyServer:
    """The server; it keeps nothing on disk, and ends with the process that started it.

    Args:
        folder: For its link and its log.
        arguments: More of its own.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._program = folder / "redis-server"
        if not self._program.exists():
            self._program.symlink_to(_find_program())
        self._arguments = arguments
        self._log = folder / "log"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self.url = f"valkey://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["setpriv", "--pdeathsig=KILL", str(self._program), "--port", str(self.port), "--save", ""]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--bind", "127.0.0.1", *self._arguments], stdout=log, stderr=log
            )
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < end, self._log.read_text()
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def hang(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


def _find_program() -> str:
    # Debian's packages of the tools hold the server, too, under another name, and start none.
    for name in ("valkey-server", "redis-server", "valkey-check-rdb", "redis-check-rdb"):
        program = shutil.which(name)
        if program:
            return program
    raise AssertionError("neither Valkey nor Redis is installed: `scripts/bootstrap lab` does that")
