"""The devices of a machine as the search sees them: by position, with what is alike and what is near."""

from collections.abc import Sequence
from dataclasses import dataclass

from citadel_llm.placement.devices import DISTANCE, UNKNOWN_DISTANCE, Machine
from citadel_llm.placement.terms import Device


@dataclass(frozen=True)
class Slots:
    """The devices by position: what is usable of each, and how they are linked.

    Attributes:
        devices: The devices.
        usable: What all engines together may take of each.
        kinds: Positions of equal devices, one tuple for each kind, in the order of their memory.
        twins: A number for each device; two with the same number may be swapped without any difference.
        distance: How far apart each two are; 0 for NVLink.
        fast: Whether splitting layers over each two pays.
        linked: Whether anything is known of the ways between them.
    """

    devices: tuple[Device, ...]
    usable: tuple[int, ...]
    kinds: tuple[tuple[int, ...], ...]
    twins: tuple[int, ...]
    distance: tuple[tuple[int, ...], ...]
    fast: tuple[tuple[bool, ...], ...]
    linked: bool


def slots_of(machine: Machine, usable: Sequence[int]) -> Slots:
    """The devices of a machine, with what is usable of each."""
    devices = machine.devices
    known = {link.gpus: link for link in machine.links}
    size = range(len(devices))

    def between(a: int, b: int) -> tuple[int, bool]:
        pair = (devices[a].index, devices[b].index)
        link = known.get((min(pair), max(pair)))
        return (DISTANCE[link.kind], link.fast) if link else (UNKNOWN_DISTANCE, False)

    ways = [[between(a, b) if a != b else (0, False) for b in size] for a in size] if known else []
    alike: dict[tuple[object, ...], list[int]] = {}
    for position, device in enumerate(devices):
        alike.setdefault((device.memory, device.name, device.compute_capability or (0, 0)), []).append(
            position
        )
    kinds = tuple(tuple(alike[key]) for key in sorted(alike, key=lambda key: (key[0], alike[key][0])))
    if known:
        distance = tuple(tuple(way[0] for way in row) for row in ways)
        fast = tuple(tuple(way[1] for way in row) for row in ways)
    else:
        distance = (tuple(UNKNOWN_DISTANCE for _ in size),) * len(devices)
        fast = (tuple(False for _ in size),) * len(devices)
    twins = _twins(kinds, ways)
    return Slots(devices, tuple(usable), kinds, twins, distance, fast, bool(known))


def _twins(kinds: Sequence[Sequence[int]], ways: list[list[tuple[int, bool]]]) -> tuple[int, ...]:
    twins: dict[int, int] = {}
    for kind in kinds:
        for position in kind:
            same = (other for other in kind if other in twins and twins[other] == other)
            twins[position] = next((each for each in same if _swappable(each, position, ways)), position)
    return tuple(twins[position] for position in sorted(twins))


def _swappable(a: int, b: int, ways: list[list[tuple[int, bool]]]) -> bool:
    return not ways or all(ways[a][c] == ways[b][c] for c in range(len(ways)) if c not in (a, b))
