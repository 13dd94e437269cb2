"""A profile that cannot be used is refused before anything, with the place and what would do."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .terms import GIB

KINDS = ("nvme", "ssd", "disk", "network", "virtual", "mixed")
_SIZE = re.compile(r"\s*([0-9]+(?:[.,][0-9]+)?)\s*([A-Za-z]*)\s*")
_UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", start=1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGTP", start=1)},
    **{letter: 1024**power for power, letter in enumerate("KMGTP", start=1)},
}
_SIZES = ("_gib", "_mib", "_mib_s")
_WHOLE = (
    "cores",
    "sockets",
    "numa_nodes",
    "modules",
    "speed",
    "count",
    "branch",
    "swappiness",
    "pcie_generation",
    "pcie_width",
)
_VERSIONS = {"kernel": "6.8", "compute_capability": "8.0"}
_EXPRESSIONS = ("model", "name")
_HIGHEST_SWAPPINESS = 200


def faults(profile: Any, read_seconds: float = 0) -> list[str]:
    """Return all that is wrong with hardware_profile; unknown keys are the argument spec's matter."""
    if not isinstance(profile, Mapping):
        return [f"hardware_profile is {profile!r}: it must be a mapping"]
    return [*_values("hardware_profile", profile), *_relations(profile, read_seconds)]


def message(found: list[str]) -> str:
    """Return the faults as one message."""
    lines = [f"- {fault}" for fault in found]
    return "\n".join(
        [f"{len(lines)} values of hardware_profile cannot be used. Nothing was changed.", *lines]
    )


def _values(where: str, value: Any) -> Iterator[str]:
    name = where.rsplit(".", 1)[-1]
    if name in _WHOLE or name.endswith(_SIZES):
        if value is not None:
            yield from _value(where, name, value)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _values(f"{where}.{key}", part)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _values(f"{where}[{index}]", part)
    elif value is not None:
        yield from _value(where, name, value)


def _value(where: str, key: str, value: Any) -> Iterator[str]:
    if key.endswith(_SIZES):
        yield from _number(where, key, value)
    elif key in _WHOLE:
        number = _as_number(value)
        if number is None or number != int(number) or number < 0:
            yield f"{where} is {value!r}: it must be a whole number, and not negative"
        elif key == "swappiness" and number > _HIGHEST_SWAPPINESS:
            yield f"{where} is {value!r}: vm.swappiness is between 0 and {_HIGHEST_SWAPPINESS}"
    elif key in _EXPRESSIONS and isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            yield f"{where} is {value!r}, which is no regular expression: {error}"
    elif key in _VERSIONS and not re.fullmatch(r"\d+(\.\d+)*", str(value)):
        yield f'{where} is {value!r}: it must be a version such as "{_VERSIONS[key]}"'
    elif key == "kind" and value not in KINDS:
        yield f"{where} is {value!r}: it must be one of {', '.join(KINDS)}"


def _number(where: str, key: str, value: Any) -> Iterator[str]:
    unit = {"gib": "GiB", "mib": "MiB"}.get(key.rsplit("_", 1)[-1], "MiB a second")
    number = _as_number(value)
    if number is not None:
        if number < 0:
            yield f"{where} is {value!r}: it must not be negative"
        return
    written = _SIZE.fullmatch(value) if isinstance(value, str) else None
    factor = _UNITS.get(written[2].upper()) if written else None
    if written and factor:
        size = float(written[1].replace(",", ".")) * factor / (GIB if unit == "GiB" else GIB / 1024)
        yield f"{where} is {value!r}: it must be a number of {unit} without a unit; that is {size:.4g}"
    elif written and written[2]:
        yield f"{where} is {value!r}: {written[2]} is no unit, and none is wanted: write a number of {unit}"
    else:
        yield f"{where} is {value!r}: it must be a number of {unit}, such as {256 if unit == 'GiB' else 2000}"


def _as_number(value: Any) -> float | None:
    """Return a number; text counts where it reads as one, for `-e` gives nothing else."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _relations(profile: Mapping[str, Any], read_seconds: float) -> Iterator[str]:
    entries = profile.get("storage")
    if not isinstance(entries, list | tuple):
        return
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            continue
        where, path = f"hardware_profile.storage[{index}]", str(entry.get("path") or "")
        if not path.startswith("/"):
            yield f"{where}.path is {path!r}: it must be a path from the root, such as /mnt/nvme0n1"
        elif path.rstrip("/") in seen:
            other = seen[path.rstrip("/")]
            yield f"{where}.path is {path!r}, as is that of storage[{other}]: make them one entry"
        seen[path.rstrip("/")] = index
        size, free = _as_number(entry.get("size_gib")), _as_number(entry.get("free_gib"))
        if size and free and free > size:
            yield f"{where}.free_gib is {free:g}, more than its size_gib of {size:g}: lower it"
        if entry.get("read_mib_s") and not read_seconds:
            yield (
                f"{where}.read_mib_s is wanted and nothing measures it: set hardware_read_seconds to some "
                "seconds such as 5, or drop read_mib_s"
            )
