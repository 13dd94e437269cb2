import os
import socket

import pytest

from citadel_llm.services.sd_notify import Notifier

from .notify_socket import NotifySocket


def test_a_status_is_one_line(notify: NotifySocket) -> None:
    Notifier().status("one\ntwo")
    assert notify.wait_for("STATUS") == {"STATUS": "one two"}


def test_the_time_is_in_microseconds(notify: NotifySocket) -> None:
    Notifier().extend_timeout(1.5)
    assert notify.wait_for("EXTEND_TIMEOUT_USEC") == {"EXTEND_TIMEOUT_USEC": "1500000"}


def test_abstract_sockets_are_reached() -> None:
    name = f"citadel-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).watchdog()
        assert listener.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}])
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    Notifier(environ).ready("there")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
    ],
)
def test_the_watchdog_s_interval(environ: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environ).watchdog_seconds == seconds
