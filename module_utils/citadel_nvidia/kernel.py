"""Read what the kernel's own files tell of GPUs and their driver."""

import re
from pathlib import Path

from .terms import Facts, whole


def pci_gpus(sys: Path) -> list[Facts]:
    """Return NVIDIA's display controllers on the PCI bus, with the kernel driver of each."""
    gpus = []
    for device in sorted((sys / "bus/pci/devices").glob("*")):
        if read(device / "vendor") == "0x10de" and read(device / "class").startswith("0x03"):
            driver = device / "driver"
            gpus.append(
                {
                    "pci_address": device.name.lower(),
                    "driver": driver.resolve().name if driver.exists() else "",
                    # A device that is gone leaves all bits set.
                    "gone": _bytes(device / "config").startswith(b"\xff\xff"),
                }
            )
    return gpus


def numa_node(address: str, sys: Path) -> int | None:
    """Return the NUMA node of a PCI device; None where the machine has none."""
    node = whole(read(sys / "bus/pci/devices" / address / "numa_node"))
    return None if node is None or node < 0 else node


def unit_of(pid: int | None, proc: Path) -> str:
    """Return the systemd service that a process belongs to, or an empty text."""
    services = re.findall(r"/([^/\n]+\.service)", read(proc / str(pid) / "cgroup"))
    return services[-1] if services else ""


def kernel_module(text: str) -> Facts:
    """Return version and kind of the loaded kernel module from /proc/driver/nvidia/version; else nothing."""
    version = re.search(r"NVRM version:.*?\s(\d{3}\.\d+(?:\.\d+)?)\s", text)
    return {"version": version[1], "open": "Open Kernel Module" in text, "cuda": ""} if version else {}


def secure_boot(sys: Path) -> bool:
    """Return whether the firmware's variable says so: four bytes of attributes, then its value."""
    variables = (sys / "firmware/efi/efivars").glob("SecureBoot-*")
    return any(_bytes(variable)[4:5] == b"\x01" for variable in variables)


def read(path: Path) -> str:
    """Return a small file's text without the blanks around it, or nothing where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
