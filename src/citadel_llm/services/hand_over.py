"""A service hands over to its successor: the next one is ready before the last one stops accepting.

The process that serves waits for its successor at a socket in its runtime folder (`HandOverPoint`). The
successor asks there for the listening socket (`Predecessor`), comes up on it, and says that it is ready. Only
then is systemd told that the successor is the service's main process, and the old one accepts no more,
finishes what it has begun, and ends. A successor that does not come up changes nothing.

    successor                    predecessor                   systemd
        │ ── connects ────────────────▶ │
        │ ◀── the listening socket ──── │
        │    (comes up, accepts)        │
        │ ── ready ───────────────────▶ │ ── MAINPID=successor ──▶ │
        │ ◀── yours ─────────────────── │                          │
        │ ── taken ───────────────────▶ │                          │
        │ ── READY=1 ───────────────────┼────────────────────────▶ │
        │                               │ accepts no more, drains, ends
        │ ◀── (end of the connection) ─ ┘

The successor is a child of nobody: `start_successor` forks twice, so that systemd is its parent, as it was
its predecessor's, and notices its end.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from citadel_llm.services.errors import ExitCode, StartError

_PATIENCE_SECONDS = 10.0
# More than a successor gives itself to come up; one that is stuck shall not stand in the way of the next.
_COMING_UP_SECONDS = 150.0
POINT = "hand-over.sock"
_READY, _YOURS, _TAKEN = b"ready\n", b"yours\n", b"taken\n"
_LONGEST_MESSAGE = 4096


def runtime_folder() -> Path | None:
    """The folder that systemd made for this service's sockets; none without systemd."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(folder) if folder else None


def meeting_point() -> Path | None:
    """Where a service and its successor meet: in the runtime folder; none without one."""
    folder = runtime_folder()
    return folder / POINT if folder else None


