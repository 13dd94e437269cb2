"""Commands: without a shell, within their time, with little of what they write."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from citadel_llm.health_checks.probes.look import Probe
from citadel_llm.health_checks.states import Reading, Verdict

_KEPT_BYTES = 4096
_SHOWN = 200
# Monitoring plugins' exit codes (monitoring-plugins.org/doc/guidelines.html); any other is a failure.
_VERDICTS: dict[int, Verdict] = {0: "ok", 1: "warning", 2: "failed", 3: "unknown"}
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; negative for the signal that ended it.
        output: The beginning of what it wrote, on standard output and standard error.
    """

    code: int
    output: str

    @property
    def line(self) -> str:
        """The first line that it wrote, without the figures that plugins add for machines."""
        lines = self.output.strip().splitlines()
        return lines[0].partition("|")[0].strip()[:_SHOWN] if lines else ""


async def run(command: Sequence[str], given: bytes = b"", keep: int = _KEPT_BYTES) -> Ended:
    """Run a command, with little of an environment, and have it end with whoever waits for it.

    Args:
        command: Program and arguments.
        given: What stands on its standard input.
        keep: How many bytes of what it writes are kept.

    Raises:
        OSError: It cannot be run.
    """
    output = _Output(keep)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=output.theirs,
            stderr=output.theirs,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    except BaseException:
        output.close()
        raise
    finally:
        os.close(output.theirs)
    try:
        _, text = await asyncio.gather(_give(process, given), output.read())
        return Ended(await process.wait(), text.decode(errors="replace"))
    finally:
        # What it has started goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output.close()
        await process.wait()


def command(words: Sequence[str]) -> Probe:
    """What a command says of something, by its exit code and its first line."""

    async def probe() -> Reading:
        try:
            ended = await run(words)
        except OSError as error:
            return Reading("unknown", f"{words[0]} cannot be run: {error.strerror}")
        verdict = _VERDICTS.get(ended.code, "failed")
        return Reading(verdict, ended.line or f"{words[0]} ended with code {ended.code}")

    return probe


async def _give(process: asyncio.subprocess.Process, given: bytes) -> None:
    assert process.stdin  # noqa: S101 - it was asked for
    # A command need not read it.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(given)
        await process.stdin.drain()
    process.stdin.close()


class _Output:
    """A pipe of our own: asyncio's would have us wait for whoever got away and still holds its other end."""

    def __init__(self, keep: int) -> None:
        ours, self.theirs = os.pipe()
        self._file = os.fdopen(ours, "rb", buffering=0)
        self._keep = keep
        self._transport: asyncio.ReadTransport | None = None

    async def read(self) -> bytes:
        """All is read, so that the command goes on, and the beginning is kept."""
        stream, kept = asyncio.StreamReader(), b""
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), self._file
        )
        while chunk := await stream.read(1 << 16):
            kept = (kept + chunk)[: self._keep]
        return kept

    def close(self) -> None:
        """Read no more."""
        (self._transport or self._file).close()
