#!/usr/bin/python
"""Tell which NVIDIA GPUs a host has and how they are joined, or why none can be used."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_gpu_facts
short_description: Tell which NVIDIA GPUs a host has and how they are joined, or why none can be used
description:
  - Asks C(nvidia-smi), which comes with the driver, and reads the kernel's own files. Nothing has to be
    installed on the host.
  - Without a working driver it succeeds, with no GPUs, the reason and the remedy.
author: Citadel
options:
  timeout:
    description: >-
      How long C(nvidia-smi) may take for one answer, in seconds. Without persistence mode it wakes every GPU
      first; a GPU that has fallen off the bus can keep it forever.
    type: float
    default: 60
attributes:
  check_mode:
    description: Only ever reads.
    support: full
"""

EXAMPLES = r"""
- name: Look for GPUs
  citadel_gpu_facts:
  register: __example_gpus
"""

RETURN = r"""
gpus:
  description: >-
    One entry for each GPU, in the driver's order. What the driver does not tell is null, an empty text or
    C(unsupported). C(fabric) is C(completed) where the fabric manager has joined the GPU to its NVSwitches,
    the driver's words for what else is so, and empty where there are none. PCIe generation and width, memory
    used, temperature and processes vary from call to call.
  type: list
  elements: dict
  returned: always
  sample:
    - index: 0
      uuid: GPU-0c1b2d3e-4f5a-6b7c-8d9e-0f1a2b3c4d5e
      name: NVIDIA GeForce RTX 5060 Ti
      memory_mib: 16311
      memory_used_mib: 12
      compute_capability: "12.0"
      pci_address: "0000:01:00.0"
      numa_node: 0
      pcie: {generation: 1, generation_max: 5, width: 8, width_max: 8}
      ecc: unsupported
      power_limit_w: 180.0
      persistence: true
      temperature_c: 34
      mig: unsupported
      fabric: ""
      processes: [{pid: 4711, name: VLLM::EngineCore, memory_mib: 14000, unit: citadel-engine@phi.service}]
links:
  description: >-
    How each pair of GPUs is joined. C(kind) is C(nvlink), C(switch) (the same PCIe switches), C(bridge) (one
    host bridge), C(socket) (one NUMA node) or C(sockets); C(label) is the driver's own word, and
    C(peer_to_peer) is C(ok) or the driver's word for why not.
  type: list
  elements: dict
  returned: always
  sample: [{gpus: [0, 1], kind: bridge, label: PHB, peer_to_peer: GNS}]
missing:
  description: GPUs on the PCI bus, or in the driver's list, that do not answer; each with the reason.
  type: list
  elements: dict
  returned: always
  sample: [{pci_address: "0000:02:00.0", reason: "has fallen off the bus"}]
pci:
  description: >-
    NVIDIA's GPUs on the PCI bus, with the kernel C(driver) that holds each (empty for none), and whether it
    is C(gone), which is to say that it answers the bus no longer.
  type: list
  elements: dict
  returned: always
driver:
  description: The driver's C(version), whether its kernel module is C(open), the newest C(cuda) it runs.
  type: dict
  returned: always
secure_boot:
  description: Whether the firmware lets the kernel load signed modules only.
  type: bool
  returned: always
reason:
  description: Why there are no GPUs to use; empty when there are.
  type: str
  returned: always
remedy:
  description: What to do about it.
  type: str
  returned: always
unread:
  description: What could not be asked beside the GPUs themselves.
  type: list
  elements: str
  returned: always
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from ansible.module_utils.basic import AnsibleModule

Facts = dict[str, Any]

# Seconds that a process which was killed has to end.
_END = 1
_TABLE = ["--query-gpu=index,uuid,compute_cap", "--format=csv,noheader"]


class Answer(NamedTuple):
    """What nvidia-smi said, on both channels, and its exit status; None when it did not end in time."""

    status: int | None
    text: str


Ask = Callable[[list[str]], Answer]


# --- What nvidia-smi prints. Where there is no value it says N/A, [N/A], ERR!, GPU is lost and more. ---


def parse_log(text: str) -> ElementTree.Element:
    """Return the root of `nvidia-smi -q -x`, whatever complaints stand around it.

    Raises:
        ValueError: it is not that.
    """
    begin, end = text.find("<nvidia_smi_log"), text.rfind("</nvidia_smi_log>")
    if begin < 0:
        raise ValueError(f"it is not its XML: {_one_line(text)[:120]!r}")
    if end < begin:
        # Its beginning holds the time, and what is told here is kept.
        raise ValueError("its XML is broken: it ends in the middle")
    log = text[begin:end] + "</nvidia_smi_log>"
    # Names of processes are the only words of strangers in it, and may be no XML.
    nameless = re.sub(r"(<process_name>).*?(</process_name>)", r"\1\2", log, flags=re.DOTALL)
    for attempt in (log, nameless):
        try:
            # The driver's own tool wrote it; what declares entities stands before its beginning.
            return ElementTree.fromstring(attempt)  # noqa: S314
        except ElementTree.ParseError as error:
            broken = error
    raise ValueError(f"its XML is broken: {broken}")


def number(text: str | None) -> float | None:
    """Return a reading such as "16311 MiB" or "16x" without its unit; None for what is no reading."""
    found = re.match(r"-?\d+(\.\d+)?", (text or "").strip())
    return float(found[0]) if found else None


def whole(text: str | None) -> int | None:
    """Return a reading as a whole number."""
    value = number(text)
    return None if value is None else int(value)


def switch(text: str | None) -> str:
    """Return whether a mode is enabled, disabled or unsupported."""
    word = (text or "").strip().lower()
    return word if word in ("enabled", "disabled") else "unsupported"


def fabric_of(gpu: ElementTree.Element) -> str:
    """Return how far the fabric manager has joined a GPU to its NVSwitches; empty where there are none.

    nvidia-smi's manual, "Fabric": the state is Completed, In Progress, Not Started or Not Supported, and the
    status of what is completed Success, or a failure.
    """
    state, status = (gpu.findtext(f"fabric/{key}", "").strip() for key in ("state", "status"))
    if state.lower() in ("", "n/a", "[n/a]", "not supported"):
        return ""
    if state.lower() != "completed":
        return state
    return "completed" if status.lower() in ("success", "nvml_success") else f"{state} with {status}"


def address_of(gpu: ElementTree.Element) -> str:
    """Return a GPU's PCI address, such as "00000000:61:00.0" in the XML, as the kernel writes it."""
    return re.sub(r"^0000(?=[0-9a-f]{4}:)", "", str(gpu.get("id", "")).strip().lower())


