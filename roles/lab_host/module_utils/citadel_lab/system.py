"""The few things asked of the operating system."""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class LabError(Exception):
    """Something the lab needs is not so; the message says what, and what would help."""


def run(*command: str | Path, timeout: float = 120) -> str:
    """Run a command and return its standard output.

    Raises:
        LabError: it failed, is not installed, or took longer than `timeout` seconds.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the words are the lab's own
            words, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed; scripts/bootstrap installs it") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(words)}: no end after {timeout:.0f} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise LabError(f"{' '.join(words)}: exit status {done.returncode}\n{said}")
    return done.stdout


def succeeds(*command: str | Path) -> bool:
    """Whether a command ends with 0."""
    try:
        run(*command)
    except LabError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at `path`; wait for whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_folder(path: Path) -> Iterator[bool]:
    """Hold the lock of a folder; False when somebody else does, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def write(path: Path, content: str, mode: int = 0o644) -> None:
    """Put a file in place, whole or not at all, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    draft.replace(path)


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until `condition` holds; False when it still does not after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def processes() -> Iterator[tuple[int, list[str]]]:
    """Every process of this machine, as its id and its arguments."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                raw = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            yield int(entry.name), raw.decode(errors="replace").split("\0")[:-1]


def kill(pid: int) -> None:
    """End a process at once; none is as good as one that is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def mounts_below(path: Path) -> list[Path]:
    """What is mounted at `path` or below it, deepest first."""
    mounted = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if point.is_relative_to(path):
            mounted.append(point)
    return sorted(mounted, key=lambda point: len(point.parts), reverse=True)


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it, but nothing that is mounted there."""
    for point in mounts_below(path):
        run("umount", "--lazy", point)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
