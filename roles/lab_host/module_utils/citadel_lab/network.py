"""The hosts' network: a bridge with an address, forwarding, and one masquerade rule."""

from pathlib import Path

from .definition import Lab
from .system import run, succeeds

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
# Stands in /run because it is about this boot: the kernel's setting is gone with the next one too.
_FORWARD_WAS = Path("/run/citadel-lab/ip_forward.was")
_TABLES = "lab"


def table_of(lab: Lab) -> str:
    """The lab's own nftables table, so that taking it down takes nothing else."""
    return f"{_TABLES}-{lab.bridge}"


def missing(lab: Lab) -> list[str]:
    """What is not there of the lab's network, in words; empty when all is."""
    absent = []
    if not _bridge_has_address(lab):
        absent.append(f"bridge {lab.bridge} with {lab.gateway}/{lab.subnet.prefixlen}")
    if _FORWARD.read_text().strip() != "1":
        absent.append("forwarding of IPv4")
    if not succeeds("nft", "list", "table", "ip", table_of(lab)):
        absent.append(f"nftables table {table_of(lab)}")
    return absent


def create(lab: Lab) -> None:
    """Make what is missing; harmless when nothing is."""
    if not _bridge_path(lab).exists():
        run("ip", "link", "add", lab.bridge, "type", "bridge")
    if not _bridge_has_address(lab):
        run("ip", "address", "replace", f"{lab.gateway}/{lab.subnet.prefixlen}", "dev", lab.bridge)
    run("ip", "link", "set", lab.bridge, "up")
    _allow_forwarding()
    run("nft", _ruleset(lab))


def remove(lab: Lab) -> None:
    """Take the lab's network away; the last lab gives forwarding back as it was."""
    if _bridge_path(lab).exists():
        run("ip", "link", "delete", lab.bridge)
    if succeeds("nft", "list", "table", "ip", table_of(lab)):
        run("nft", "delete", "table", "ip", table_of(lab))
    if f"table ip {_TABLES}-" not in run("nft", "list", "tables"):
        _restore_forwarding()


def exists(lab: Lab) -> bool:
    """Whether anything of the lab's network is there."""
    return _bridge_path(lab).exists() or succeeds("nft", "list", "table", "ip", table_of(lab))


def in_use(lab: Lab) -> bool:
    """Whether a host, of this lab or of another one on its bridge, is plugged in."""
    ports = _bridge_path(lab) / "brif"
    return ports.is_dir() and any(ports.iterdir())


def _bridge_path(lab: Lab) -> Path:
    return Path("/sys/class/net") / lab.bridge


def _bridge_has_address(lab: Lab) -> bool:
    if not _bridge_path(lab).exists():
        return False
    shown = run("ip", "-oneline", "-4", "address", "show", "dev", lab.bridge)
    return f" {lab.gateway}/{lab.subnet.prefixlen} " in shown


def _ruleset(lab: Lab) -> str:
    # Hosts see each other under their own addresses: what stays in the subnet is left alone.
    table = f"table ip {table_of(lab)}"
    return f"""
{table}
delete {table}
{table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {lab.subnet} ip daddr != {lab.subnet} masquerade
  }}
}}
"""


def _allow_forwarding() -> None:
    was = _FORWARD.read_text()
    if was.strip() != "1":
        _FORWARD_WAS.parent.mkdir(parents=True, exist_ok=True)
        _FORWARD_WAS.write_text(was)
        _FORWARD.write_text("1\n")


def _restore_forwarding() -> None:
    if _FORWARD_WAS.exists():
        _FORWARD.write_text(_FORWARD_WAS.read_text())
        _FORWARD_WAS.unlink()
        _FORWARD_WAS.parent.rmdir()