def open_door(path: Path) -> socket.socket:
    """Listen at a path, also where another process does: who connects from then on comes here.

    Raises:
        StartError: It cannot be made.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    door.setblocking(False)
    try:
        door.bind(str(draft))
        door.listen()
        draft.rename(path)
    except OSError as error:
        door.close()
        raise StartError(f"{path} cannot be made: {error.strerror}") from None
    return door


def start_successor(run: Callable[[int], int]) -> int:
    """Start the successor beside the service that runs, and wait until it has taken over.

    Of services that share a state folder one is succeeded at a time, so that the others have the cores and
    the memory meanwhile.

    Args:
        run: Runs the successor to its end, in a process of its own; gets the descriptor on which it is to
            write the line `ready` when it has taken over, and returns the code to exit with.

    Returns:
        In the process that called, when the successor has taken over or ended: 0, or what it ended with. In
        the successor's process, at its end, what it is to exit with.
    """
    turn = _turn()
    outcome, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(outcome)
        if turn is not None:
            # Or the successor would keep it for as long as it lives.
            os.close(turn)
        if os.fork():
            os._exit(ExitCode.OK)
        return run(told)
    os.close(told)
    os.waitpid(child, 0)
    with os.fdopen(outcome, "rb") as reader:
        said = reader.read()
    return ExitCode.OK if said == _READY else ExitCode.START_FAILED


class Predecessor:
    """The process that serves now, as its successor sees it.

    Attributes:
        listener: The socket on which it accepts connections.
        watchdog_seconds: How often systemd expects a sign of life, if it does.
    """

    def __init__(self, channel: socket.socket, listener: socket.socket, watchdog: float | None) -> None:
        self._channel = channel
        self.listener = listener
        self.watchdog_seconds = watchdog

    @classmethod
    async def meet(cls) -> "Predecessor":
        """Ask the process that serves for its listening socket.

        Raises:
            StartError: There is none, or it does not answer.
        """
        where = meeting_point()
        if where is None:
            raise StartError("a hand-over wants a runtime folder (RuntimeDirectory= in the unit)")
        return await cls.at(where)

    @classmethod
    async def at(cls, where: Path) -> "Predecessor":
        """Ask whoever hands over at a path for its listening socket; who only wants that lets go of it.

        Raises:
            StartError: There is nobody, or no answer.
        """
        return await asyncio.to_thread(cls._at, where)

    @classmethod
    def _at(cls, where: Path) -> "Predecessor":
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(_PATIENCE_SECONDS)
        try:
            channel.connect(str(where))
            text, descriptors, _, _ = socket.recv_fds(channel, _LONGEST_MESSAGE, 1)
        except OSError as error:
            channel.close()
            raise StartError(f"the process that serves does not hand over: {error} ({where})") from None
        if not descriptors:
            channel.close()
            raise StartError(f"the process that serves does not hand over: {text.decode().strip()}")
        channel.setblocking(False)
        return cls(channel, socket.socket(fileno=descriptors[0]), json.loads(text)["watchdog_seconds"])

    async def take_over(self, told: int) -> None:
        """Say that the successor is ready; return when it is the one that serves.

        Args:
            told: The descriptor on which whoever started the successor is told.

        Raises:
            StartError: The hand-over was given up, or the process that served has ended.
        """
        loop = asyncio.get_running_loop()
        if _nobody_reads(told):
            raise StartError("the hand-over was given up: nobody waits for it any more")
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await loop.sock_sendall(self._channel, _READY)
                answer = await loop.sock_recv(self._channel, _LONGEST_MESSAGE)
                if answer != _YOURS:
                    raise StartError("the process that served has ended during the hand-over")
                await loop.sock_sendall(self._channel, _TAKEN)
        except (OSError, TimeoutError) as error:
            raise StartError(f"the process that served did not finish the hand-over: {error}") from None
        with contextlib.suppress(OSError):
            os.write(told, _READY)
        os.close(told)

    async def ended(self) -> None:
        """Return when the predecessor has finished what it had begun, and is gone."""
        with contextlib.suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(self._channel, _LONGEST_MESSAGE):
                pass

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()


class HandOverPoint:
    """Where the process that serves waits for its successor.

    Args:
        listener: The socket on which the service accepts connections.
        watchdog_seconds: How often systemd expects a sign of life, if it does.
        introduce: Called with the successor's process id when it is ready: tells systemd.
    """

    def __init__(
        self, listener: socket.socket, watchdog_seconds: float | None, introduce: Callable[[int], None]
    ) -> None:
        # Of its own, for the server closes the one that it is given.
        self._listener = listener.dup()
        self._watchdog_seconds = watchdog_seconds
        self._introduce = introduce
        self._door: socket.socket | None = None
        # Kept open to the end of this process: by its end the successor learns that it is alone.
        self._channel: socket.socket | None = None

    def open(self, path: Path) -> None:
        """Take the place at which successors ask, also from a predecessor.

        Raises:
            StartError: It cannot be made.
        """
        self._door = open_door(path)

    async def handed_over(self) -> None:
        """Return when a successor has taken over; those that do not come up are forgotten."""
        if self._door is None:
            raise RuntimeError("not open")
        loop = asyncio.get_running_loop()
        while True:
            channel, _ = await loop.sock_accept(self._door)
            channel.setblocking(False)
            try:
                if await self._serve(channel):
                    self._channel = channel
                    break
            except (OSError, TimeoutError):
                pass
            channel.close()
        self.close()

    def close(self) -> None:
        """Hand over to nobody any more."""
        if self._door is not None:
            self._door.close()
        self._listener.close()

    async def _serve(self, channel: socket.socket) -> bool:
        """Hand over to one successor; whether it has taken over."""
        loop = asyncio.get_running_loop()
        pid, user = _peer(channel)
        if user != os.geteuid():
            return False
        greeting = json.dumps({"watchdog_seconds": self._watchdog_seconds}).encode()
        socket.send_fds(channel, [greeting], [self._listener.fileno()])
        async with asyncio.timeout(_COMING_UP_SECONDS):
            if await loop.sock_recv(channel, _LONGEST_MESSAGE) != _READY:
                return False
        self._introduce(pid)
        taken = False
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await loop.sock_sendall(channel, _YOURS)
                taken = await loop.sock_recv(channel, _LONGEST_MESSAGE) == _TAKEN
        finally:
            if not taken:
                # Or systemd would take the end of a successor that failed for the service's.
                self._introduce(os.getpid())
        return taken


def _turn() -> int | None:
    """Wait until no other service with this state folder is being succeeded; held as long as it is open."""
    folder = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if not folder:
        return None
    turn = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(turn, fcntl.LOCK_EX)
    return turn


def _peer(channel: socket.socket) -> tuple[int, int]:
    """The process at the other end, and its user."""
    size = struct.calcsize("3i")
    pid, user, _ = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, user


def _nobody_reads(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))
