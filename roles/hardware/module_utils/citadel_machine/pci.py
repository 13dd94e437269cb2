"""What stands between GPUs that shall copy to each other directly: the IOMMU, and ACS on the bridges.

With ACS' request redirect, a bridge sends what one GPU writes to its neighbour up to the root, where an IOMMU
may translate it; NVIDIA's NCCL documentation ("Troubleshooting", "PCI Access Control Services") asks
for it to be off on bare metal. Layout: PCI Express Base Specification, "Access Control Services Extended
Capability": id 0x000D, the control register 6 bytes in, bit 2 for peer-to-peer request redirect.
"""

import re
from pathlib import Path

from .terms import Facts, read

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_EXTENDED, _ACS, _CONTROL, _REDIRECT = 0x100, 0x000D, 6, 0x04
# What others than root may read of a device's configuration space.
_PUBLIC = 64


def iommu(root: Path) -> Facts:
    """Return how many `groups` the IOMMU has (0: off), its `mode`, and what the kernel was told of it."""
    groups = [entry for entry in (root / "sys/kernel/iommu_groups").glob("*") if entry.name.isdigit()]
    modes = sorted({read(group / "type") for group in groups} - {""})
    words = [word for word in read(root / "proc/cmdline").split() if "iommu" in word or "acs" in word]
    return {"groups": len(groups), "mode": ", ".join(modes) or "off", "kernel_arguments": words}


def gpu_modes(root: Path, addresses: list[str]) -> list[str]:
    """Return the IOMMU's modes for these devices: `identity` passes through, `DMA` and `DMA-FQ` translate."""
    devices = root / "sys/bus/pci/devices"
    return sorted({read(devices / _short(address) / "iommu_group/type") for address in addresses} - {""})


def acs(root: Path, addresses: list[str]) -> Facts:
    """Return whether ACS redirects what GPUs send to each other.

    `state`: `redirects`, `direct` (no bridge above a GPU redirects), `none` (no GPU, no bridge), or `unknown`
    with its `reason`. `bridges` are the addresses of those that redirect.
    """
    bridges = sorted({bridge for address in addresses for bridge in bridges_above(root, address)})
    if not bridges:
        return {"state": "none", "bridges": [], "reason": ""}
    redirecting, unread = [], []
    for bridge in bridges:
        said = redirects(root / "sys/bus/pci/devices" / bridge / "config")
        if said is None:
            unread.append(bridge)
        elif said:
            redirecting.append(bridge)
    if redirecting:
        return {"state": "redirects", "bridges": redirecting, "reason": ""}
    if unread:
        which = ", ".join(unread)
        reason = f"the configuration of {which} could not be read whole (a virtual machine, or not root)"
        return {"state": "unknown", "bridges": [], "reason": reason}
    return {"state": "direct", "bridges": [], "reason": ""}


def bridges_above(root: Path, address: str) -> list[str]:
    """Return the addresses of the bridges between a device and the root complex."""
    entry = root / "sys/bus/pci/devices" / _short(address)
    if not entry.exists():
        return []
    return [part for part in entry.resolve().parent.parts if _ADDRESS.fullmatch(part)]


def _short(address: str) -> str:
    # nvidia-smi writes the domain with eight digits and in capitals, the kernel with four.
    return re.sub(r"^0000(?=[0-9a-f]{4}:)", "", address.lower())


def redirects(config: Path) -> bool | None:
    """Return whether a bridge redirects peer-to-peer requests; None where that cannot be read."""
    try:
        space = config.read_bytes()
    except OSError:
        return None
    if len(space) <= _PUBLIC:
        return None
    offset, seen = _EXTENDED, set()
    while _EXTENDED <= offset <= len(space) - 8 and offset not in seen:
        seen.add(offset)
        header = int.from_bytes(space[offset : offset + 4], "little")
        if header & 0xFFFF == _ACS:
            control = int.from_bytes(space[offset + _CONTROL : offset + _CONTROL + 2], "little")
            return bool(control & _REDIRECT)
        offset = header >> 20
    return False
