"""Gather what lasts of a machine, and what varies from run to run, apart from each other."""

import copy
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path

from . import cpu, memory, pci, storage, system, throughput
from .terms import GIB, Facts

# What a GPU says of this moment. Its PCIe link slows down when idle, so of it only what is possible lasts.
_PASSING = ("memory_used_mib", "temperature_c", "processes", "power_draw_w")
# A resolver whose servers are silent tries for up to half a minute, name by name.
_NAME_SECONDS = 5.0
_PASSING_LINK = ("generation", "width")


def observe(paths: list[str], names: list[str], gpus: Facts, root: Path = Path("/")) -> tuple[Facts, Facts]:
    """Return the facts that last and those of this moment.

    Args:
        paths: Storage paths.
        names: Names that the host should be able to resolve, besides its own.
        gpus: What the module citadel_gpu_facts returned.
        root: Where /proc, /sys and /etc stand.
    """
    mounts = storage.mounts_text(root)
    lasting_gpus, passing_gpus = split_gpus(gpus.get("gpus") or [])
    addresses = [gpu["pci_address"] for gpu in lasting_gpus if gpu.get("pci_address")]
    facts = {
        "cpu": cpu.observe(root),
        "memory_gib": memory.total_gib(root),
        "memory": memory.observe(root),
        "storage": [storage.observe(path, root, mounts) for path in paths],
        "gpus": lasting_gpus,
        "gpu_links": gpus.get("links") or [],
        "gpus_missing": gpus.get("missing") or [],
        "gpus_reason": gpus.get("reason") or "",
        "driver": gpus.get("driver") or {},
        "pci": {
            "acs": pci.acs(root, addresses),
            "iommu": pci.iommu(root) | {"gpu_modes": pci.gpu_modes(root, addresses)},
        },
        "os": system.observe(root),
        "clock": system.clock(root, system.ask_host),
        "swap": system.swap(root),
        "dns": dns(root, names),
    }
    now = {
        "memory_available_gib": memory.available_gib(root),
        "memory_errors": memory.errors(root),
        "storage": {path: {"free_gib": storage.free_gib(path), "read": None} for path in paths},
        "gpus": passing_gpus,
    }
    return facts, now


def dns(root: Path, names: Iterable[str]) -> Facts:
    """Return the host's name, its name servers, and which of the names it can resolve, its own included."""
    host = socket.gethostname()
    asked = sorted({host, *(name for name in names if not _is_address(name))})
    return {
        "host": host,
        "servers": system.name_servers(root),
        "resolved": dict(zip(asked, system.resolvable(asked, _NAME_SECONDS), strict=True)),
    }


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def split_gpus(gpus: list[Facts]) -> tuple[list[Facts], Facts]:
    """Return the GPUs without what varies, and what varies by their index (as text, for JSON)."""
    lasting, passing = copy.deepcopy(gpus), {}
    for gpu in lasting:
        seen = {key: gpu.pop(key) for key in _PASSING if key in gpu}
        link = gpu.get("pcie") or {}
        seen["pcie"] = {key: link.pop(key) for key in _PASSING_LINK if key in link}
        passing[str(gpu["index"])] = seen
    return lasting, passing


def measure(now: Facts, seconds: float, most_gib: float) -> None:
    """Measure how fast each storage path reads, and enter it; `seconds` for each."""
    for path, entry in now["storage"].items():
        entry["read"] = throughput.measure(Path(path), seconds, int(most_gib * GIB))
