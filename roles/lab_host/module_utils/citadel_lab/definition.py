"""What is asked for: a lab and its hosts, checked before anything is touched."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from .system import LabError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SMALLEST = 4  # addresses: the network, the bridge, a host, and broadcast
_BRIDGE = re.compile(r"[a-z][a-z0-9-]{0,14}")  # IFNAMSIZ is 16, with the closing NUL


@dataclass(frozen=True)
class Host:
    """A host: its name and its IPv4 address on the lab's bridge."""

    name: str
    address: str


@dataclass(frozen=True)
class Lab:
    """Everything a run is told.

    `memory` is in MiB and `cpus` in CPUs, for each host; 0 means no limit. `boot_timeout` is in seconds.
    """

    hosts: tuple[Host, ...]
    suite: str
    mirror: str
    packages: tuple[str, ...]
    memory: int
    cpus: float
    subnet: ipaddress.IPv4Network
    bridge: str
    state_dir: Path
    cache_dir: Path
    boot_timeout: int

    @property
    def gateway(self) -> str:
        """The bridge's own address: the first of the subnet."""
        return str(self.subnet.network_address + 1)

    @property
    def machines_dir(self) -> Path:
        """Holds the hosts. Only root may enter: there are setuid files inside, and private host keys."""
        return self.state_dir / "machines"

    @property
    def ssh_dir(self) -> Path:
        """Holds the key pair and what a client needs to know about the hosts."""
        return self.state_dir / "ssh"

    @property
    def uv_cache_dir(self) -> Path:
        """The uv cache that all hosts share."""
        return self.cache_dir / "uv"

    def folder_of(self, host: Host) -> Path:
        """Holds all that a host is."""
        return self.machines_dir / host.name

    def root_of(self, host: Host) -> Path:
        """The root file system of a host."""
        return self.folder_of(host) / "root"

    def record_of(self, host: Host) -> Path:
        """What the host was made with; written last, so a host without it is half made."""
        return self.folder_of(host) / "record.json"

    def log_of(self, host: Host) -> Path:
        """The console of a host."""
        return self.folder_of(host) / "console.log"

    def traits_of(self, host: Host) -> dict[str, object]:
        """What cannot change while the host exists."""
        return {
            "address": host.address,
            "bridge": self.bridge,
            "cpus": self.cpus,
            "memory": self.memory,
            "subnet": str(self.subnet),
            "suite": self.suite,
        }


def subnet_from(text: str) -> ipaddress.IPv4Network:
    """The subnet that `text` names.

    Raises:
        LabError: it is no IPv4 network, or has no room for a bridge and a host.
    """
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise LabError(f"lab_host_subnet: {error}; a network like 10.89.13.0/24 would do") from error
    if subnet.num_addresses < _SMALLEST:
        raise LabError(f"lab_host_subnet: {text} has no room for hosts; a /24 would do")
    return subnet


def check(lab: Lab) -> None:
    """Refuse what cannot work.

    Raises:
        LabError: with every fault on its own line: the variable, what it was, and what would do.
    """
    faults = [*_host_faults(lab), *_repetitions(lab)]
    if not _BRIDGE.fullmatch(lab.bridge):
        faults.append(f"lab_host_bridge: {lab.bridge!r} is no interface name of at most 15 characters")
    for variable, path in (("lab_host_state_dir", lab.state_dir), ("lab_host_cache_dir", lab.cache_dir)):
        if not path.is_absolute():
            faults.append(f"{variable}: {path} must be an absolute path, like /var/lib/citadel-lab")
    if lab.memory < 0 or lab.cpus < 0:
        faults.append("lab_host_memory and lab_host_cpus: 0 is no limit, less is nothing")
    if faults:
        raise LabError("\n".join(faults))


def _host_faults(lab: Lab) -> list[str]:
    faults = []
    for host in lab.hosts:
        if not _NAME.fullmatch(host.name):
            faults.append(f"lab_host_hosts: {host.name!r} is no host name (a-z, 0-9 and - inside)")
        try:
            address = ipaddress.IPv4Address(host.address)
        except ValueError:
            faults.append(f"lab_host_hosts: {host.name} has {host.address!r}, which is no IPv4 address")
            continue
        reserved = {lab.subnet.network_address, lab.subnet.broadcast_address}
        if address not in lab.subnet or address in reserved:
            faults.append(f"lab_host_hosts: {host.name} has {address}, which is no host of {lab.subnet}")
        elif str(address) == lab.gateway:
            faults.append(f"lab_host_hosts: {host.name} has {address}, which is the bridge's own")
    return faults


def _repetitions(lab: Lab) -> list[str]:
    faults = []
    for what, values in (
        ("name", [host.name for host in lab.hosts]),
        ("address", [host.address for host in lab.hosts]),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        faults += [f"lab_host_hosts: the {what} {value} is there more than once" for value in twice]
    return faults
