"""Draw a machine: the services outside, memory, sockets with their NUMA nodes, GPUs and links, disks."""

from collections.abc import Callable

from . import compare
from .canvas import Canvas, State, fitting, states
from .gpu_picture import draw_gpus
from .terms import Facts, Finding, counted

WIDTH = 1000.0
_EDGE, _GAP = 24.0, 16.0
_INNER = WIDTH - 2 * _EDGE
_PER_ROW = 4
_MOST_STICKS = 32
_DISK_PATHS = 3

StateOf = Callable[[str], State]


def draw(host: str, facts: Facts, findings: list[Finding]) -> str:
    """Return the picture as one SVG element with its own style."""
    found, canvas = states(findings), Canvas()

    def state(part: str) -> State:
        return found.get(part, State())

    top = _services(canvas, facts.get("services") or [], state)
    # The machine's frame is as high as what stands in it, which is drawn first on a canvas of its own.
    inside = Canvas()
    y = _header(inside, host, facts, state, top + 34)
    y = _memory(inside, facts, state("memory"), y)
    y, nodes = _sockets(inside, facts["cpu"], state("cpu"), y)
    y = draw_gpus(inside, facts, state, nodes=nodes, frame=(_EDGE, _INNER), y=y)
    y = _disks(inside, facts["storage"], state, y)
    canvas.box(1, top, WIDTH - 2, y - top, "paper")
    canvas.take(inside)
    failed = sum(1 for finding in findings if not finding.met)
    return canvas.svg(WIDTH, y + 2, f"{host}: {len(findings) - failed} requirements met, {failed} not met")


def _services(canvas: Canvas, services: list[Facts], state: StateOf) -> float:
    """Draw the services that are not on the machine; return where the machine begins."""
    if not services:
        return 2
    canvas.words(_EDGE, 16, "Services elsewhere", "soft")
    y, height = 26.0, 62.0
    for start in range(0, len(services), _PER_ROW):
        row = services[start : start + _PER_ROW]
        columns = min(_PER_ROW, len(services))
        width = (_INNER - _GAP * (columns - 1)) / columns
        for index, service in enumerate(row):
            x = _EDGE + index * (width + _GAP)
            verdict = state(f"service:{service['name']}")
            canvas.box(x, y, width, height, verdict.box, title=service["said"])
            canvas.words(x + 12, y + 19, fitting(service["name"], width - 24), "name")
            canvas.words(
                x + 12,
                y + 36,
                fitting(f"{service['host']}:{service['port']} \u00b7 {service['kind']}", width - 24, 12),
                "soft",
            )
            word = service["state"] if verdict.failed else "ready"
            canvas.words(x + 12, y + 53, f"{verdict.sign}{word}", verdict.word)
            last = start + _PER_ROW >= len(services)
            if last:
                canvas.path([(x + width / 2, y + height), (x + width / 2, y + height + 22)], "wire")
        y += height + 10
    return y + 12


def _header(canvas: Canvas, host: str, facts: Facts, state: StateOf, y: float) -> float:
    driver, system = facts["driver"], facts["os"]
    kind = "open" if driver.get("open") else "closed"
    shown = f"NVIDIA {driver['version']} ({kind})" if driver.get("version") else ""
    canvas.words(_EDGE, y, fitting(host, 400, 15), "title")
    line = " \u00b7 ".join(part for part in (system["name"], f"kernel {system['kernel']}", shown) if part)
    canvas.words(_EDGE, y + 19, fitting(line, _INNER, 12), "soft")
    right = WIDTH - _EDGE
    for part, name in (("driver", "driver"), ("network", "names"), ("system", "system")):
        verdict = state(part)
        if verdict.mark:
            text = f"{name} {verdict.mark}"
            canvas.words(right, y, text, verdict.word, "end")
            right -= len(text) * 7 + 18
    return y + 36