def parse_gpu(gpu: ElementTree.Element) -> Facts:
    """Return what one GPU's part of the XML tells.

    Raises:
        ValueError: the GPU does not answer; with the driver's word for it.
    """
    memory, uuid = gpu.findtext("fb_memory_usage/total"), gpu.findtext("uuid", "").strip()
    if whole(memory) is None or not uuid.startswith("GPU-"):
        raise ValueError(f"answers {(memory or uuid or 'nothing').strip()!r} where its memory should stand")
    pcie = "pci/pci_gpu_link_info"
    # The names of older branches come after those of newer ones.
    limits = (
        "gpu_power_readings/current_power_limit",
        "power_readings/current_power_limit",
        "power_readings/enforced_power_limit",
        "power_readings/power_limit",
    )
    return {
        "uuid": uuid,
        "name": gpu.findtext("product_name", "").strip(),
        "memory_mib": whole(memory),
        "memory_used_mib": whole(gpu.findtext("fb_memory_usage/used")),
        "pci_address": address_of(gpu),
        "pcie": {
            "generation": whole(gpu.findtext(f"{pcie}/pcie_gen/current_link_gen")),
            "generation_max": whole(gpu.findtext(f"{pcie}/pcie_gen/max_link_gen")),
            "width": whole(gpu.findtext(f"{pcie}/link_widths/current_link_width")),
            "width_max": whole(gpu.findtext(f"{pcie}/link_widths/max_link_width")),
        },
        "ecc": switch(gpu.findtext("ecc_mode/current_ecc")),
        "power_limit_w": next((w for path in limits if (w := number(gpu.findtext(path))) is not None), None),
        "persistence": switch(gpu.findtext("persistence_mode")) == "enabled",
        "temperature_c": whole(gpu.findtext("temperature/gpu_temp")),
        "mig": switch(gpu.findtext("mig_mode/current_mig")),
        "fabric": fabric_of(gpu),
        "processes": [
            {
                "pid": whole(process.findtext("pid")),
                "name": process.findtext("process_name", "").strip(),
                "memory_mib": whole(process.findtext("used_memory")),
            }
            for process in gpu.findall("processes/process_info")
        ],
    }


