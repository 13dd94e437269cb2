"""What the host has left: disk, memory, CPU time."""

import asyncio
import os
import re
import threading
from pathlib import Path

from citadel_llm.config.health import CpuLimits, DiskLimits, MemoryLimits
from citadel_llm.health_checks.probes.look import Probe
from citadel_llm.health_checks.states import Reading

_GIB = 1024**3


def disk(path: Path, limits: DiskLimits) -> Probe:
    """There is room for bytes and for files."""
    asked: asyncio.Future[os.statvfs_result] | None = None

    async def probe() -> Reading:
        nonlocal asked
        # A file system that hangs (a server that is gone) keeps its thread: one, not one more with each look.
        if asked is None or asked.done():
            asked = _in_thread(path)
        try:
            seen = await asyncio.shield(asked)
        except PermissionError:
            raise
        except OSError as error:
            return Reading("failed", f"{path}: {error.strerror}")
        free = seen.f_bavail * seen.f_frsize / _GIB
        inodes = f", {seen.f_favail} inodes" if seen.f_files else ""
        detail = f"{free:.1f} GiB{inodes} free"
        # Some file systems make inodes as they go, and count none.
        if free < limits.fail_free_gib or (seen.f_files and seen.f_favail < limits.fail_free_inodes):
            return Reading("failed", detail)
        return Reading("warning" if free < limits.warn_free_gib else "ok", detail)

    return probe


def memory(limits: MemoryLimits, proc: Path = Path("/proc")) -> Probe:
    """There is memory, and nothing stands still for want of it."""

    async def probe() -> Reading:
        found = re.search(r"^MemAvailable: +(\d+) kB$", (proc / "meminfo").read_text(), re.MULTILINE)
        if found is None:
            return Reading("unknown", "the kernel does not say how much memory is available")
        available = int(found[1]) * 1024 / _GIB
        pressure = _pressure(proc / "pressure/memory", "full", "avg60")
        detail = f"{available:.1f} GiB available"
        if pressure is not None:
            detail += f", all work stood still for {pressure:.0f}% of the last minute"
        short = available < limits.fail_available_gib or (pressure or 0) > limits.fail_pressure_percent
        return Reading("failed" if short else "ok", detail)

    return probe


def cpu(limits: CpuLimits, proc: Path = Path("/proc")) -> Probe:
    """Work does not wait for a CPU all the time."""

    async def probe() -> Reading:
        pressure = _pressure(proc / "pressure/cpu", "some", "avg300")
        if pressure is None:
            return Reading("skipped", "this kernel does not measure pressure (psi=1 on its command line)")
        detail = f"work waited for a CPU for {pressure:.0f}% of the last five minutes"
        if pressure > limits.fail_pressure_percent:
            return Reading("failed", detail)
        return Reading("warning" if pressure > limits.warn_pressure_percent else "ok", detail)

    return probe


def _pressure(file: Path, line: str, window: str) -> float | None:
    """A share in percent of what the kernel has measured; none where it does not."""
    try:
        found = re.search(rf"^{line} .*\b{window}=([\d.]+)", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return float(found[1]) if found else None


def _in_thread(path: Path) -> asyncio.Future[os.statvfs_result]:
    """Ask for a file system in a thread for which nobody waits at the end."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[os.statvfs_result] = loop.create_future()

    def tell(result: os.statvfs_result | None, error: OSError | None) -> None:
        if error:
            answer.set_exception(error)
        elif result:
            answer.set_result(result)

    def ask() -> None:
        result, error = None, None
        try:
            result = os.statvfs(path)
        except OSError as failure:
            error = failure
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=ask, name=f"statvfs {path}", daemon=True).start()
    return answer
