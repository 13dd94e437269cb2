"""Why there is no GPU to use, and what to do about it."""

from .terms import Answer, Facts, one_line

LOST = ("Unable to determine the device handle", "GPU is lost", "GPU requires reset")
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
        LOST,
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
    said = one_line(answer.text.partition("<?xml")[0])[:300]
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
