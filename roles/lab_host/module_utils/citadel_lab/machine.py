"""A machine: what makes a copy of the root file system a host of its own, and what is left of one."""

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from . import pip_settings, rootfs, ssh
from .definition import Host, Lab
from .supervisor import Supervisor
from .system import LabError, kill, locked_folder, processes, remove_tree, run, wait_until, write

_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_UV_CACHE = Path("/var/cache/citadel/uv")
_ARCHIVES = Path("var/cache/apt/archives")
_INIT = Path("/usr/local/lib/citadel-lab/init")
_REMOVED = ".removed-"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n", re.DOTALL)

# nspawn mounts the cgroups of version 1 read-only, and systemd then ignores every limit it is
# asked for. This runs before it, at every boot, and makes them the host's own.
_INIT_SCRIPT = """#!/bin/sh
while read -r _ point type options _; do
  case "$type $options" in "cgroup ro"*) mount -o remount,bind,rw "$point" ;; esac
done </proc/self/mounts
exec /sbin/init "$@"
"""

# Not `is-system-running --wait`: it waits for all services, and models may load for long.
_BOOTED = (
    "until systemctl --quiet is-active multi-user.target; do sleep 0.1; done; systemctl is-system-running"
)


def create(lab: Lab, host: Host, settings: pip_settings.PipSettings) -> None:
    """Make a host's root file system; its record, written last, says that it is complete."""
    root = lab.root_of(host)
    lab.machines_dir.mkdir(parents=True, exist_ok=True)
    lab.machines_dir.chmod(0o700)
    rootfs.copy_to(lab, root)
    for path, (content, mode) in _files(lab, host, settings).items():
        target = root / path.lstrip("/")
        if target.is_symlink():
            target.unlink()
        write(target, content, mode)
    _admit(lab, root)
    ssh.create_host_key(host, root)
    _trust(root, settings.certificate)
    _link_packages(packages_of(lab) / lab.suite, root / _ARCHIVES)
    record = {
        "traits": lab.traits_of(host),
        "read_only": [str(path) for path in settings.local_paths],
        "writable": {str(lab.uv_cache_dir): str(_UV_CACHE)},
    }
    write(lab.record_of(host), json.dumps(record, indent=2) + "\n")


def start(lab: Lab, host: Host, supervisor: Supervisor) -> None:
    """Boot a host.

    Raises:
        LabError: its systemd-nspawn did not come up.
    """
    lab.uv_cache_dir.mkdir(parents=True, exist_ok=True)
    log = lab.log_of(host)
    log.write_bytes(b"")
    supervisor.start(host.name, _command(lab, host), log, lab.memory, lab.cpus)
    if not wait_until(lambda: is_running(lab, host), timeout=10):
        raise LabError(f"{host.name} did not start; {_console(lab, host)}")


def wait(lab: Lab, host: Host) -> str:
    """Wait until a host has booted and lets us in; returns what its systemd says of itself.

    Raises:
        LabError: it ended, or did not get there in time; with the end of its console.
    """
    up = wait_until(lambda: ssh.answers(host) or not is_running(lab, host), lab.boot_timeout)
    if not up or not is_running(lab, host):
        raise LabError(f"{host.name} did not boot in {lab.boot_timeout} s; {_console(lab, host)}")
    deadline = time.monotonic() + lab.boot_timeout
    while True:
        try:
            return ssh.ask(lab, host, _BOOTED, lab.boot_timeout).strip()
        except LabError as error:  # not yet: logins are refused while a system boots
            if time.monotonic() > deadline:
                raise LabError(f"{host.name} lets nobody in: {error}\n{_console(lab, host)}") from error


def remove(lab: Lab, host: Host, supervisor: Supervisor) -> None:
    """Kill a host and remove all that it was; the packages it fetched stay in the cache.

    Its files are only put aside, to be removed by `sweep`: they may be many, and other runs wait meanwhile.
    """
    stop(lab, host, supervisor)
    _link_packages(lab.root_of(host) / _ARCHIVES, packages_of(lab) / lab.suite)
    if lab.folder_of(host).exists():
        lab.folder_of(host).rename(lab.machines_dir / f"{_REMOVED}{uuid.uuid4().hex}")
    ssh.forget(lab, host)


