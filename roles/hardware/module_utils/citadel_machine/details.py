"""The facts below the picture, as pairs of a name and a value in sections."""

from . import picture, storage
from .compare import ecc_shown
from .gpu_picture import peer_shown
from .report import reading_shown
from .terms import Facts, counted

Rows = list[tuple[str, str]]


def sections(facts: Facts, now: Facts | None) -> list[tuple[str, Rows]]:
    """Return the sections in their order; those of `now` only where it is given."""
    return [
        ("Processors and memory", _processors(facts)),
        ("Storage", [_storage(entry) for entry in facts["storage"]]),
        ("GPUs", _gpus(facts)),
        ("System and network", _system(facts)),
        ("At this moment", _now(now) if now else []),
    ]


def _processors(facts: Facts) -> Rows:
    cpu, memory = facts["cpu"], facts["memory"]
    rows = [
        (
            "processor",
            f"{cpu['model']}: {counted(cpu['sockets'], 'socket')}, {counted(cpu['cores'], 'core')}, "
            f"{counted(cpu['threads'], 'thread')}",
        ),
        ("for engines", ", ".join(cpu["flags"]) or "none of the instructions that engines look for"),
        ("virtualised", "no" if cpu["virtual"] == "none" else f"yes, inside {cpu['virtual']}"),
        *(
            (f"NUMA node {node['index']}", f"{node['memory_gib']:g} GiB, CPUs {node['cpus'] or 'none'}")
            for node in cpu["numa_nodes"]
        ),
        ("memory", f"{facts['memory_gib']:g} GiB as the kernel counts"),
        ("ECC", ecc_shown(memory)),
    ]
    modules: dict[str, list[str]] = {}
    for module in memory["modules"]:
        kind = picture.modules_shown({"modules": [module]}).removeprefix("1 x ")
        made = f"{kind} {module['manufacturer']} {module['part']}".strip()
        modules.setdefault(made, []).append(module["slot"])
    rows += [(f"modules ({len(slots)})", f"{kind}: {', '.join(slots)}") for kind, slots in modules.items()]
    if memory["slots"]:
        rows.append(("slots", f"{len(memory['modules'])} of {memory['slots']} populated"))
    return rows


def _storage(entry: Facts) -> tuple[str, str]:
    disks = "; ".join(
        f"{disk['name']} {disk['model']} {picture.size_shown(disk['size_gib'])} {disk['transport']}"
        for disk in entry["disks"]
    )
    options = f" ({', '.join(entry['options'])})" if entry["options"] else ""
    return (
        entry["path"],
        f"{picture.size_shown(entry['size_gib'])} {entry['file_system']}{options} from {entry['device']}, "
        f"part of {entry['mount']}; {storage.kind_of(entry)}{': ' + disks if disks else ''}",
    )


def _gpus(facts: Facts) -> Rows:
    driver = facts["driver"]
    rows = [] if facts["gpus"] else [("none", facts["gpus_reason"])]
    if driver.get("version"):
        kind = "open" if driver.get("open") else "closed"
        cuda = f", up to CUDA {driver['cuda']}" if driver.get("cuda") else ""
        rows.append(("driver", f"{driver['version']}, {kind} kernel module{cuda}"))
    rows += [(f"GPU {gpu['index']}", _gpu(gpu)) for gpu in facts["gpus"]]
    rows += [(gone["pci_address"], f"lost: {gone['reason']}") for gone in facts.get("gpus_missing") or []]
    joined: dict[str, list[str]] = {}
    for link in facts["gpu_links"]:
        how = f"{link['label']}, {peer_shown(link['peer_to_peer'])}"
        joined.setdefault(how, []).append("-".join(str(index) for index in link["gpus"]))
    for how, pairs in joined.items():
        rows.append((f"{counted(len(pairs), 'pair')} of GPUs", f"{how}: {', '.join(pairs)}"))
    return rows


def _gpu(gpu: Facts) -> str:
    link = gpu.get("pcie") or {}
    power = gpu.get("power_limit_w")
    parts = [
        gpu["name"],
        f"{gpu['memory_mib']} MiB",
        f"compute capability {gpu['compute_capability']}",
        f"PCIe {link['generation_max']} x{link['width_max']} possible" if link.get("generation_max") else "",
        f"ECC {gpu['ecc']}" if gpu.get("ecc") else "",
        f"MIG {gpu['mig']}" if gpu.get("mig") else "",
        f"NVSwitch fabric {gpu['fabric']}" if gpu.get("fabric") else "",
        f"{power:g} W" if power else "",
        f"at {gpu['pci_address']}" if gpu.get("pci_address") else "",
        gpu["uuid"],
    ]
    return ", ".join(part for part in parts if part)


def _system(facts: Facts) -> Rows:
    clock, dns, pci, swap = facts["clock"], facts["dns"], facts["pci"], facts["swap"]
    state = {True: "synchronised", False: "not synchronised", None: "unknown"}[clock["synchronised"]]
    groups = pci["iommu"]["groups"]
    told = " ".join(pci["iommu"]["kernel_arguments"])
    acs = {
        "redirects": f"redirects peer-to-peer at {', '.join(pci['acs']['bridges'])}",
        "direct": "no bridge above a GPU redirects",
        "none": "no bridge above a GPU",
        "unknown": f"unknown: {pci['acs']['reason']}",
    }[pci["acs"]["state"]]
    return [
        ("system", f"{facts['os']['name']}, kernel {facts['os']['kernel']}"),
        ("clock", f"{state} ({clock['by']})"),
        ("swap", f"{swap['size_gib']:g} GiB, vm.swappiness {swap['swappiness']}"),
        ("name servers", ", ".join(dns["servers"]) or "none"),
        *(
            (f"name {name}", "resolves" if known else "does not resolve")
            for name, known in dns["resolved"].items()
        ),
        ("IOMMU", f"{pci['iommu']['mode']}, {groups} groups{'; ' + told if told else ''}"),
        ("ACS", acs),
    ]


def _now(now: Facts) -> Rows:
    errors = now["memory_errors"]
    rows = [
        ("memory available", f"{now['memory_available_gib']:g} GiB"),
        (
            "memory errors",
            f"{errors['corrected']} corrected, {errors['uncorrected']} not, since it booted",
        ),
    ]
    for path, entry in now["storage"].items():
        rows.append((path, f"{entry['free_gib']:g} GiB free{reading_shown(entry['read'])}"))
    for index, gpu in now["gpus"].items():
        link = gpu.get("pcie") or {}
        celsius = gpu.get("temperature_c")
        processes = ", ".join(
            f"{one['name']} ({one['pid']}) {one['memory_mib']} MiB" for one in gpu.get("processes") or []
        )
        parts = [
            f"{gpu['memory_used_mib']} MiB used" if gpu.get("memory_used_mib") is not None else "",
            f"{celsius} \u00b0C" if celsius is not None else "",
            f"PCIe {link['generation']} x{link['width']}" if link.get("generation") else "",
            processes,
        ]
        rows.append((f"GPU {index}", "; ".join(part for part in parts if part)))
    return rows
