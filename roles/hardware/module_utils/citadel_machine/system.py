"""The operating system: name, kernel, clock, names, swap."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .terms import GIB, Facts, assignments, read, read_number

# Returns a command's output, or "" where it is not there or fails.
Ask = Callable[[list[str]], str]
_CLOCKS = {
    "systemd-timesyncd": "systemd-timesyncd.service",
    "chrony": "chrony.service",
    "chronyd": "chronyd.service",
    "ntpd": "ntpsec.service",
    "ntp": "ntp.service",
    "openntpd": "openntpd.service",
    "ptp4l": "ptp4l.service",
}


def observe(root: Path) -> Facts:
    """Return the system's name and version, and its kernel."""
    kernel = read(root / "proc/sys/kernel/osrelease") or os.uname().release
    return {**parse_release(read(root / "etc/os-release")), "kernel": kernel}


def parse_release(text: str) -> Facts:
    """Return distribution, version and full name from /etc/os-release."""
    values = assignments(text)
    return {
        "distribution": values.get("ID", "unknown"),
        "version": values.get("VERSION_ID", "unknown"),
        "name": values.get("PRETTY_NAME", "unknown"),
    }


def ask_host(words: list[str]) -> str:
    """Run a command of the host for its output."""
    program = shutil.which(words[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the words are this package's own
            [program, *words[1:]], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def clock(root: Path, ask: Ask) -> Facts:
    """Return whether the clock is synchronised (True, False, or None for unknown), and `by` whom.

    A container has its host's clock: no service of its own sets it, and the kernel's word counts.
    """
    said = assignments(ask(["timedatectl", "show", "--property=NTPSynchronized", "--property=NTP"]))
    synchronised = {"yes": True, "no": False}.get(said.get("NTPSynchronized", ""))
    states = {
        name: ask(["systemctl", "show", "--property=ActiveState", unit]) for name, unit in _CLOCKS.items()
    }
    running = [name for name, state in states.items() if "ActiveState=active" in state.split()]
    if synchronised is None and (root / "run/systemd/timesync/synchronized").exists():
        synchronised = True
    by = " and ".join(running) or (
        "set by the host outside" if (root / "run/systemd/container").exists() else "nobody"
    )
    return {"synchronised": synchronised, "by": by}


def swap(root: Path) -> Facts:
    """Return the swap's size in GiB (compressed memory apart, which is none), and the kernel's swappiness."""
    lines = [line.split() for line in read(root / "proc/swaps").splitlines()[1:]]
    kibibytes = sum(int(fields[2]) for fields in lines if not fields[0].startswith("/dev/zram"))
    swappiness = read_number(root / "proc/sys/vm/swappiness")
    return {"size_gib": round(kibibytes * 1024 / GIB, 1), "swappiness": swappiness}


def name_servers(root: Path) -> list[str]:
    """Return the servers that /etc/resolv.conf names."""
    lines = (line.split() for line in read(root / "etc/resolv.conf").splitlines())
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]


def resolvable(names: list[str], seconds: float) -> list[bool]:
    """Return for each name whether an address was found in so many seconds; all are asked at once."""
    known: set[str] = set()
    threads = [threading.Thread(target=_resolve, args=(name, known), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [name in known for name in names]


def _resolve(name: str, known: set[str]) -> None:
    try:
        socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return
    known.add(name)
