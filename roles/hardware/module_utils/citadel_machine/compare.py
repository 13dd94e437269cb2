"""Requirements in, findings out; what the machine is comes from the neighbours."""

import re
from collections.abc import Iterator

from . import storage as storages
from .terms import Facts, Finding

# Firmware and kernel keep a part of what is plugged in; 256 GiB show as some 251.
_MEMORY_TOLERANCE = 0.05
_ECC_SHOWN = {
    "on": "on: the kernel watches it ({controllers})",
    "claimed": "claimed by the firmware ({correction}), not seen by the kernel (no EDAC controller)",
    "off": "off",
    "unknown": "unknown",
}


def compare(profile: Facts, facts: Facts, now: Facts) -> list[Finding]:
    """Return a finding for each requirement of the profile, GPUs and services apart.

    `facts` is what lasts, `now` what varies: both as `observe.py` gives them.
    """
    return [
        *_cpu(profile.get("cpu") or {}, facts["cpu"]),
        *_memory(profile, facts),
        *_storage(profile.get("storage") or [], facts["storage"], now["storage"]),
        *_peer_to_peer(profile.get("gpus") or {}, facts["pci"]),
        *_os(profile.get("os") or {}, facts["os"]),
        *_clock(profile.get("clock") or {}, facts["clock"]),
        *_swap(profile.get("swap") or {}, facts["swap"]),
        *_names(profile.get("network") or {}, facts["dns"]),
    ]


def _cpu(wanted: Facts, found: Facts) -> Iterator[Finding]:
    if wanted.get("model"):
        met = re.search(wanted["model"], found["model"], re.IGNORECASE) is not None
        remedy = "this is another machine than the profile's: correct hardware_profile.cpu.model"
        yield Finding("CPU model", found["model"], wanted["model"], met, remedy, "cpu")
    for key, name in (("sockets", "CPU sockets"), ("cores", "CPU cores")):
        if wanted.get(key):
            remedy = f"give the machine more {key}, or lower hardware_profile.cpu.{key}"
            met = found[key] >= int(wanted[key])
            yield Finding(name, str(found[key]), f">= {wanted[key]}", met, remedy, "cpu")
    if wanted.get("numa_nodes"):
        count, limit = len(found["numa_nodes"]), int(wanted["numa_nodes"])
        remedy = (
            "set the nodes per socket in the firmware (NPS, SNC), or correct hardware_profile.cpu.numa_nodes"
        )
        yield Finding("CPU NUMA nodes", str(count), str(limit), count == limit, remedy, "cpu")
    if wanted.get("flags"):
        missing = [flag for flag in wanted["flags"] if flag not in found["flags"]]
        shown = f"without {', '.join(missing)}" if missing else "all there"
        remedy = (
            "use a CPU that has them (in a virtual machine: pass the host's CPU through), or drop them from "
            "hardware_profile.cpu.flags"
        )
        yield Finding("CPU flags", shown, ", ".join(wanted["flags"]), not missing, remedy, "cpu")
    if wanted.get("physical"):
        met = found["virtual"] == "none"
        shown = "a physical machine" if met else f"inside {found['virtual']}"
        remedy = "use a physical machine, or drop hardware_profile.cpu.physical"
        yield Finding("CPU without virtualisation", shown, "a physical machine", met, remedy, "cpu")


def _memory(profile: Facts, facts: Facts) -> Iterator[Finding]:
    wanted, found, size = profile.get("memory") or {}, facts["memory"], facts["memory_gib"]
    if profile.get("memory_gib"):
        least = float(profile["memory_gib"])
        met = size * (1 + _MEMORY_TOLERANCE) >= least
        remedy = (
            "look whether each module is seen (dmidecode -t memory), or lower hardware_profile.memory_gib"
        )
        yield Finding("memory", f"{size:g} GiB", f">= {least:g} GiB", met, remedy, "memory")
    modules, why = found["modules"], found["firmware"] or "the firmware does not tell"
    if wanted.get("type"):
        types = sorted({module["type"] for module in modules})
        met = bool(types) and all(kind.lower() == wanted["type"].lower() for kind in types)
        shown = ", ".join(types) or f"unknown ({why})"
        remedy = "use such modules, or correct hardware_profile.memory.type"
        yield Finding("memory type", shown, wanted["type"], met, remedy, "memory")
    if wanted.get("speed"):
        speeds = [module["configured_speed"] or 0 for module in modules]
        slowest = min(speeds, default=0)
        shown = f"{slowest} MT/s" if slowest else f"unknown ({why})"
        remedy = (
            "look at the firmware's memory speed (more modules on a channel lower it), or lower "
            "hardware_profile.memory.speed"
        )
        least = int(wanted["speed"])
        yield Finding("memory speed", shown, f">= {least} MT/s", slowest >= least, remedy, "memory")
    if wanted.get("modules"):
        shown = f"{len(modules)} of {found['slots']} slots" if found["slots"] else f"unknown ({why})"
        remedy = "look for modules that are not seen, or lower hardware_profile.memory.modules"
        met = len(modules) >= int(wanted["modules"])
        yield Finding("memory modules", shown, f">= {wanted['modules']}", met, remedy, "memory")
    if wanted.get("ecc"):
        yield Finding(
            "memory ECC",
            ecc_shown(found),
            "on, and seen by the kernel",
            found["ecc"] == "on",
            "switch ECC on in the firmware and load the EDAC driver (amd64_edac, skx_edac, ...), "
            "or drop hardware_profile.memory.ecc",
            "memory",
        )


