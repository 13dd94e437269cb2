"""The engine's processes as one group that cannot outlive this one.

vLLM is several processes: an API server, a core, and workers. When the API server is killed, the core and
the workers stay behind with the memory they hold; a parent-death signal (prctl) would reach the API server
alone. So all of them are put into the process group of a keeper: a shell that waits for the end of a pipe
whose other end only this process holds. However this process ends, the pipe closes, and the keeper kills its
whole group. And while the keeper lives, the group's id cannot be given to anyone else.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence

_KEEPER = ("/bin/sh", "-c", "read -r _; kill -KILL 0")
_LINE_END = re.compile(rb"[\r\n]+")  # progress bars end their lines with \r alone
_LONGEST_LINE = 16 * 1024


class ProcessGroup:
    """A running program with all its descendants. Make one with `start`."""

    def __init__(
        self, keeper: asyncio.subprocess.Process, main: asyncio.subprocess.Process, reader: asyncio.Task[None]
    ) -> None:
        self._keeper = keeper
        self._main = main
        self._reader = reader

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None]
    ) -> "ProcessGroup":
        """Start a program.

        Args:
            command: The program and its arguments.
            environment: Its whole environment.
            on_line: Called with each line of its standard output and error.

        Raises:
            OSError: It cannot be started.
        """
        keeper = await asyncio.create_subprocess_exec(
            *_KEEPER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, process_group=0
        )
        # A pipe of our own: of one that asyncio makes, it waits for the end before it tells that the process
        # has ended, and the process's children may hold it open for ever.
        read_end, write_end = os.pipe()
        reader = asyncio.create_task(_read(read_end, on_line))
        try:
            main = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                process_group=keeper.pid,
                # Its socket is nobody else's before the service opens it.
                umask=0o077,
            )
        except OSError:
            keeper.kill()
            await keeper.wait()
            raise
        finally:
            os.close(write_end)
        return cls(keeper, main, reader)

    @property
    def pid(self) -> int:
        """The id of the program's first process."""
        return self._main.pid

    async def wait(self) -> int:
        """Wait for the first process to end, and for its last words; return its exit code.

        Below zero: the number of the signal that ended it.
        """
        code = await self._main.wait()
        # Others of the group may hold the pipe open; what the first one wrote is there by now.
        await asyncio.wait([self._reader], timeout=1.0)
        return code

    def terminate(self) -> None:
        """Ask the first process to end in good order."""
        with contextlib.suppress(ProcessLookupError):
            self._main.terminate()

    async def kill(self) -> None:
        """End everything in the group at once, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._keeper.pid, signal.SIGKILL)
        await self._keeper.wait()
        await self._main.wait()
        await asyncio.wait([self._reader], timeout=1.0)
        self._reader.cancel()


async def _read(descriptor: int, on_line: Callable[[str], None]) -> None:
    """Hand over each line that comes from a pipe, until its end; then close it."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    rest = b""
    try:
        while chunk := await stream.read(65536):
            *lines, rest = _LINE_END.split(rest + chunk)
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                _hand_over(line, on_line)
        _hand_over(rest, on_line)
    finally:
        transport.close()


def _hand_over(line: bytes, on_line: Callable[[str], None]) -> None:
    text = line[:_LONGEST_LINE].decode(errors="replace").rstrip()
    if text:
        on_line(text)
