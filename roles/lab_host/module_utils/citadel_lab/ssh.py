"""The way into the hosts: a key pair, their host keys as they really are, and a client configuration."""

import os
import shutil
import socket
from pathlib import Path

from .definition import Host, Lab
from .rootfs import ACCOUNT
from .system import run, write

_HOST_KEY = Path("etc/ssh/ssh_host_ed25519_key")


def private_key(lab: Lab) -> Path:
    """The lab's private key."""
    return lab.ssh_dir / "id_ed25519"


def public_key(lab: Lab) -> str:
    """The line of the lab's public key."""
    return private_key(lab).with_suffix(".pub").read_text()


def config_path(lab: Lab) -> Path:
    """A client configuration that knows every host by name: `ssh -F <it> <name>`."""
    return lab.ssh_dir / "config"


def has_key(lab: Lab) -> bool:
    """Whether the key pair and the client configuration are there."""
    pair = (private_key(lab), private_key(lab).with_suffix(".pub"))
    return all(path.exists() for path in (*pair, config_path(lab)))


def create_key(lab: Lab) -> None:
    """Make the key pair; it belongs to whoever called sudo, for they are who logs in.

    The rest belongs to root and is for all to read: ssh trusts no configuration of another user's.
    """
    lab.ssh_dir.mkdir(parents=True, exist_ok=True)
    key = private_key(lab)
    key.unlink(missing_ok=True)  # half of a pair is none
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "citadel-lab", "-f", key)
    shutil.chown(key, int(os.environ.get("SUDO_UID", "0")), int(os.environ.get("SUDO_GID", "0")))
    write(config_path(lab), f"Include {lab.ssh_dir}/config.d/*\n")


def create_host_key(host: Host, root: Path) -> None:
    """Give a host a key of its own."""
    key = root / _HOST_KEY
    key.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{host.name}", "-f", key)


def introduce(lab: Lab, host: Host) -> None:
    """Write what a client needs to know a host: its host key, from its own disk, and its address."""
    kind, key = (lab.root_of(host) / _HOST_KEY).with_suffix(".pub").read_text().split()[:2]
    known = _known_hosts(lab, host)
    entry = f"""Host {host.name} {host.address}
  HostName {host.address}
  User {ACCOUNT}
  IdentityFile {private_key(lab)}
  IdentitiesOnly yes
  UserKnownHostsFile {known}
"""
    for path, content in ((known, f"{host.name},{host.address} {kind} {key}\n"), (_entry(lab, host), entry)):
        write(path, content)


def is_introduced(lab: Lab, host: Host) -> bool:
    """Whether a client knows a host."""
    return _known_hosts(lab, host).exists() and _entry(lab, host).exists()


def forget(lab: Lab, host: Host) -> None:
    """Remove what a client knows about a host."""
    for path in (_known_hosts(lab, host), _entry(lab, host)):
        path.unlink(missing_ok=True)


def answers(host: Host) -> bool:
    """Whether a host's SSH server greets."""
    try:
        with socket.create_connection((host.address, 22), timeout=1) as connection:
            return connection.recv(4).startswith(b"SSH-")
    except OSError:
        return False


def ask(lab: Lab, host: Host, command: str, timeout: float) -> str:
    """Run a command on a host and return its output, which counts even if the command fails.

    Raises:
        LabError: the host does not let us in, or the command did not end in `timeout` seconds.
    """
    options = ("-F", str(config_path(lab)), "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
    return run("ssh", *options, host.name, f"{command} || :", timeout=timeout)


def _known_hosts(lab: Lab, host: Host) -> Path:
    return lab.ssh_dir / "known_hosts.d" / host.name


def _entry(lab: Lab, host: Host) -> Path:
    return lab.ssh_dir / "config.d" / host.name
