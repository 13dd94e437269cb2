"""The other end of sd_notify: a real datagram socket, as systemd has one."""

import socket
import time
from pathlib import Path


class NotifySocket:
    """Collects what a service tells its manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.messages: list[dict[str, str]] = []

    def close(self) -> None:
        self._socket.close()

    def read(self) -> None:
        """Take in what has come."""
        self._socket.setblocking(False)
        while True:
            try:
                text = self._socket.recv(65536).decode()
            except BlockingIOError:
                return
            self.messages.append(dict(line.split("=", 1) for line in text.splitlines()))

    def wait_for(self, key: str, value: str | None = None, seconds: float = 10.0) -> dict[str, str]:
        """The first message, from the last one that was waited for, with this field."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.read()
            while self.messages:
                message = self.messages.pop(0)
                if key in message and value in {None, message[key]}:
                    return message
            time.sleep(0.01)
        raise AssertionError(f"no {key}={value or '…'} within {seconds} s")

    def count(self, key: str) -> int:
        """How many messages with this field are there now."""
        self.read()
        return sum(key in message for message in self.messages)
