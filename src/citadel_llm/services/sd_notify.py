"""Tell systemd how the service is doing: the sd_notify protocol, by hand.

The protocol is one datagram of `KEY=value` lines to the socket in `$NOTIFY_SOCKET` (sd_notify(3)). Of the
libraries on PyPI, sdnotify has had no release since 2017, and systemd-python wants libsystemd's headers and a
compiler on the host; so these few lines are ours.
"""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends to the service manager; without one (`$NOTIFY_SOCKET` unset) every call does nothing."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of an abstract socket.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_seconds = _watchdog_seconds(environ)
        self.muted = False
        """Whether nothing is sent: of two processes of a service only the main one speaks for it."""

    def ready(self, status: str) -> None:
        """Start-up, or a reload, is over."""
        self._send(READY=1, STATUS=status)

    def status(self, text: str) -> None:
        """One line for people; `systemctl status` shows it."""
        self._send(STATUS=text)

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. systemd tells old notices from new by the clock's value."""
        self._send(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)

    def stopping(self, status: str) -> None:
        """The service has begun to stop."""
        self._send(STOPPING=1, STATUS=status)

    def extend_timeout(self, seconds: float) -> None:
        """Ask for at least this much more time, from now, for the start, reload or stop in progress."""
        self._send(EXTEND_TIMEOUT_USEC=int(seconds * 1_000_000))

    def watchdog(self) -> None:
        """The service is alive; due every `watchdog_seconds`."""
        self._send(WATCHDOG=1)

    def main_process(self, pid: int) -> None:
        """Another process of the service is its main one from now on."""
        self._send(MAINPID=pid)

    def keep(self, name: str, descriptor: int) -> None:
        """Have systemd keep an open file across restarts: the next process gets it as the first one did."""
        self._send(descriptor, FDSTORE=1, FDNAME=name, FDPOLL=0)

    def forget(self, name: str) -> None:
        """Have systemd close the files that it keeps under this name."""
        self._send(FDSTOREREMOVE=1, FDNAME=name)

    def _send(self, *descriptors: int, **fields: object) -> None:
        if not self._address or self.muted:
            return
        message = "\n".join(f"{key}={_one_line(value)}" for key, value in fields.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            try:
                channel.connect(self._address)
                if descriptors:
                    socket.send_fds(channel, [message.encode()], descriptors)
                else:
                    channel.send(message.encode())
            except OSError:
                # No reason to stop serving; a manager that misses a ping acts on its own.
                return


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """How often systemd expects a ping, if it does and if it expects it from this process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1_000_000 if microseconds.isdigit() and int(microseconds) else None