def parse_table(text: str) -> dict[str, tuple[int, str]]:
    """Return index and compute capability by UUID, of what the XML does not hold."""
    rows = re.findall(r"^(\d+), *(GPU-[^,\s]+), *(.*?)\s*$", text, re.MULTILINE)
    return {uuid: (int(index), capability if number(capability) else "") for index, uuid, capability in rows}


def parse_matrix(text: str) -> dict[tuple[int, int], str]:
    """Return the words between GPUs in what `nvidia-smi topo` prints, by both indices.

    Columns and rows of network cards, affinities and the legend are left out.
    """
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).split() for line in text.splitlines()]
    lines = [line for line in lines if line and re.fullmatch(r"GPU\d+", line[0])]
    if not lines:
        return {}
    columns = [int(word[3:]) for word in lines[0] if re.fullmatch(r"GPU\d+", word)]
    return {
        (int(line[0][3:]), column): word
        for line in lines[1:]
        for column, word in zip(columns, line[1:], strict=False)
    }


def kind_of(label: str) -> str:
    """Return what a word of the matrix means; for one that is not known, the slowest."""
    kinds = {"PIX": "switch", "PXB": "switch", "PHB": "bridge", "NODE": "socket"}
    return "nvlink" if re.fullmatch(r"NV\d+", label) else kinds.get(label, "sockets")


def links_of(
    indices: list[int], topology: dict[tuple[int, int], str], peers: dict[tuple[int, int], str]
) -> list[Facts]:
    """Return how each pair of GPUs is joined, as far as the matrices tell."""
    links = []
    for first, second in ((i, j) for i in indices for j in indices if i < j and (i, j) in topology):
        words = [peers.get(pair, "unknown") for pair in ((first, second), (second, first))]
        refused = [word for word in words if word != "OK"]
        label = topology[first, second]
        links.append(
            {
                "gpus": [first, second],
                "kind": kind_of(label),
                "label": label,
                "peer_to_peer": refused[0] if refused else "ok",
            }
        )
    return links


# --- What the kernel tells ---


def pci_gpus(sys: Path) -> list[Facts]:
    """Return NVIDIA's display controllers on the PCI bus, with the kernel driver of each."""
    gpus = []
    for device in sorted((sys / "bus/pci/devices").glob("*")):
        if _read(device / "vendor") == "0x10de" and _read(device / "class").startswith("0x03"):
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
    node = whole(_read(sys / "bus/pci/devices" / address / "numa_node"))
    return None if node is None or node < 0 else node


def unit_of(pid: int | None, proc: Path) -> str:
    """Return the systemd service that a process belongs to, or an empty text."""
    services = re.findall(r"/([^/\n]+\.service)", _read(proc / str(pid) / "cgroup"))
    return services[-1] if services else ""


def kernel_module(text: str) -> Facts:
    """Return version and kind of the loaded kernel module from /proc/driver/nvidia/version; else nothing."""
    version = re.search(r"NVRM version:.*?\s(\d{3}\.\d+(?:\.\d+)?)\s", text)
    return {"version": version[1], "open": "Open Kernel Module" in text, "cuda": ""} if version else {}


def secure_boot(sys: Path) -> bool:
    """Return whether the firmware's variable says so: four bytes of attributes, then its value."""
    variables = (sys / "firmware/efi/efivars").glob("SecureBoot-*")
    return any(_bytes(variable)[4:5] == b"\x01" for variable in variables)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- Why there is none: reason and remedy ---