def ecc_shown(memory: Facts) -> str:
    """Return for people whether errors are corrected."""
    return _ECC_SHOWN[memory["ecc"]].format(
        controllers=", ".join(sorted(set(memory["controllers"]))),
        correction=memory["correction"],
    )


def _storage(wanted: list[Facts], found: list[Facts], now: Facts) -> Iterator[Finding]:
    by_path = {storage["path"]: storage for storage in found}
    for requirement in wanted:
        path = requirement["path"]
        for name, shown, limit, met, remedy in _one_storage(requirement, by_path[path], now[path]):
            passing = ""
            if name == "storage":
                passing = f"{now[path]['free_gib']:g} GiB free"
            yield Finding(f"{name} {path}", shown, limit, met, remedy, f"storage:{path}", passing)


def _one_storage(wanted: Facts, found: Facts, now: Facts) -> Iterator[tuple[str, str, str, bool, str]]:
    """Yield what is asked of one path as name, found, wanted, met, remedy."""
    path, point = wanted["path"], found["mount"]
    entry = f"the entry {path} of hardware_profile.storage"
    if wanted.get("size_gib"):
        least = float(wanted["size_gib"])
        remedy = f"mount the storage at {path} (it is part of {point}), or lower size_gib in {entry}"
        shown = f"{found['size_gib']:g} GiB on {found['device']}"
        yield "storage", shown, f">= {least:g} GiB", found["size_gib"] >= least, remedy
    if wanted.get("free_gib"):
        least, met = float(wanted["free_gib"]), now["free_gib"] >= float(wanted["free_gib"])
        remedy = f"make room on {point}, or lower free_gib in {entry}"
        # What is free varies, and the report must not; whether it is enough is what lasts.
        yield "storage free at", "enough" if met else "less", f">= {least:g} GiB free", met, remedy
    if wanted.get("mounted"):
        remedy = f"mount the storage and enter it in /etc/fstab, or drop mounted from {entry}"
        shown = f"part of {point} ({found['file_system']})"
        yield "storage mount", shown, "a file system of its own", point != "/", remedy
    if wanted.get("kind"):
        kind = storages.kind_of(found)
        under = ", ".join(f"{disk['name']} ({disk['transport']})" for disk in found["disks"])
        remedy = f"mount storage of that kind at {path}, or correct kind in {entry}"
        yield (
            "storage kind",
            f"{kind}: {under or found['device']}",
            wanted["kind"],
            kind == wanted["kind"],
            remedy,
        )
    if wanted.get("file_systems"):
        remedy = f"make another file system there, or correct file_systems in {entry}"
        met = found["file_system"] in wanted["file_systems"]
        yield "storage file system", found["file_system"], " or ".join(wanted["file_systems"]), met, remedy
    if wanted.get("options"):
        missing = [option for option in wanted["options"] if option not in found["options"]]
        shown = f"without {', '.join(missing)}" if missing else "all in force"
        remedy = f"add them in /etc/fstab and remount {point}, or drop them from {entry}"
        yield "storage options", shown, ", ".join(wanted["options"]), not missing, remedy
    if wanted.get("read_mib_s"):
        yield _reading(wanted, now)


def _reading(wanted: Facts, now: Facts) -> tuple[str, str, str, bool, str]:
    least, measured = float(wanted["read_mib_s"]), now["read"] or {}
    entry = f"the entry {wanted['path']} of hardware_profile.storage"
    speed = measured.get("mib_s")
    if speed is None:
        shown = f"not measured: {measured.get('how') or 'hardware_read_seconds is 0'}"
        remedy = f"put a model there, or a large file, and measure again; or drop read_mib_s from {entry}"
        return "storage reading", shown, f">= {least:g} MiB/s", False, remedy
    remedy = f"look at the disk's health and PCIe width, or lower read_mib_s in {entry}"
    met = speed >= least
    return "storage reading", "enough" if met else "less", f">= {least:g} MiB/s", met, remedy


