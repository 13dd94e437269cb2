"""The processors: model, sockets, cores, threads, NUMA nodes, the instructions that engines profit from."""

import re
from pathlib import Path

from .terms import GIB, KIB, Facts, numbered, pairs, read, read_number

# What vLLM's CPU build and PyTorch choose their kernels by, under the kernel's names.
ENGINE_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)


def observe(root: Path) -> Facts:
    """Return the processors of the machine whose /proc and /sys stand under `root`."""
    cpu = parse_cpuinfo(read(root / "proc/cpuinfo"))
    inside = virtual(root, cpu.pop("hypervisor"))
    return {**cpu, "virtual": inside, "numa_nodes": numa_nodes(root)}


def parse_cpuinfo(cpuinfo: str) -> Facts:
    """Return model, sockets, cores, threads, flags, and whether a hypervisor is below, from /proc/cpuinfo."""
    processors = [dict(pairs(block)) for block in cpuinfo.strip().split("\n\n")]
    processors = [processor for processor in processors if "processor" in processor]
    places = {(p["physical id"], p["core id"]) for p in processors if {"physical id", "core id"} <= p.keys()}
    first = processors[0] if processors else {}
    flags = set((first.get("flags") or first.get("Features") or "").split())
    return {
        "model": first.get("model name", "unknown"),
        "sockets": len({socket for socket, _ in places}) or 1,
        # Without a topology (some virtual machines) each thread counts as a core.
        "cores": len(places) or len(processors),
        "threads": len(processors),
        "flags": [flag for flag in ENGINE_FLAGS if flag in flags],
        "hypervisor": "hypervisor" in flags,
    }


def virtual(root: Path, hypervisor: bool) -> str:
    """Return what the machine is inside of: `none`, a container's kind, or the hypervisor's name."""
    container = read(root / "run/systemd/container")
    if container:
        return container
    if not hypervisor:
        return "none"
    kind = read(root / "sys/hypervisor/type") or read(root / "sys/class/dmi/id/sys_vendor")
    return kind or "a virtual machine"


def numa_nodes(root: Path) -> list[Facts]:
    """Return each NUMA node: index, socket, CPUs as the kernel lists them (`0-23,48-71`), memory in GiB."""
    nodes = []
    for index, folder in numbered(root / "sys/devices/system/node", "node"):
        meminfo = {key.split()[-1]: value for key, value in pairs(read(folder / "meminfo"))}
        kibibytes = int(meminfo.get("MemTotal", "0 kB").split()[0])
        nodes.append(
            {
                "index": index,
                "socket": _socket_of(root, read(folder / "cpulist")),
                "cpus": read(folder / "cpulist"),
                "memory_gib": round(kibibytes * KIB / GIB, 1),
            }
        )
    return nodes


def _socket_of(root: Path, cpus: str) -> int:
    """Return the socket of a node's first CPU; 0 where there is no topology, or no CPU (memory alone)."""
    first = re.match(r"\d+", cpus)
    topology = root / f"sys/devices/system/cpu/cpu{first[0]}/topology" if first else None
    return max(0, read_number(topology / "physical_package_id") or 0) if topology else 0
