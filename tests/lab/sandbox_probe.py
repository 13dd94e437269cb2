"""Tries what a service must not do, from within its unit's sandbox; prints what it could, by name, as JSON.

Run by test_sandbox.py in the place of the service, with the host's own Python. Each attempt is one that would
work for this account, or for root, on a host without the sandbox.
"""

import contextlib
import ctypes
import json
import mmap
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


def _called(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _write(folder: str) -> Callable[[], object]:
    return lambda: Path(folder, f"citadel-probe-{os.getuid()}").write_text("x")


def _run_own_program() -> None:
    """From anywhere that it may write to."""
    own = [os.environ.get(f"{kind}_DIRECTORY", "") for kind in ("STATE", "CACHE", "RUNTIME")]
    places = ["/tmp", "/var/tmp", "/dev/shm", *(each.split(":")[0] for each in own)]  # noqa: S108
    for place in filter(None, places):
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=place) as folder:
            program = Path(folder, "program")
            program.write_text("#!/bin/sh\n")
            program.chmod(0o700)
            subprocess.run([program], check=True)
            os.write(2, f"ran a program from {place}\n".encode())
            return
    raise PermissionError


def _make_setuid() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, stat.S_ISUID | 0o700)  # noqa: PTH101 - as a program would


def _map_writable_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _see_others() -> None:
    others = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and folder.stat().st_uid != os.getuid():
                others.append(folder.name)
    if not others:
        raise PermissionError


def _list_homes() -> None:
    if not list(Path("/home").iterdir()):
        raise PermissionError


def _socket(family: int, kind: int = socket.SOCK_STREAM) -> Callable[[], object]:
    return lambda: socket.socket(family, kind).close()


def _realtime() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


ATTEMPTS: dict[str, Callable[[], object]] = {
    "write /etc": _write("/etc"),
    "write /usr": _write("/usr/local"),
    "write the release": _write("/opt/citadel/current"),
    "write the configuration": _write("/opt/citadel/config"),
    "write /var/lib": _write("/var/lib"),
    "write another's state": _write("/var/lib/citadel/everybodys"),
    "read the secrets": lambda: Path("/opt/citadel/secrets/probe").read_text(),
    "read the gateway's credentials": lambda: Path("/etc/citadel/credentials/probe").read_text(),
    "see the host's /tmp": lambda: Path("/tmp/citadel-host-probe").read_text(),  # noqa: S108
    "list homes": _list_homes,
    "see others' processes": _see_others,
    "open a device": lambda: Path("/dev/citadel-probe").open("rb").close(),
    "set a kernel setting": lambda: Path("/proc/sys/kernel/domainname").write_text("x"),
    "set the host's name": lambda: socket.sethostname("probe"),
    "become root": lambda: os.setuid(0),
    "make a program setuid": _make_setuid,
    "make a user namespace": lambda: _called(_libc.unshare(_CLONE_NEWUSER)),
    "change the personality": lambda: _called(_libc.personality(0x0008)),
    "run in real time": _realtime,
    "be traced": lambda: _called(_libc.ptrace(0, 0, 0, 0)),
    "speak raw packets": _socket(socket.AF_PACKET, socket.SOCK_RAW),
    "speak TCP": _socket(socket.AF_INET),
    "map writable code": _map_writable_code,
    "run a program of its own": _run_own_program,
}


def _can(attempt: Callable[[], object]) -> bool:
    """Whether an attempt goes through, in a process of its own: a forbidden system call ends it."""
    child = os.fork()
    if not child:
        try:
            attempt()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    """Try everything."""
    could = [name for name, attempt in ATTEMPTS.items() if _can(attempt)]
    sys.stdout.write("could: " + json.dumps(could) + "\n")


main()
