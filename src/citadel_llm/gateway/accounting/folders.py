"""The spools' folders: made by the process that writes one, taken over from one that is dead, removed.

Whoever holds the lock of a folder owns it. The kernel lets go of a lock when its process ends, however it
does; so no owner has to be asked whether it lives, and no process number can mean another process.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LOCK = "lock"
# What such folders hold is nothing: not yet, or no longer.
_DRAFT, _DONE = ".new-", ".done-"
_ABANDONED_SECONDS = 60.0


def make_run(root: Path, run: str) -> int:
    """Make a run's folder and lock it. It has its name only once it is locked.

    Returns:
        The lock's descriptor: the folder is this process's until it is closed.

    Raises:
        OSError: It cannot be made.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = root / f"{_DRAFT}{run}"
    draft.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(draft / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(root / run)
    except OSError:
        os.close(lock)
        raise
    return lock


def segments_of(folder: Path) -> list[tuple[int, Path]]:
    """A run's segments, in order; none when the folder is gone."""
    found = []
    with suppress(FileNotFoundError):
        found = [(int(path.stem), path) for path in folder.iterdir() if path.suffix == ".seg"]
    return sorted(found)


def sync_segments(folder: Path, first: int) -> None:
    """Have the disk keep a run's segments from a number on, so that they outlive a loss of power.

    Raises:
        OSError: The disk does not.
    """
    for number, path in segments_of(folder):
        if number >= first:
            _sync(path)
    _sync(folder)


def spool_bytes(root: Path) -> int:
    """What all spools take on disk, in bytes."""
    total = 0
    for folder, _, files in os.walk(root):
        for name in files:
            with suppress(OSError):
                total += (Path(folder) / name).stat().st_size
    return total


def abandoned_runs(root: Path) -> Iterator[Path]:
    """The runs whose owner is dead, each locked for as long as it is looked at."""
    for folder in _folders(root):
        if folder.name.startswith("."):
            continue
        lock = _take(folder)
        if lock is not None:
            try:
                yield folder
            finally:
                os.close(lock)


def clear(root: Path) -> None:
    """Remove folders that hold nothing: delivered ones, and those that never got their name."""
    for folder in _folders(root):
        if folder.name.startswith(_DONE):
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.name.startswith(_DRAFT):
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)


def remove_run(folder: Path) -> None:
    """Remove a run that has been delivered. Broken off, `clear` goes on with it, asking nobody."""
    done = folder.with_name(f"{_DONE}{folder.name}")
    with suppress(FileNotFoundError):
        folder.rename(done)
        shutil.rmtree(done, ignore_errors=True)


def _sync(path: Path) -> None:
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _folders(root: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in root.iterdir() if path.is_dir())
    return []


def _take(folder: Path) -> int | None:
    """A run's lock, unless its owner lives."""
    try:
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None  # another process removed it just now
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
