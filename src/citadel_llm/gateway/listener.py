"""The socket on which the gateway accepts connections, and where a process of it gets that from."""

import asyncio
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from citadel_llm import config
from citadel_llm.services.errors import StartError
from citadel_llm.services.hand_over import Predecessor

LISTENER = "api"
"""By what systemd keeps it under."""

_FIRST_PASSED_DESCRIPTOR = 3
_BACKLOG = 2048
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.1


async def open_listener(
    settings: config.Gateway, passed: socket.socket | None = None, others: Iterable[Path] = ()
) -> socket.socket:
    """The socket to accept connections on.

    Args:
        settings: Where to listen.
        passed: A socket that listens already. Closed, and another taken, when it listens elsewhere.
        others: Where the other workers hand out theirs (`services.hand_over`); only when none has one that
            listens where the settings say, a new one is made.

    Raises:
        StartError: The address or the port cannot be had.
    """
    if passed is not None:
        if _listens_there(passed, settings):
            return passed
        passed.close()
    asked = list(others)
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        listener = await _from_others(asked, settings)
        if listener:
            return listener
        try:
            return _new_listener(settings)
        except OSError as error:
            # One of those asked may be handing over just now, and be there in a moment.
            if not asked or error.errno != errno.EADDRINUSE or time.monotonic() > end:
                where = f"{settings.address} port {settings.port}"
                raise StartError(
                    f"cannot listen on {where}: {error.strerror} (gateway.address, gateway.port)"
                ) from None
        await asyncio.sleep(_POLL_SECONDS)


async def _from_others(others: list[Path], settings: config.Gateway) -> socket.socket | None:
    for where in others:
        try:
            worker = await Predecessor.at(where)
        except StartError:
            continue
        worker.close()
        if _listens_there(worker.listener, settings):
            return worker.listener
        worker.listener.close()
    return None


def _new_listener(settings: config.Gateway) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    return socket.create_server((settings.address, settings.port), family=family, backlog=_BACKLOG)


def passed_listener() -> socket.socket | None:
    """The socket that systemd passed to this very process, if it did."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = int(os.environ.get("LISTEN_FDS", "0"))
    if count != 1:
        raise StartError(f"systemd passed {count} sockets where one is expected")
    return socket.socket(fileno=_FIRST_PASSED_DESCRIPTOR)


def _listens_there(listener: socket.socket, settings: config.Gateway) -> bool:
    """Whether a socket listens where the settings say. One of a socket unit may be elsewhere on purpose."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDNAMES", "") != LISTENER:
        return True
    name = listener.getsockname()
    address = ipaddress.ip_address(settings.address)
    return (ipaddress.ip_address(name[0]), name[1]) == (address, settings.port)


def address_of(listener: socket.socket) -> str:
    """Where it listens, for people."""
    name = listener.getsockname()
    return f"{name[0]} port {name[1]}" if isinstance(name, tuple) else str(name)
