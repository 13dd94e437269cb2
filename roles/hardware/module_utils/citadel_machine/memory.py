"""The memory: how much, of which kind, and whether errors are really corrected."""

from pathlib import Path

from . import smbios
from .terms import GIB, KIB, Facts, numbered, pairs, read, read_number

_TABLE = "sys/firmware/dmi/tables/DMI"


def total_gib(root: Path) -> float:
    """Return the memory that the kernel manages, in GiB, from /proc/meminfo."""
    return _gib(dict(pairs(read(root / "proc/meminfo"))).get("MemTotal", "0 kB"))


def available_gib(root: Path) -> float:
    """Return what could be had at this moment without swapping, in GiB."""
    return _gib(dict(pairs(read(root / "proc/meminfo"))).get("MemAvailable", "0 kB"))


def _gib(kibibytes: str) -> float:
    return round(int(kibibytes.split(maxsplit=1)[0]) * KIB / GIB, 1)


def observe(root: Path) -> Facts:
    """Return the modules as the firmware tells them, and what is known of error correction.

    `firmware` says whether its table could be read, and if not, why. `ecc` is one of: `on` (the kernel's EDAC
    sees a controller that corrects), `claimed` (the firmware says so, no EDAC driver confirms it), `off`, and
    `unknown`.
    """
    table = root / _TABLE
    try:
        told, reason = smbios.memory(table.read_bytes()), ""
    except FileNotFoundError:
        told, reason = smbios.memory(b""), "no SMBIOS table: a container, or firmware without one"
    except PermissionError:
        told, reason = smbios.memory(b""), f"/{_TABLE} cannot be read: only root may"
    controllers = [read(folder / "mc_name") for _, folder in edac(root)]
    return {
        **told,
        "firmware": reason,
        "controllers": controllers,
        "ecc": ecc(told["correction"], edac_modes(root), controllers),
    }


def edac(root: Path) -> list[tuple[int, Path]]:
    """Return the memory controllers that the kernel watches."""
    return numbered(root / "sys/devices/system/edac/mc", "mc")


def edac_modes(root: Path) -> set[str]:
    """Return the correction modes of all modules that EDAC knows, such as `SECDED` or `None`."""
    return {
        read(mode)
        for _, folder in edac(root)
        for name in ("dimm*/dimm_edac_mode", "csrow*/edac_mode", "rank*/dimm_edac_mode")
        for mode in folder.glob(name)
    } - {"", "Unknown"}


def ecc(correction: str, modes: set[str], controllers: list[str]) -> str:
    """Return whether errors are corrected: a controller under EDAC proves it, firmware only claims it."""
    if controllers and modes:
        return "off" if modes <= {"None"} else "on"
    if controllers:
        # A driver that tells no modes loads only where correction is switched on.
        return "on"
    if "ECC" in correction:
        return "claimed"
    return "off" if correction in ("none", "parity") else "unknown"


def errors(root: Path) -> Facts:
    """Return how many errors were corrected, and how many were not, since the machine booted."""
    folders = [folder for _, folder in edac(root)]
    return {
        "corrected": sum(read_number(folder / "ce_count") or 0 for folder in folders),
        "uncorrected": sum(read_number(folder / "ue_count") or 0 for folder in folders),
    }
