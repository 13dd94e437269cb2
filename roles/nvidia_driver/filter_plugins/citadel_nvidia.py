"""Name the packages and the repository of NVIDIA's open driver for a host."""

import re
from collections.abc import Callable, Mapping
from typing import Any

Facts = Mapping[str, Any]

# The file of the key in each of NVIDIA's repositories; its name is the end of the key's fingerprint.
_KEYS = {"12": "3bf863cc.pub", "13": "8793F200.pub"}
# How NVIDIA calls architectures there.
_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "sbsa"}

# Ubuntu 24.04 came with this kernel; newer ones are its hardware enablement kernels, with other packages.
_UBUNTU_KERNEL = "6.8.0-"


def flavour(facts: Facts) -> str:
    """Return which of its distribution's kernels a host runs, such as "generic" or "cloud-amd64".

    Raises:
        ValueError: the running kernel is none of a distribution's.
    """
    kernel = str(facts["kernel"])
    found = re.fullmatch(r"\d[^-]*(?:-\d[^-]*)*-([a-z].*)", kernel)
    if not found:
        told = ", or name one in nvidia_driver_kernel_flavour" if facts["distribution"] == "Ubuntu" else ""
        raise ValueError(f"the kernel {kernel} is none of {facts['distribution']}'s: boot one of those{told}")
    if found[1] == "generic" and not kernel.startswith(_UBUNTU_KERNEL):
        return "generic-hwe-24.04"
    return found[1]


def packages(facts: Facts, branch: int, kernel_flavour: str = "") -> list[str]:
    """Return what to install for computing, without what only a screen needs.

    Ubuntu: the modules that are built and signed with its kernels, of the driver's branch for servers
    (packages.ubuntu.com). Debian: NVIDIA's "Driver Installation Guide", compute-only with the open module.
    """
    if facts["distribution"] == "Ubuntu":
        return [
            f"linux-modules-nvidia-{branch}-server-open-{kernel_flavour or flavour(facts)}",
            f"nvidia-headless-no-dkms-{branch}-server-open",
            f"nvidia-utils-{branch}-server",
        ]
    return [
        f"linux-headers-{facts['kernel']}",
        f"linux-headers-{flavour(facts)}",
        "nvidia-driver-cuda",
        "nvidia-kernel-open-dkms",
        "nvidia-persistenced",
    ]


def repository(facts: Facts, base: str) -> dict[str, str]:
    """Return NVIDIA's repository for a Debian host: `uri`, the `key`'s address, and the `host` it stands on.

    Raises:
        ValueError: NVIDIA has none for this host.
    """
    version, architecture = str(facts["distribution_major_version"]), str(facts["architecture"])
    if version not in _KEYS or architecture not in _ARCHITECTURES:
        raise ValueError(
            f"NVIDIA's repository is known for Debian {' and '.join(_KEYS)} "
            f"on {' and '.join(_ARCHITECTURES)}, not for {facts['distribution']} {version} on {architecture}"
        )
    uri = f"{base.rstrip('/')}/debian{version}/{_ARCHITECTURES[architecture]}/"
    host = re.match(r"[a-z]+://([^/:]+)", base)
    return {"uri": uri, "key": uri + _KEYS[version], "host": host[1] if host else ""}


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"citadel_nvidia_packages": packages, "citadel_nvidia_repository": repository}