def _memory(canvas: Canvas, facts: Facts, state: State, y: float) -> float:
    memory, height = facts["memory"], 66.0
    room = 440 if memory["slots"] else _INNER - 130
    canvas.box(_EDGE, y, _INNER, height, state.box)
    canvas.words(_EDGE + 14, y + 22, f"Memory {facts['memory_gib']:g} GiB", "name")
    canvas.words(_EDGE + 14, y + 40, fitting(modules_shown(memory), room, 12), "soft")
    canvas.words(_EDGE + 14, y + 56, fitting(f"ECC {compare.ecc_shown(memory)}", room, 12), "soft")
    canvas.mark(WIDTH - _EDGE - 14, y + 22, state)
    slots = min(_MOST_STICKS, memory["slots"])
    step = min(16.0, 380 / max(1, slots))
    for index in range(slots):
        filled = index < len(memory["modules"])
        x = WIDTH - _EDGE - 110 - (slots - index) * step
        canvas.bar(x, y + 14, step * 0.6, height - 28, "stick" if filled else "slot")
    return y + height


def modules_shown(memory: Facts) -> str:
    """Return the memory's modules in a line, alike ones counted."""
    counts: dict[str, int] = {}
    for module in memory["modules"]:
        speed = f"-{module['configured_speed']}" if module["configured_speed"] else ""
        kind = f"{module['size_gib']:g} GiB {module['type']}{speed}"
        counts[kind] = counts.get(kind, 0) + 1
    shown = ", ".join(f"{count} x {kind}" for kind, count in counts.items())
    return shown or memory["firmware"] or "modules unknown"


def _sockets(
    canvas: Canvas, cpu: Facts, state: State, y: float
) -> tuple[float, dict[int, tuple[float, float]]]:
    """Draw the sockets; return where they end, and the point below each NUMA node at which PCIe begins."""
    y, height = y + 20, 108.0
    sockets: dict[int, list[Facts]] = {index: [] for index in range(cpu["sockets"])}
    for node in cpu["numa_nodes"]:
        sockets.setdefault(node["socket"], []).append(node)
    width = (_INNER - _GAP * (len(sockets) - 1)) / len(sockets)
    points: dict[int, tuple[float, float]] = {}
    for place, (socket, nodes) in enumerate(sorted(sockets.items())):
        x = _EDGE + place * (width + _GAP)
        canvas.path([(x + width / 2, y - 20), (x + width / 2, y)], "wire")
        canvas.box(x, y, width, height, state.box, title=" ".join(cpu["flags"]))
        name = cpu["model"] if len(sockets) == 1 else f"Socket {socket}: {cpu['model']}"
        canvas.words(x + 14, y + 22, fitting(name, width - 120), "name")
        canvas.mark(x + width - 14, y + 22, state)
        each = (
            f"{counted(cpu['cores'] // len(sockets), 'core')}, "
            f"{counted(cpu['threads'] // len(sockets), 'thread')}"
        )
        flags = " ".join(
            flag for flag in cpu["flags"] if flag.startswith(("avx2", "avx512f", "avx512_bf", "amx"))
        )
        canvas.words(
            x + 14, y + 40, fitting(f"{each} \u00b7 {flags}" if flags else each, width - 28, 12), "soft"
        )
        step = (width - 28 + 8) / max(1, len(nodes))
        for index, node in enumerate(nodes):
            left = x + 14 + index * step
            canvas.box(left, y + 52, step - 8, 44, "inner", title=f"CPUs {node['cpus']}")
            canvas.words(left + 8, y + 70, fitting(f"NUMA node {node['index']}", step - 20, 12), "soft")
            text = f"{node['memory_gib']:g} GiB, CPUs {node['cpus'] or 'none'}"
            canvas.words(left + 8, y + 87, fitting(text, step - 20, 11), "tiny")
            points[node["index"]] = (left + (step - 8) / 2, y + height)
    # Where nothing is known of nodes, all hangs below the first socket.
    points.setdefault(0, (_EDGE + width / 2, y + height))
    return y + height, points


