"""Read what nvidia-smi prints.

Where there is no value it says N/A, [N/A], ERR!, GPU is lost and more.
"""

import re
from xml.etree import ElementTree

from .terms import Facts, number, one_line, whole


def parse_log(text: str) -> ElementTree.Element:
    """Return the root of `nvidia-smi -q -x`, whatever complaints stand around it.

    Raises:
        ValueError: it is not that.
    """
    begin, end = text.find("<nvidia_smi_log"), text.rfind("</nvidia_smi_log>")
    if begin < 0:
        raise ValueError(f"it is not its XML: {one_line(text)[:120]!r}")
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


def switch(text: str | None) -> str:
    """Return whether a mode is enabled, disabled or unsupported."""
    word = (text or "").strip().lower()
    return word if word in ("enabled", "disabled") else "unsupported"


def fabric_of(gpu: ElementTree.Element) -> str:
    """Return how far the fabric manager has joined a GPU to its NVSwitches; empty where there are none.

    It goes from Not Started through In Progress to Completed (https://github.com/NVIDIA/NVSentinel/issues/883);
    the status counts once it is completed (NVML's reference, nvmlGpuFabricInfo_t).
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
