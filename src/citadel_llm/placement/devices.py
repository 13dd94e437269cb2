"""The machine that a plan is for: its GPUs, how they are linked, and the host's memory."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from citadel_llm.placement.capabilities import capability_of
from citadel_llm.placement.terms import GIB, MIB, Device, PlacementError

GPU_EXAMPLE = "2x RTX 5060 Ti 16GB"
MOST_GPUS = 1024

LinkKind = Literal["nvlink", "switch", "bridge", "socket", "sockets"]
# The nearer, the lower: NVLink, the same PCIe switch, one host bridge, one socket, across sockets.
DISTANCE: dict[str, int] = {"nvlink": 0, "switch": 1, "bridge": 2, "socket": 3, "sockets": 4}
UNKNOWN_DISTANCE = 5

# A card sold with 16 GB has 16 GiB of chips, of which the driver shows a little less: `nvidia-smi` says
# 16311 MiB on a GeForce RTX 5060 Ti 16 GB, 0.45 % under 16384. Rounded up, so that a plan is never too bold.
_SOLD_DEDUCTION = 0.005
# GDDR6 with ECC on keeps one byte in sixteen for it: `nvidia-smi` says 23034 MiB on an L4 24 GB, and 46068 on
# an L40S 48 GB. These come with ECC on (NVIDIA, "GPU Memory Error Management").
_ECC_INSIDE = re.compile(r"\b(T4|A2|A10|A16|A40|L4|L40S?)\b", re.IGNORECASE)

_GROUP = re.compile(
    r"(?:(?P<count>[+-]?\d+)\s*[x*]\s*)?(?P<name>.*?)\s*(?P<size>[+-]?\d+(?:\.\d+)?)\s*(?P<unit>[a-z]+)",
    re.IGNORECASE,
)
_UNITS = {"gb": GIB, "gib": GIB, "g": GIB, "mib": MIB, "mb": MIB, "tb": 1024 * GIB, "tib": 1024 * GIB}
_AS_SOLD = {"gb", "g", "mb", "tb"}


@dataclass(frozen=True)
class Link:
    """How two GPUs reach each other.

    Attributes:
        gpus: Their indices, the lower first.
        kind: nvlink, switch (the same PCIe switch), bridge (one host bridge), socket, sockets (across them).
        label: The driver's own word, such as `NV4` or `PIX`.
        peer_to_peer: `ok`, or the driver's word for why not.
    """

    gpus: tuple[int, int]
    kind: LinkKind
    label: str = ""
    peer_to_peer: str = ""

    @property
    def fast(self) -> bool:
        """Whether splitting each layer over the two pays: NVLink, or one switch with peer-to-peer."""
        return self.kind == "nvlink" or (self.kind == "switch" and self.peer_to_peer == "ok")


@dataclass(frozen=True)
class Machine:
    """What the models are planned on.

    Attributes:
        devices: The GPUs in the order of their indices; on the CPU build the host itself.
        links: What is known of the ways between them.
        host_memory: The host's memory in bytes.
        origin: Where all this comes from, for people.
    """

    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    host_memory: int
    origin: str

    def link(self, first: int, second: int) -> Link | None:
        """What is known of the way between two GPUs."""
        pair = (min(first, second), max(first, second))
        return next((link for link in self.links if link.gpus == pair), None)


def machine_of_text(groups: str | Sequence[str], host_memory: int) -> Machine:
    """The machine that `2x RTX 5060 Ti 16GB` describes; several groups by comma, or one string each.

    GB are as sold: the driver shows a little less (see the source of this module). GiB and MiB are exact.

    Args:
        groups: What to read.
        host_memory: The host's memory in bytes.

    Raises:
        PlacementError: It cannot be read; with an example.
    """
    texts = [groups] if isinstance(groups, str) else list(groups)
    devices: list[Device] = []
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        count, name, memory = _read_group(text)
        if len(devices) + count > MOST_GPUS:
            raise _unreadable(text, f"more than {MOST_GPUS} GPUs")
        devices += [
            Device("cuda", len(devices) + number, name, memory, capability_of(name))
            for number in range(count)
        ]
    return Machine(tuple(devices), (), host_memory, f"as told: {', '.join(texts)}")


def machine_of_report(report: Mapping[str, Any], build: str = "cuda") -> Machine:
    """The machine that a hardware report found (`/etc/citadel/hardware.json`).

    Args:
        report: The report: `facts.gpus`, `facts.gpu_links`, `facts.memory_gib`.
        build: The engine's build; with `cpu` the device is the host itself.

    Raises:
        PlacementError: A key is missing, or has a value that cannot be.
    """
    facts = _mapping(report.get("facts"), "facts")
    memory = int(_positive(facts.get("memory_gib"), "facts.memory_gib") * GIB)
    origin = "the hardware report"
    if build == "cpu":
        return machine_of_host(memory, origin)
    devices, left_out = [], []
    for position, gpu in enumerate(_list(facts.get("gpus"), "facts.gpus")):
        entry = f"facts.gpus[{position}]"
        values = _mapping(gpu, entry)
        index = _index(values.get("index"), f"{entry}.index")
        if values.get("mig") == "enabled":
            left_out.append(f"GPU {index} is left out, for it is split by MIG")
            continue
        name = str(values.get("name", "GPU"))
        mib = _positive(values.get("memory_mib"), f"{entry}.memory_mib")
        capability = _capability(values.get("compute_capability")) or capability_of(name)
        devices.append(Device("cuda", index, name, int(mib * MIB), capability))
    links = [_link(each, f"facts.gpu_links[{at}]") for at, each in enumerate(facts.get("gpu_links") or [])]
    devices.sort(key=lambda device: device.index)
    return Machine(tuple(devices), tuple(links), memory, "; ".join([origin, *left_out]))


def machine_of_profile(profile: Mapping[str, Any], build: str = "cuda") -> Machine:
    """The machine that an inventory's `hardware_profile` asks for; its links are not known.

    Args:
        profile: `gpus` with count, name and memory_gib (as sold), and `memory_gib`.
        build: The engine's build; with `cpu` the device is the host itself.

    Raises:
        PlacementError: A key is missing, or has a value that cannot be.
    """
    origin = "hardware_profile"
    memory = int(_positive(profile.get("memory_gib"), f"{origin}.memory_gib") * GIB)
    if build == "cpu":
        return machine_of_host(memory, origin)
    gpus = _mapping(profile.get("gpus") or {"count": 0}, f"{origin}.gpus")
    count = _index(gpus.get("count"), f"{origin}.gpus.count")
    if not count:
        return Machine((), (), memory, origin)
    name = str(gpus.get("name") or "GPU")
    sold = _positive(gpus.get("memory_gib"), f"{origin}.gpus.memory_gib")
    size = as_shown(name, int(sold * GIB))
    devices = tuple(Device("cuda", index, name, size, capability_of(name)) for index in range(count))
    return Machine(devices, (), memory, origin)


def machine_of_host(host_memory: int, origin: str) -> Machine:
    """The host itself as the one device, for the CPU build."""
    return Machine((Device("cpu", 0, "host memory", host_memory),), (), host_memory, origin)


def as_shown(name: str, sold: int) -> int:
    """What the driver shows of a card sold with so many bytes."""
    chips = sold * 15 // 16 if _ECC_INSIDE.search(name) else sold
    return math.floor(chips * (1 - _SOLD_DEDUCTION)) // MIB * MIB


def _read_group(text: str) -> tuple[int, str, int]:
    found = _GROUP.fullmatch(text)
    if found is None:
        raise _unreadable(text, "it has no count, name and size with a unit")
    unit = found["unit"].lower()
    if unit not in _UNITS:
        raise _unreadable(text, f"{found['unit']!r} is no unit of memory; GB (as sold), GiB or MiB would do")
    count = int(found["count"] or 1)
    if count <= 0:
        raise _unreadable(text, f"{count} is no number of GPUs")
    if count > MOST_GPUS:
        raise _unreadable(text, f"more than {MOST_GPUS} GPUs")
    name = found["name"].strip() or "GPU"
    sold = int(float(found["size"]) * _UNITS[unit])
    if sold < GIB:
        raise _unreadable(text, f"{found['size']} {found['unit']} is no memory of a GPU")
    return count, name, as_shown(name, sold) if unit in _AS_SOLD else sold


def _unreadable(text: str, reason: str) -> PlacementError:
    return PlacementError(f"--gpu {text!r}", reason, f"write it like {GPU_EXAMPLE!r}, several with commas")


def _link(value: Any, entry: str) -> Link:
    values = _mapping(value, entry)
    ends = sorted(_index(each, f"{entry}.gpus") for each in _list(values.get("gpus"), f"{entry}.gpus"))
    kind = values.get("kind")
    if len(ends) != 2 or kind not in DISTANCE:  # noqa: PLR2004 - a link has two ends
        message = f"must name two GPUs and one of {', '.join(DISTANCE)}, not {dict(values)}"
        raise PlacementError(entry, message, _GATHER_AGAIN)
    return Link((ends[0], ends[1]), kind, str(values.get("label", "")), str(values.get("peer_to_peer", "")))


_GATHER_AGAIN = "gather the facts anew: ansible-playbook site.yml --tags hardware"


def _mapping(value: Any, entry: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PlacementError(entry, f"must be a mapping, not {value!r}", _GATHER_AGAIN)
    return value


def _list(value: Any, entry: str) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise PlacementError(entry, f"must be a list, not {value!r}", _GATHER_AGAIN)
    return value


def _positive(value: Any, entry: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise PlacementError(entry, f"must be a number above 0, not {value!r}", "put the size there")
    return value


def _index(value: Any, entry: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_GPUS:
        raise PlacementError(
            entry, f"must be a whole number from 0 to {MOST_GPUS}, not {value!r}", "put it right"
        )
    return value


def _capability(value: Any) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d+)\.(\d+)", str(value))
    return (int(found[1]), int(found[2])) if found else None