_LOST = ("Unable to determine the device handle", "GPU is lost", "GPU requires reset")
_REASONS = (
    (
        ("Driver/library version mismatch",),
        "the driver's library and its loaded kernel module are of different versions",
        "restart the host: the driver was updated while its old kernel module is in use",
    ),
    (
        ("couldn't find libnvidia-ml", "could not find libnvidia-ml"),
        "the driver's library libnvidia-ml.so is not there",
        "install the driver's packages again: they are incomplete",
    ),
    (
        ("Insufficient Permissions",),
        "nvidia-smi may not use the GPUs",
        "run the playbook as root, and look at the modes of /dev/nvidia*",
    ),
    (
        _LOST,
        "a GPU has fallen off the bus, and the driver lists none",
        "read journalctl -k -g 'NVRM|Xid', switch the host off and on, and look at the card's power and seat",
    ),
    (
        ("No devices were found",),
        "the driver is loaded and takes none of the GPUs",
        "journalctl -k -g NVRM tells why: from Blackwell on GPUs want the open kernel module, before Turing "
        "the closed one",
    ),
)
_NOT_LOADED = ("couldn't communicate with the NVIDIA driver", "Driver Not Loaded")


def why_unclaimed(pci: list[Facts], with_tool: bool) -> tuple[str, str]:
    """Return why no NVIDIA driver holds a GPU."""
    named = ", ".join(gpu["pci_address"] for gpu in pci)
    holders = {gpu["driver"] for gpu in pci}
    if not pci:
        return "there is no NVIDIA GPU on the PCI bus", "look for the cards with lspci -d 10de:"
    if "nouveau" in holders:
        return (
            f"nouveau drives the GPUs ({named})",
            "let the role nvidia_driver keep it away, then restart the host",
        )
    if holders == {"vfio-pci"}:
        return f"the GPUs ({named}) are handed to virtual machines (vfio-pci)", "release them on this host"
    if with_tool:
        return (
            f"the driver's kernel module is not loaded, with GPUs there ({named})",
            "modprobe nvidia tells why: not built for this kernel (dkms status), or not signed for Secure "
            "Boot (mokutil --sb-state)",
        )
    return f"no NVIDIA driver is installed, with GPUs there ({named})", "install it (role nvidia_driver)"


def why_none(answer: Answer, pci: list[Facts], module: Facts) -> tuple[str, str]:
    """Return why nvidia-smi showed no GPU."""
    if answer.status is None:
        return (
            "nvidia-smi did not answer in time: a GPU may have fallen off the bus",
            "read journalctl -k -g 'NVRM|Xid', and switch the host off and on",
        )
    if any(word in answer.text for word in _NOT_LOADED) and not module:
        return why_unclaimed(pci, with_tool=True)
    # Complaints stand before the XML; the XML without a GPU says as much as the complaint for it.
    said = _one_line(answer.text.partition("<?xml")[0])[:300]
    said = said or ("No devices were found" if answer.status == 0 else "nothing")
    for words, reason, remedy in _REASONS:
        if any(word in answer.text or word in said for word in words):
            return f"{reason} ({said})", remedy
    return f"nvidia-smi failed ({answer.status}) and said: {said}", "run nvidia-smi on the host"


def why_missing(gpu: Facts) -> str:
    """Return why a GPU on the bus is none of those that the driver shows."""
    if gpu["gone"]:
        return "has fallen off the bus"
    words = {
        "": "has no kernel driver",
        "nvidia": "does not answer the driver",
        "nouveau": "is driven by nouveau",
        "vfio-pci": "is handed to a virtual machine (vfio-pci)",
    }
    return words.get(gpu["driver"], f"is driven by {gpu['driver']}")


# --- Observe ---