def _peer_to_peer(wanted: Facts, pci: Facts) -> Iterator[Finding]:
    """GPUs that shall copy to each other directly: what bridges and IOMMU do to that."""
    if not wanted.get("peer_to_peer"):
        return
    acs, iommu = pci["acs"], pci["iommu"]
    shown = {
        "redirects": f"redirects at {', '.join(acs['bridges'])}",
        "direct": "does not redirect",
        "none": "no bridge above a GPU",
        "unknown": f"unknown: {acs['reason']}",
    }[acs["state"]]
    remedy = "switch ACS off in the firmware or on these bridges, or drop hardware_profile.gpus.peer_to_peer"
    met = acs["state"] in ("direct", "none")
    yield Finding("GPU path: ACS", shown, "no redirect between GPUs", met, remedy, "gpus")
    translating = [mode for mode in iommu["gpu_modes"] if mode.startswith("DMA")]
    shown = f"translates ({', '.join(translating)})" if translating else "off or passing through"
    remedy = "boot with iommu=pt, switch the IOMMU off, or drop hardware_profile.gpus.peer_to_peer"
    yield Finding("GPU path: IOMMU", shown, "off or passing through", not translating, remedy, "gpus")


def _os(wanted: Facts, found: Facts) -> Iterator[Finding]:
    distribution, version = str(wanted.get("distribution") or ""), str(wanted.get("version") or "")
    if distribution or version:
        met = found["distribution"] == distribution.lower() or not distribution
        met = met and (found["version"] == version or not version)
        remedy = "install that system, or correct hardware_profile.os"
        limit = f"{distribution} {version}".strip()
        yield Finding("operating system", found["name"], limit, met, remedy, "system")
    if wanted.get("kernel"):
        met = _numbers(found["kernel"]) >= _numbers(str(wanted["kernel"]))
        remedy = "install a newer kernel (on Ubuntu: linux-generic-hwe), or lower hardware_profile.os.kernel"
        yield Finding(
            "operating system: kernel", found["kernel"], f">= {wanted['kernel']}", met, remedy, "system"
        )


def _numbers(version: str) -> list[int]:
    leading = re.match(r"\d+(\.\d+)*", version)
    return [int(part) for part in leading[0].split(".")] if leading else []


def _clock(wanted: Facts, found: Facts) -> Iterator[Finding]:
    if wanted.get("synchronised"):
        state = {True: "synchronised", False: "not synchronised", None: "unknown"}[found["synchronised"]]
        remedy = (
            "switch time synchronisation on (systemd-timesyncd or chrony) and let it reach its servers, "
            "or drop hardware_profile.clock.synchronised"
        )
        met = found["synchronised"] is True
        yield Finding(
            "clock",
            f"{state} by {found['by']}" if met else f"{state} ({found['by']})",
            "synchronised",
            met,
            remedy,
            "system",
        )


def _swap(wanted: Facts, found: Facts) -> Iterator[Finding]:
    if wanted.get("most_gib") is not None:
        most = float(wanted["most_gib"])
        remedy = "swapoff and take it out of /etc/fstab, or raise hardware_profile.swap.most_gib"
        met = found["size_gib"] <= most
        yield Finding("swap", f"{found['size_gib']:g} GiB", f"<= {most:g} GiB", met, remedy, "memory")
    if wanted.get("swappiness") is not None and found["size_gib"]:
        limit, value = int(wanted["swappiness"]), found["swappiness"]
        remedy = "set vm.swappiness, or raise hardware_profile.swap.swappiness"
        met = value is not None and value <= limit
        yield Finding("swap: vm.swappiness", str(value), f"<= {limit}", met, remedy, "memory")


def _names(wanted: Facts, found: Facts) -> Iterator[Finding]:
    names = list(wanted.get("names") or [])
    if wanted.get("own_name"):
        names.insert(0, found["host"])
    for name in names:
        met = found["resolved"].get(name, False)
        servers = ", ".join(found["servers"]) or "no name server"
        remedy = f"correct /etc/hosts or the name servers ({servers}), or hardware_profile.network"
        yield Finding(
            f"name {name}", "resolves" if met else "does not resolve", "resolves", met, remedy, "network"
        )
