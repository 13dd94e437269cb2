"""How fast a storage reads, measured on files that are already there; nothing is written."""

import mmap
import os
import stat
import time
from pathlib import Path

from .terms import GIB, Facts

_BLOCK = 8 * 1024**2
_SMALLEST = 64 * 1024**2  # below this, opening and the disk's own cache weigh more than reading


def measure(folder: Path, seconds: float, most: int) -> Facts:
    """Read a folder's largest files past the page cache, for so many seconds or bytes at most.

    Returns:
        `mib_s` (MiB a second, or None), `read_gib`, `largest_gib` (the largest folder under it, which is what
        a model's weights are), `load_s` (how long that folder takes at this speed, or None), and `how`: the
        way past the cache, or why nothing was measured.
    """
    found = _files(folder, time.monotonic() + seconds)
    files = sorted(found, key=lambda entry: (-entry[1], str(entry[0])))
    largest = _largest_folder(folder, files)
    nothing = {"mib_s": None, "read_gib": 0.0, "largest_gib": round(largest / GIB, 2), "load_s": None}
    if not files or files[0][1] < _SMALLEST:
        return {**nothing, "how": f"no file of {_SMALLEST // 1024**2} MiB or more to read stands there"}
    done, ways, start = 0, set(), time.monotonic()
    for path, _ in files:
        left = seconds - (time.monotonic() - start)
        if left <= 0 or done >= most:
            break
        try:
            count, way = _read(path, left, most - done)
        except OSError:
            continue
        done += count
        ways.add(way)
    spent = time.monotonic() - start
    if not done:
        return {**nothing, "how": "none of the files there could be read"}
    speed = done / spent
    return {
        "mib_s": round(speed / 1024**2),
        "read_gib": round(done / GIB, 2),
        "largest_gib": round(largest / GIB, 2),
        "load_s": round(largest / speed, 1) if largest else None,
        "how": " and ".join(sorted(ways)),
    }


def _files(folder: Path, end: float) -> list[tuple[Path, int]]:
    """Return the regular files of a folder's own file system with their sizes, those seen until `end`."""
    found: list[tuple[Path, int]] = []
    if not folder.is_dir():
        return found
    device = folder.stat().st_dev
    for place, folders, names in os.walk(folder):
        # Other file systems are other disks, or none: /proc/kcore says that it is larger than any of them.
        folders[:] = [name for name in folders if _device(Path(place, name)) == device]
        for name in names:
            try:
                told = Path(place, name).lstat()
            except OSError:
                continue
            if stat.S_ISREG(told.st_mode) and told.st_dev == device:
                found.append((Path(place, name), told.st_size))
        if time.monotonic() > end:
            break
    return found


def _device(folder: Path) -> int | None:
    try:
        return folder.lstat().st_dev
    except OSError:
        return None


def _largest_folder(folder: Path, files: list[tuple[Path, int]]) -> int:
    sizes: dict[str, int] = {}
    for path, size in files:
        parts = path.relative_to(folder).parts
        if len(parts) > 1:
            sizes[parts[0]] = sizes.get(parts[0], 0) + size
    return max(sizes.values(), default=0)


def _read(path: Path, seconds: float, most: int) -> tuple[int, str]:
    """Read one file; return how many bytes, and by which way past the cache."""
    try:
        descriptor, way = os.open(path, os.O_RDONLY | os.O_DIRECT), "O_DIRECT"
    except OSError:  # tmpfs and some network file systems know no direct reading
        descriptor, way = os.open(path, os.O_RDONLY), "cache dropped first"
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    # Memory of its own map begins on a page, as direct reading wants it.
    block = mmap.mmap(-1, _BLOCK)
    end, done = time.monotonic() + seconds, 0
    try:
        while done < most and time.monotonic() < end:
            count = os.readv(descriptor, [block])
            done += count
            if count < _BLOCK:
                break
    finally:
        os.close(descriptor)
        block.close()
    return done, way
