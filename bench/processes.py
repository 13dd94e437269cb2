"""Processes of the benchmark: on which core they run, what they cost, and that none outlives it."""

import ctypes
import functools
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

_PR_SET_PDEATHSIG = 1
_CPUCLOCK_SCHED = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Timed(Protocol):
    """What uses CPU time."""

    def cpu_seconds(self) -> float:
        """How much it has used."""


class Cores:
    """The two cores, whoever uses them; what a hypervisor took from them is in it, too."""

    def cpu_seconds(self) -> float:
        """Busy time of both since the machine started."""
        names = {f"cpu{core}" for core in cores()}
        hundredths = 0
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
            name, *values = line.split()
            if name in names:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, values[:8])
                hundredths += user + nice + system + irq + softirq + steal
        return hundredths / os.sysconf("SC_CLK_TCK")


class Myself:
    """This process, without its children."""

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        return time.process_time()


@dataclass
class Started:
    """A process and its children."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def processes(self) -> list[int]:
        """It and its children, of any degree."""
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            return [self.process.pid, *(child.pid for child in parent.children(recursive=True))]
        return []

    def cpu_seconds(self) -> float:
        """CPU time of all of them, in user and kernel, also of threads that have ended."""
        total = 0.0
        for pid in self.processes():
            with suppress(OSError):
                # What clock_getcpuclockid(3) gives for a process: nanoseconds, where /proc has hundredths.
                total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
        return total

    def memory(self) -> tuple[int, int]:
        """Bytes of memory of all of them: the proportional set size, and the resident one."""
        pss = rss = 0
        for pid in self.processes():
            with suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        pss += int(line.split()[1]) * 1024
                    elif line.startswith("Rss:"):
                        rss += int(line.split()[1]) * 1024
        return pss, rss

    def end(self, within: float = 3.0) -> None:
        """End it and all that it started."""
        family = [psutil.Process(pid) for pid in self.processes()]
        for one in family[:1]:
            with suppress(psutil.NoSuchProcess):
                one.terminate()
        _, alive = psutil.wait_procs(family, timeout=within)
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=within)


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    core: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
    parting: signal.Signals = signal.SIGKILL,
) -> Started:
    """Start a process on one core, in a session of its own; it ends when this one does, however it ends.

    Args:
        name: For messages.
        command: What to run.
        core: Where.
        log: File for what it says.
        environment: In addition to this one's.
        parting: Signal that it gets should this process be killed. SIGTERM for those with children.
    """

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        _libc.prctl(_PR_SET_PDEATHSIG, int(parting), 0, 0, 0)

    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - the benchmark's own commands
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - there are no threads
        )
    return Started(name, process, log)


@functools.cache
def cores() -> tuple[int, int]:
    """The core for the proxies, and the one for the load, of those that this process had when it began.

    Raises:
        RuntimeError: There are not two.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:  # noqa: PLR2004 - two
        raise RuntimeError("the benchmark wants two cores: one for the proxy, one for the load")
    return usable[-1], usable[-2]