def observe(ask: Ask | None, sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> Facts:
    """Return all facts; `ask` is nvidia-smi, None where there is none."""
    pci, module = pci_gpus(sys), kernel_module(_read(proc / "driver/nvidia/version"))
    facts: Facts = {"gpus": [], "links": [], "missing": [], "unread": []}
    facts |= {"pci": pci, "driver": module, "secure_boot": secure_boot(sys)}
    if ask is None:
        reason, remedy = why_unclaimed(pci, with_tool=False)
        if module:
            reason = f"the kernel module {module['version']} is loaded, and there is no nvidia-smi"
            remedy = "install the driver's tools of the same version (nvidia-utils, nvidia-smi)"
        return facts | {"reason": reason, "remedy": remedy}
    answer = ask(["-q", "-x"])
    logs = [answer]
    if any(word in answer.text for word in _LOST) and "<nvidia_smi_log" not in answer.text:
        # One lost GPU can keep nvidia-smi from showing the others: ask for each alone.
        logs = ask_each(ask, [gpu["pci_address"] for gpu in pci])
    try:
        roots = [parse_log(log.text) for log in logs if log.status == 0 or "<nvidia_smi_log" in log.text]
    except ValueError as error:
        said = f"nvidia-smi answered, but {error}"
        return facts | {"reason": said, "remedy": "run nvidia-smi -q -x on the host"}
    silent: dict[str, str] = {}
    for gpu in (gpu for root in roots for gpu in root.findall("gpu")):
        try:
            facts["gpus"].append(parse_gpu(gpu))
        except ValueError as error:
            silent[address_of(gpu)] = str(error)
    shown = {gpu["pci_address"] for gpu in facts["gpus"]}
    unseen = {gpu["pci_address"]: why_missing(gpu) for gpu in pci if gpu["pci_address"] not in shown}
    facts["missing"] = [{"pci_address": a, "reason": r} for a, r in sorted((unseen | silent).items())]
    if roots:
        facts["driver"] = {
            "version": roots[0].findtext("driver_version", "").strip(),
            "open": bool(module.get("open")),
            "cuda": cuda if number(cuda := roots[0].findtext("cuda_version", "").strip()) else "",
        }
    if not facts["gpus"]:
        reason, remedy = why_none(answer, pci, module)
        return facts | {"reason": reason, "remedy": remedy}
    complete(facts, ask, sys, proc)
    return facts | {"reason": "", "remedy": ""}


def ask_each(ask: Ask, addresses: list[str]) -> list[Answer]:
    """Ask for each GPU alone, until one keeps nvidia-smi waiting: it would do so again."""
    answers: list[Answer] = []
    for address in addresses:
        answers.append(ask(["-q", "-x", f"--id={address}"]))
        if answers[-1].status is None:
            break
    return answers


def complete(facts: Facts, ask: Ask, sys: Path, proc: Path) -> None:
    """Add what stands elsewhere: index, compute capability, NUMA node, services, links."""

    def asked(arguments: list[str]) -> str:
        # What kept it waiting once would do so again.
        answer = Answer(None, "") if waited else ask(arguments)
        if answer.status is None:
            waited.append(arguments)
        if answer.status != 0:
            said = "no answer in time" if answer.status is None else _one_line(answer.text)[:120]
            facts["unread"].append(f"nvidia-smi {' '.join(arguments)}: {said}")
        return answer.text

    waited: list[list[str]] = []
    table = parse_table(asked(_TABLE))
    # The driver counts in the order of the bus, also those that are lost.
    held = [gpu["pci_address"] for gpu in facts["pci"] if gpu["driver"] == "nvidia"]
    for position, gpu in enumerate(facts["gpus"]):
        address = gpu["pci_address"]
        counted = held.index(address) if address in held else position
        index, capability = table.get(gpu["uuid"], (counted, ""))
        gpu |= {"index": index, "compute_capability": capability, "numa_node": numa_node(address, sys)}
        for process in gpu["processes"]:
            process["unit"] = unit_of(process["pid"], proc)
    indices = sorted(gpu["index"] for gpu in facts["gpus"])
    if len(indices) > 1:
        matrices = [parse_matrix(asked(["topo", *what])) for what in (["-m"], ["-p2p", "r"])]
        facts["links"] = links_of(indices, *matrices)


class Tool:
    """Runs nvidia-smi and waits no longer than it may."""

    def __init__(self, program: str, timeout: float) -> None:
        self.program, self.timeout = program, timeout

    def __call__(self, arguments: list[str]) -> Answer:
        """Return what it says."""
        process = subprocess.Popen(  # noqa: S603
            [self.program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
        try:
            output, _ = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            self._abandon(process)
            return Answer(None, "")
        return Answer(process.returncode, output.decode(errors="replace"))

    @staticmethod
    def _abandon(process: subprocess.Popen[bytes]) -> None:
        """End a process, and do not wait for one that is asleep in the kernel until its GPU answers."""
        process.kill()
        if process.stdout:
            process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={"timeout": {"type": "float", "default": 60}}, supports_check_mode=True
    )
    program = module.get_bin_path("nvidia-smi")
    module.exit_json(changed=False, **observe(Tool(program, module.params["timeout"]) if program else None))


if __name__ == "__main__":
    main()