def _disks(canvas: Canvas, storages: list[Facts], state: StateOf, y: float) -> float:
    """Draw each disk once, with the paths that stand on it."""
    y, columns, groups = y + 22, 3, grouped(storages)
    if not groups:
        return y
    width = (_INNER - _GAP * (columns - 1)) / columns
    for start in range(0, len(groups), columns):
        row = groups[start : start + columns]
        most = min(_DISK_PATHS + 1, max(len(paths) for _, paths in row))
        height = 52 + 17.0 * most
        for index, (disks, paths) in enumerate(row):
            _disks_box(canvas, (_EDGE + index * (width + _GAP), y, width, height), disks, paths, state=state)
        y += height + 12
    return y + 8


def grouped(storages: list[Facts]) -> list[tuple[list[Facts], list[Facts]]]:
    """Return the disks with the paths on them; those with the same paths (RAID, LVM) are one group."""
    names = {disk["name"]: disk for storage in storages for disk in storage["disks"]}
    groups: dict[tuple[str, ...], list[Facts]] = {}
    for name, disk in sorted(names.items()):
        carried = tuple(storage["path"] for storage in storages if disk in storage["disks"])
        groups.setdefault(carried, []).append(names[name])
    by_path = {storage["path"]: storage for storage in storages}
    found = [(disks, [by_path[path] for path in carried]) for carried, disks in groups.items()]
    # What no disk is known of (a network's file system) is named after its source.
    bare: dict[str, list[Facts]] = {}
    for storage in storages:
        if not storage["disks"]:
            bare.setdefault(storage["device"], []).append(storage)
    return [*found, *(([], paths) for paths in bare.values())]


def _disks_box(
    canvas: Canvas,
    place: tuple[float, float, float, float],
    disks: list[Facts],
    paths: list[Facts],
    *,
    state: StateOf,
) -> None:
    x, y, width, height = place
    together = State()
    for storage in paths:
        together |= state(f"storage:{storage['path']}")
    names = ", ".join(disk["name"] for disk in disks)
    canvas.box(x, y, width, height, together.box, title=names)
    each, kind = paths[0]["size_gib"], f"{paths[0]['file_system']}, no disk of its own is seen"
    name = names or paths[0]["device"]
    if disks:
        each, kind = disks[0]["size_gib"], f"{disks[0]['transport']}, {disks[0]['model']}".rstrip(", ")
    title = f"{name} \u00b7 {size_shown(each)}"
    if len(disks) > 1:
        title = f"{len(disks)} x {size_shown(each)} \u00b7 {disks[0]['name']} to {disks[-1]['name']}"
    canvas.words(x + 12, y + 21, fitting(title, width - (110 if together.mark else 24)), "name")
    canvas.mark(x + width - 12, y + 21, together)
    canvas.words(x + 12, y + 38, fitting(kind, width - 24, 12), "soft")
    for index, storage in enumerate(paths[:_DISK_PATHS]):
        verdict = state(f"storage:{storage['path']}")
        size = size_shown(storage["size_gib"])
        text = f"{verdict.sign}{storage['path']} \u00b7 {storage['file_system']} {size}"
        canvas.words(
            x + 12,
            y + 57 + 17 * index,
            fitting(text, width - 24, 12),
            verdict.word if verdict.mark else "soft",
        )
    if len(paths) > _DISK_PATHS:
        text = f"and {len(paths) - _DISK_PATHS} more"
        canvas.words(x + 12, y + 57 + 17 * _DISK_PATHS, text, "tiny")


def size_shown(gibibytes: float) -> str:
    """Return a size in GiB, or in TiB where it is large."""
    return f"{gibibytes / 1024:.1f} TiB" if gibibytes >= 1024 else f"{gibibytes:g} GiB"  # noqa: PLR2004
