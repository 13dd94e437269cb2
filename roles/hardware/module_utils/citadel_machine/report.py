"""What was found, as lines for a terminal and as JSON for programs."""

import json

from . import picture, storage
from .compare import ecc_shown
from .terms import Facts, Finding, counted


def summary(facts: Facts, now: Facts) -> list[str]:
    """Return what the machine is, in a few lines."""
    cpu, memory = facts["cpu"], facts["memory"]
    inside = "" if cpu["virtual"] == "none" else f", inside {cpu['virtual']}"
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_mib']} MiB)" for gpu in facts["gpus"])
    clock = {True: "synchronised", False: "not synchronised", None: "unknown"}[facts["clock"]["synchronised"]]
    pci, flags = facts["pci"], " ".join(cpu["flags"]) or "no flags that engines use"
    return [
        f"system   {facts['os']['name']}, kernel {facts['os']['kernel']}{inside}",
        f"CPU      {cpu['model']}: {counted(cpu['sockets'], 'socket')}, {counted(cpu['cores'], 'core')}, "
        f"{counted(cpu['threads'], 'thread')}, {counted(len(cpu['numa_nodes']), 'NUMA node')}; {flags}",
        f"memory   {facts['memory_gib']:g} GiB ({picture.modules_shown(memory)}; ECC {ecc_shown(memory)}), "
        f"{now['memory_available_gib']:g} GiB available",
        *(_storage_line(entry, now["storage"][entry["path"]]) for entry in facts["storage"]),
        f"GPUs     {gpus or 'none: ' + facts['gpus_reason']}",
        *(f"lost     GPU {gone['pci_address']} {gone['reason']}" for gone in facts["gpus_missing"]),
        f"PCIe     IOMMU {pci['iommu']['mode']}, ACS {pci['acs']['state']}",
        f"clock    {clock} ({facts['clock']['by']})",
        f"swap     {facts['swap']['size_gib']:g} GiB, vm.swappiness {facts['swap']['swappiness']}",
        f"names    by {', '.join(facts['dns']['servers']) or 'no server'}"
        f"{_unresolved(facts['dns']['resolved'])}",
    ]


def _storage_line(entry: Facts, now: Facts) -> str:
    options = f", {','.join(entry['options'])}" if entry["options"] else ""
    return (
        f"storage  {entry['path']}: {picture.size_shown(entry['size_gib'])}, {now['free_gib']:g} GiB free, "
        f"{storage.kind_of(entry)}, part of {entry['mount']} "
        f"({entry['device']}, {entry['file_system']}{options})"
        f"{reading_shown(now['read'])}"
    )


def reading_shown(read: Facts | None) -> str:
    """Return a measurement of reading, with a comma before; nothing where none was asked for."""
    if read is None:
        return ""
    if read["mib_s"] is None:
        return f", not measured ({read['how']})"
    load = ""
    if read["load_s"] is not None:
        load = f"; its largest folder ({read['largest_gib']:g} GiB) would take {read['load_s']:g} s"
    return f", reads {read['mib_s']} MiB/s ({read['how']}, {read['read_gib']:g} GiB read{load})"


def _unresolved(resolved: Facts) -> str:
    missing = [name for name, known in resolved.items() if not known]
    return f"; not resolved: {', '.join(missing)}" if missing else ""


def table(findings: list[Finding]) -> list[str]:
    """Return the findings as aligned lines, those not met with their remedy."""
    width = max((len(finding.requirement) for finding in findings), default=0)
    return [_line(finding, width) for finding in findings]


def _line(finding: Finding, width: int) -> str:
    verdict = "ok  " if finding.met else "FAIL"
    now = f" ({finding.now})" if finding.now else ""
    line = f"{verdict}  {finding.requirement:<{width}}  wanted {finding.wanted}, found {finding.found}{now}"
    return line if finding.met else f"{line}; {finding.remedy}"


def lasting(finding: Finding) -> Facts:
    """Return what the host's report keeps of a finding: nothing that varies, a remedy where one is due."""
    kept = finding._asdict()
    del kept["now"]
    return kept | {"remedy": "" if finding.met else finding.remedy}


def host_json(facts: Facts, findings: list[Finding]) -> str:
    """Return the host's report, which is the same as long as the machine is."""
    return _dump({"facts": facts, "findings": [lasting(finding) for finding in findings]})


def controller_json(host: str, time: str, facts: Facts, findings: list[Finding], now: Facts) -> str:
    """Return the controller's report: also what was so at that moment."""
    entries = [lasting(finding) | {"now": finding.now} for finding in findings]
    return _dump({"host": host, "time": time, "facts": facts, "findings": entries, "now": now})


def _dump(content: Facts) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
