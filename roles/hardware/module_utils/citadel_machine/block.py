"""From a mounted device to the physical disks under it: partitions, LVM and device-mapper, md."""

import os
from pathlib import Path

from .terms import GIB, Facts, read, read_number

_SECTOR = 512  # /sys/class/block counts in these, whatever the disk's own sectors are


def disks_of(root: Path, device: str, number: str) -> list[Facts]:
    """Return the physical disks that hold a block device.

    Args:
        root: Where /sys and /dev stand.
        device: The device as it is mounted, such as `/dev/mapper/data-models`.
        number: Its `major:minor`, which finds it when its name does not (`/dev/root`); "" where unknown.
    """
    name = _name(root, device, number)
    return [disk(root, found) for found in sorted(set(_physical(root, name)))] if name else []


def _name(root: Path, device: str, number: str) -> str | None:
    blocks = root / "sys/class/block"
    if number:
        for entry in sorted(blocks.glob("*")):
            if read(entry / "dev") == number:
                return entry.name
    # A name such as /dev/mapper/x is a link to /dev/dm-0.
    for name in (Path(device).name, (root / device.lstrip("/")).resolve().name):
        if (blocks / name).exists():
            return name
    return None


def _physical(root: Path, name: str, depth: int = 0) -> list[str]:
    entry = root / "sys/class/block" / name
    lower = sorted(part.name for part in (entry / "slaves").glob("*"))
    if lower and depth < 16:  # noqa: PLR2004 - deeper than anybody stacks, and no loop runs for ever
        return [found for part in lower for found in _physical(root, part, depth + 1)]
    if (entry / "partition").exists():
        return _physical(root, entry.resolve().parent.name, depth + 1)
    return [name]


def disk(root: Path, name: str) -> Facts:
    """Return a disk: its `name`, `model`, `size_gib`, whether it is `rotational`, and its `transport`."""
    entry = root / "sys/class/block" / name
    return {
        "name": name,
        "model": read(entry / "device/model"),
        "size_gib": round((read_number(entry / "size") or 0) * _SECTOR / GIB, 1),
        "rotational": read(entry / "queue/rotational") == "1",
        "transport": transport(name, _lineage(entry)),
    }


def _lineage(entry: Path) -> str:
    """Return the path by which the kernel reaches a disk, which names the buses on the way."""
    real = entry.resolve()
    folder = read(real / "device/transport")
    return f"{real}/{folder}"


def transport(name: str, lineage: str) -> str:
    """Return how a disk is attached: nvme, nvme-fabrics, sata, sas, usb, virtio, mmc, loop, ram, or other."""
    if name.startswith("nvme"):
        # Over a network its controller stands under none of the PCI buses, and says by what it goes.
        return "nvme-fabrics" if lineage.endswith(("/tcp", "/rdma", "/fc")) else "nvme"
    prefixes = {"vd": "virtio", "xvd": "xen", "mmcblk": "mmc", "loop": "loop", "zram": "ram", "ram": "ram"}
    for prefix, kind in prefixes.items():
        if name.startswith(prefix):
            return kind
    marks = {"/usb": "usb", "/end_device-": "sas", "/ata": "sata", "/virtio": "virtio", "/session": "iscsi"}
    for mark, kind in marks.items():
        if mark in lineage:
            return kind
    return "other"


def device_number(path: Path) -> str:
    """Return the `major:minor` of the file system that holds a path."""
    device = path.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"
