"""The storage paths: what they are mounted from, on which disks, how large, how full."""

import os
import re
from pathlib import Path

from . import block
from .terms import GIB, Facts, read

# Those that change how a service lives there; the rest is noise.
_OPTIONS = ("ro", "noexec", "nodev", "nosuid", "noatime", "relatime", "nobarrier", "discard", "sync", "dax")
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "glusterfs", "fuse.sshfs", "9p", "beegfs")


def observe(path: str, root: Path, mounts: str) -> Facts:
    """Return a path's mount, file system, size and disks, all of which last.

    A path that is not there yet is looked for above. `root` is where /sys and /dev stand, `mounts` the text
    of /proc/self/mountinfo.
    """
    nearest = nearest_of(path)
    space = os.statvfs(nearest)
    mount = mount_of(str(nearest.resolve()), mounts)
    # Some file systems (btrfs) give each subvolume a number that no disk has; the mount's is tried first.
    number = mount.pop("number")
    return {
        "path": path,
        "size_gib": round(space.f_blocks * space.f_frsize / GIB, 1),
        **mount,
        "disks": block.disks_of(root, mount["device"], number),
    }


def free_gib(path: str) -> float:
    """Return what is free for others than root, in GiB."""
    space = os.statvfs(nearest_of(path))
    return round(space.f_bavail * space.f_frsize / GIB, 1)


def nearest_of(path: str) -> Path:
    """Return the path, or the nearest folder above that exists."""
    return next(part for part in (Path(path), *Path(path).parents) if part.exists())


def mount_of(path: str, mounts: str) -> Facts:
    """Return the mount that holds a path, from /proc/self/mountinfo (proc(5)).

    Its point (`mount`), `device`, `number` (major:minor), `file_system`, and the `options` that matter.
    """
    entries = [line.split(" - ", 1) for line in mounts.splitlines() if " - " in line]
    holding = []
    for left, right in entries:
        fields, (kind, source, above) = left.split(), right.split(" ", 2)
        point = _unescaped(fields[4])
        if Path(path).is_relative_to(point):
            options = set(f"{fields[5]},{above}".split(","))
            holding.append((point, _unescaped(source), fields[2], kind, options))
    if not holding:
        return {"mount": "/", "device": "unknown", "number": "", "file_system": "unknown", "options": []}
    # The last of several mounts on one point is the one that is seen.
    point, source, number, kind, options = max(reversed(holding), key=lambda entry: len(entry[0]))
    return {
        "mount": point,
        "device": source,
        "number": number,
        "file_system": kind,
        "options": [option for option in _OPTIONS if option in options],
    }


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def kind_of(storage: Facts) -> str:
    """Return what a storage is on: `nvme`, `ssd`, `disk`, `network`, `virtual`, `mixed` or `unknown`."""
    if storage["file_system"] in NETWORK:
        return "network"
    kinds = {_kind(disk) for disk in storage["disks"]}
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "unknown"


def _kind(disk: Facts) -> str:
    transport = disk["transport"]
    if transport == "nvme":
        return "nvme"
    if transport in ("nvme-fabrics", "iscsi"):
        return "network"
    if transport in ("virtio", "xen", "loop", "ram"):
        return "virtual"
    return "disk" if disk["rotational"] else "ssd"


def mounts_text(root: Path) -> str:
    """Return the mounts that this process sees."""
    return read(root / "proc/self/mountinfo")