def sweep(lab: Lab) -> None:
    """Remove the files of hosts that were put aside, also by runs that were killed."""
    for folder in lab.machines_dir.glob(f"{_REMOVED}*"):
        with locked_folder(folder) as ours:
            if ours:
                remove_tree(folder)


def stop(lab: Lab, host: Host, supervisor: Supervisor) -> None:
    """Kill a host as a power cut would, and clear away what a killed nspawn leaves."""
    if nspawn := _nspawn_of(lab.root_of(host)):
        # With its first process gone nspawn ends by itself, and tidies up.
        for pid in _children(nspawn):
            kill(pid)
        if not wait_until(lambda: not is_running(lab, host), timeout=5):
            kill(nspawn)
    supervisor.clear(host.name)
    for folder in (Path("/run/systemd/nspawn") / kind / host.name for kind in ("propagate", "unix-export")):
        remove_tree(folder)


def is_running(lab: Lab, host: Host) -> bool:
    """Whether a host's systemd-nspawn is there."""
    return _nspawn_of(lab.root_of(host)) is not None


def is_complete(lab: Lab, host: Host) -> bool:
    """Whether a host was made to the end."""
    return lab.record_of(host).exists() and lab.root_of(host).is_dir()


def has_remains(lab: Lab, host: Host, supervisor: Supervisor) -> bool:
    """Whether anything of a host is there."""
    return lab.folder_of(host).exists() or ssh.is_introduced(lab, host) or supervisor.remains(host.name)


def check(lab: Lab, host: Host) -> None:
    """Refuse a host that cannot be had as asked for.

    Raises:
        LabError: it exists with other traits, or another lab runs one of its name.
    """
    for _, words in processes():
        if (
            _is_nspawn(words)
            and f"--machine={host.name}" in words
            and _directory(lab.root_of(host)) not in words
        ):
            raise LabError(f"lab_host_hosts: a host named {host.name} runs in another lab on this machine")
    if is_complete(lab, host):
        traits = _record(lab, host)["traits"]
        differing = [
            f"{key} is {traits.get(key)!r}, asked for is {value!r}"
            for key, value in lab.traits_of(host).items()
            if traits.get(key) != value
        ]
        if differing:
            raise LabError(
                f"{host.name} exists: {'; '.join(differing)}. Take it down first (lab_host_state=down)"
            )


def packages_of(lab: Lab) -> Path:
    """Keeps the packages that hosts have fetched, for the next ones."""
    return lab.cache_dir / "apt"


def all_in(lab: Lab) -> list[str]:
    """The names of all hosts of the lab, also of half-made ones."""
    if not lab.machines_dir.is_dir():
        return []
    return sorted(path.name for path in lab.machines_dir.iterdir() if not path.name.startswith("."))


def users_of(folder: Path) -> list[str]:
    """The names of the hosts, of any lab, that run with a folder bound into them."""
    users = []
    for _, words in processes():
        if _is_nspawn(words) and any(word.startswith(f"--bind={folder}:") for word in words):
            users += [word.removeprefix("--machine=") for word in words if word.startswith("--machine=")]
    return users


