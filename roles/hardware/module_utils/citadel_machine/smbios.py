"""The firmware's own tables, as the kernel hands them on; no dmidecode has to be installed.

Formats: DMTF DSP0134, System Management BIOS Reference Specification 3.7, sections 6.1 (structure header and
strings), 7.17 (physical memory array) and 7.18 (memory device).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .terms import Facts

_ARRAY, _MODULE, _END = 16, 17, 127
_HEADER = 4
# Table 7.17.3: what corrects errors.
_CORRECTIONS = {3: "none", 4: "parity", 5: "single-bit ECC", 6: "multi-bit ECC", 7: "CRC"}
_SYSTEM_MEMORY = 3
# Table 7.18.2.
_TYPES = {
    18: "DDR",
    19: "DDR2",
    24: "DDR3",
    26: "DDR4",
    27: "LPDDR",
    28: "LPDDR2",
    29: "LPDDR3",
    30: "LPDDR4",
    32: "HBM",
    33: "HBM2",
    34: "DDR5",
    35: "LPDDR5",
    36: "HBM3",
}
_UNKNOWN_WORD, _EXTENDED = 0xFFFF, 0x7FFF


class Structure(NamedTuple):
    """One entry of the table: its type, its bytes (header included), and the texts that stand behind it."""

    kind: int
    data: bytes
    texts: list[str]

    def number(self, offset: int, size: int) -> int | None:
        """Return a little-endian number; older tables are shorter, and then there is none."""
        part = self.data[offset : offset + size]
        return int.from_bytes(part, "little") if len(part) == size else None

    def text(self, offset: int) -> str:
        """Return the text whose number (from 1) stands at an offset; `` where there is none."""
        index = self.number(offset, 1) or 0
        return self.texts[index - 1].strip() if 0 < index <= len(self.texts) else ""


def structures(table: bytes) -> Iterator[Structure]:
    """Yield the entries of a table; stops where it ends or is broken."""
    position = 0
    while position + _HEADER <= len(table):
        kind, length = struct.unpack_from("<BB", table, position)
        end = table.find(b"\0\0", position + length)
        if length < _HEADER or end < 0 or kind == _END:
            return
        texts = table[position + length : end].decode("latin-1").split("\0")
        yield Structure(kind, table[position : position + length], texts)
        position = end + 2


def memory(table: bytes) -> Facts:
    """Return what the firmware says of the memory: `correction`, `slots` and the populated `modules`.

    Each module has its `slot`, `size_gib`, `type`, `speed` and `configured_speed` (MT/s, or None), `part` and
    `manufacturer`, and whether its width leaves room for check bits (`check_bits`).
    """
    corrections, slots, modules = set(), 0, []
    for entry in structures(table):
        if entry.kind == _ARRAY and entry.number(5, 1) == _SYSTEM_MEMORY:
            corrections.add(_CORRECTIONS.get(entry.number(6, 1) or 0, "unknown"))
        elif entry.kind == _MODULE:
            slots += 1
            size = _size_mib(entry)
            if size:
                modules.append(_module(entry, size))
    return {
        "correction": corrections.pop() if len(corrections) == 1 else "mixed" if corrections else "unknown",
        "slots": slots,
        "modules": modules,
    }


def _size_mib(entry: Structure) -> int:
    size = entry.number(0x0C, 2)
    if size in (None, 0, _UNKNOWN_WORD):
        return 0
    if size == _EXTENDED:
        return (entry.number(0x1C, 4) or 0) & 0x7FFFFFFF
    # The highest bit says that it is in KiB.
    return (size & 0x7FFF) // 1024 if size & 0x8000 else size


def _module(entry: Structure, size_mib: int) -> Facts:
    total, data = entry.number(0x08, 2), entry.number(0x0A, 2)
    known = None not in (total, data) and _UNKNOWN_WORD not in (total, data)
    return {
        "slot": entry.text(0x10),
        "size_gib": round(size_mib / 1024, 1),
        "type": _TYPES.get(entry.number(0x12, 1) or 0, "unknown"),
        "speed": _speed(entry, 0x15, 0x54),
        "configured_speed": _speed(entry, 0x20, 0x58),
        "manufacturer": entry.text(0x17),
        "part": entry.text(0x1A),
        "check_bits": bool(known and (total or 0) > (data or 0)),
    }


def _speed(entry: Structure, offset: int, extended: int) -> int | None:
    speed = entry.number(offset, 2)
    if speed == _UNKNOWN_WORD:
        speed = entry.number(extended, 4)
    return speed or None