def _files(lab: Lab, host: Host, settings: pip_settings.PipSettings) -> dict[str, tuple[str, int]]:
    """What differs from the root file system: each file's content and mode."""
    network = f"""[Match]
Name=host0

[Network]
Address={host.address}/{lab.subnet.prefixlen}
Gateway={lab.gateway}
LinkLocalAddressing=no
"""
    return {
        "/etc/hostname": (f"{host.name}\n", 0o644),
        "/etc/hosts": (f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {host.name}\n", 0o644),
        "/etc/machine-id": (f"{uuid.uuid4().hex}\n", 0o444),
        "/etc/resolv.conf": (_resolv_conf(), 0o644),
        # Sorts before systemd's own 80-container-host0.network, and so wins.
        "/etc/systemd/network/10-host0.network": (network, 0o644),
        f"/etc/sudoers.d/{rootfs.ACCOUNT}": (f"{rootfs.ACCOUNT} ALL=(ALL:ALL) NOPASSWD: ALL\n", 0o440),
        "/etc/ssh/sshd_config.d/lab.conf": ("PasswordAuthentication no\nUseDNS no\n", 0o644),
        "/etc/pip.conf": (settings.for_pip(_BUNDLE), 0o644),
        "/etc/uv/uv.toml": (settings.for_uv(), 0o644),
        str(_INIT): (_INIT_SCRIPT, 0o755),
    }


def _resolv_conf() -> str:
    """The controller's resolver, past a stub that only the controller itself can reach."""
    content = Path("/etc/resolv.conf").read_text()
    upstream = Path("/run/systemd/resolve/resolv.conf")
    if "nameserver 127." in content and upstream.exists():
        return upstream.read_text()
    return content


def _admit(lab: Lab, root: Path) -> None:
    folder = root / "home" / rootfs.ACCOUNT / ".ssh"
    keys = folder / "authorized_keys"
    write(keys, ssh.public_key(lab), 0o600)
    os.chown(keys, folder.stat().st_uid, folder.stat().st_gid)


def _trust(root: Path, bundle: Path | None) -> None:
    """Have a host trust what the controller's bundle has and its own lacks."""
    if not bundle or not bundle.exists():
        return
    own = set(_CERTIFICATE.findall((root / _BUNDLE.relative_to("/")).read_text()))
    foreign = [text for text in _CERTIFICATE.findall(bundle.read_text()) if text not in own]
    for number, text in enumerate(foreign):
        write(root / f"usr/local/share/ca-certificates/controller-{number}.crt", text)
    if foreign:
        run("chroot", root, "update-ca-certificates")


def _link_packages(source: Path, target: Path) -> None:
    """Hand on the packages that apt has fetched; apt verifies each again before it uses it."""
    if not source.is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    for package in source.glob("*.deb"):
        place = target / package.name
        if place.exists():
            continue
        try:
            os.link(package, place)
        except OSError:  # another file system
            shutil.copy2(package, place)


def _record(lab: Lab, host: Host) -> dict[str, dict[str, str]]:
    record: dict[str, dict[str, str]] = json.loads(lab.record_of(host).read_text())
    return record


def _command(lab: Lab, host: Host) -> list[str]:
    record = _record(lab, host)
    return [
        # The hosts' /tmp is on disk: on a tmpfs it would count as their memory.
        "/usr/bin/env",
        "--ignore-environment",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "SYSTEMD_NSPAWN_TMPFS_TMP=0",
        "systemd-nspawn",
        "--quiet",
        _directory(lab.root_of(host)),
        f"--machine={host.name}",
        "--register=no",
        "--keep-unit",
        f"--network-bridge={lab.bridge}",
        "--resolv-conf=off",
        "--timezone=off",  # a mounted /etc/localtime keeps tzdata from being configured
        "--link-journal=no",
        "--kill-signal=SIGRTMIN+3",  # how systemd is asked to power off
        *(f"--bind-ro={path}" for path in record["read_only"]),
        *(f"--bind={source}:{target}" for source, target in record["writable"].items()),
        str(_INIT),
    ]


def _directory(root: Path) -> str:
    return f"--directory={root}"


def _is_nspawn(words: list[str]) -> bool:
    return bool(words) and Path(words[0]).name == "systemd-nspawn"


def _nspawn_of(root: Path) -> int | None:
    for pid, words in processes():
        if _is_nspawn(words) and _directory(root) in words:
            return pid
    return None


def _children(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return
    yield from (int(child) for child in children.split())


def _console(lab: Lab, host: Host) -> str:
    log = lab.log_of(host)
    tail = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
    return "\n".join([f"the end of its console ({log}):", *tail])
