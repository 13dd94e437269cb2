"""Draw the GPUs below the NUMA nodes that they hang on, and how they are joined."""

import textwrap
from collections.abc import Callable

from .canvas import Canvas, State, fitting
from .terms import Facts

_KINDS = {
    "nvlink": "NVLink",
    "switch": "one PCIe switch",
    "bridge": "one host bridge",
    "socket": "one socket",
    "sockets": "across sockets",
}
_WIDEST, _NARROW = 210.0, 96.0
_HEIGHT, _WIRES = 98.0, 74.0
_MOST_WORDS = 3
# More cards than these get narrow boxes.
_FEW = 10


def draw_gpus(
    canvas: Canvas,
    facts: Facts,
    state: Callable[[str], State],
    *,
    nodes: dict[int, tuple[float, float]],
    frame: tuple[float, float],
    y: float,
) -> float:
    """Draw the GPUs; return where they end.

    Args:
        canvas: Where to.
        facts: The facts of the machine.
        state: Tells a part's state.
        nodes: The point below each NUMA node.
        frame: The left edge and the width.
        y: Where the nodes end.
    """
    left, inner = frame
    gpus, missing = ordered(facts), facts.get("gpus_missing") or []
    together = state("gpus")
    if not gpus and not missing:
        y += 20
        canvas.box(left, y, inner, 44, "bad-box" if together.failed else "missing")
        canvas.words(left + 14, y + 27, fitting(f"No GPUs: {facts['gpus_reason']}", inner - 130), "soft")
        canvas.mark(left + inner - 14, y + 27, together)
        return y + 44
    top, count = y + _WIRES, len(gpus) + len(missing)
    gap = 14 if count <= _FEW else 6
    step = min(_WIDEST + gap, (inner + gap) / count)
    # Few cards stand in the middle.
    start = left + (inner + gap - step * count) / 2
    centres = {gpu["index"]: start + step * place + (step - gap) / 2 for place, gpu in enumerate(gpus)}
    _wires(canvas, gpus, facts["gpu_links"], centres=centres, nodes=nodes, heights=(y, top))
    for gpu in gpus:
        x = centres[gpu["index"]] - (step - gap) / 2
        draw = _gpu if count <= _FEW else _small_gpu
        draw(canvas, gpu, state(f"gpu:{gpu['index']}"), (x, top, step - gap))
    for place, gone in enumerate(missing, start=len(gpus)):
        x, width = start + step * place, step - gap
        canvas.box(x, top, width, _HEIGHT, "bad-box", title=f"{gone['pci_address']} {gone['reason']}")
        canvas.words(x + 8, top + 22, "\u2717 lost", "bad")
        canvas.words(x + 8, top + 42, fitting(gone["pci_address"], width - 14, 12), "soft")
        canvas.words(x + 8, top + 60, fitting(gone["reason"], width - 14, 11), "tiny")
    y = _joints(canvas, facts["gpu_links"], centres, top + _HEIGHT)
    if together.mark:
        canvas.words(left + inner, y + 18, f"GPUs together {together.mark}", together.word, "end")
    return _words(canvas, facts["gpu_links"], left, y)


def ordered(facts: Facts) -> list[Facts]:
    """Return the GPUs so that those of one NUMA node stand together."""
    return sorted(facts["gpus"], key=lambda gpu: (gpu.get("numa_node") or 0, gpu["index"]))


def _gpu(canvas: Canvas, gpu: Facts, state: State, place: tuple[float, float, float]) -> None:
    x, y, width = place
    link = gpu.get("pcie") or {}
    lanes = f"PCIe {link['generation_max']} x{link['width_max']}" if link.get("generation_max") else ""
    name = gpu["name"].removeprefix("NVIDIA ").removeprefix("GeForce ")
    canvas.box(x, y, width, _HEIGHT, state.box, title=f"{gpu['name']}, {gpu['uuid']}")
    canvas.words(x + 10, y + 21, fitting(f"GPU {gpu['index']}", width - 16), "name")
    wide = width > _NARROW + 40
    if wide:
        canvas.mark(x + width - 10, y + 21, state)
    elif state.mark:
        canvas.words(x + width - 8, y + 21, state.sign.strip(), state.word, "end")
    lines = [name] if wide else textwrap.wrap(name, max(6, int((width - 16) / 7.2)))[:2]
    for line, text in enumerate(lines):
        canvas.words(x + 10, y + 40 + 15 * line, fitting(text, width - 12, 12), "soft")
    canvas.words(x + 10, y + 40 + 16 * len(lines) + 2, f"{gpu['memory_mib'] / 1024:.1f} GiB", "soft")
    modes = [f"ECC {gpu['ecc']}"] if wide and gpu.get("ecc") in ("enabled", "disabled") else []
    modes += ["MIG on"] if gpu.get("mig") == "enabled" else []
    last = " \u00b7 ".join(part for part in (lanes, *modes) if part)
    canvas.words(x + 10, y + _HEIGHT - 11, fitting(last, width - 14, 11), "tiny")


def _small_gpu(canvas: Canvas, gpu: Facts, state: State, place: tuple[float, float, float]) -> None:
    x, y, width = place
    gibibytes = f"{gpu['memory_mib'] / 1024:.0f} GiB"
    canvas.box(x, y, width, _HEIGHT, state.box, title=f"{gpu['name']}, {gpu['uuid']}")
    canvas.words(x + width / 2, y + 26, f"{gpu['index']}", "title", "middle")
    canvas.words(x + width / 2, y + 52, fitting(gibibytes, width, 11), "tiny", "middle")
    canvas.words(x + width / 2, y + 80, state.sign.strip(), state.word, "middle")


def groups(indices: list[int], links: list[Facts], kinds: tuple[str, ...]) -> list[list[int]]:
    """Return the GPUs put together that a chain of such links joins."""
    found: list[list[int]] = []
    for index in indices:
        joined = [
            group
            for group in found
            if any(
                link["kind"] in kinds and index in link["gpus"] and set(link["gpus"]) & set(group)
                for link in links
            )
        ]
        found = [group for group in found if group not in joined]
        found.append(sorted([index, *(one for group in joined for one in group)]))
    return sorted(found)


def _wires(
    canvas: Canvas,
    gpus: list[Facts],
    links: list[Facts],
    *,
    centres: dict[int, float],
    nodes: dict[int, tuple[float, float]],
    heights: tuple[float, float],
) -> None:
    """Draw PCIe from each NUMA node to its GPUs, through the switches and bridges that they share."""
    above, below = heights
    middle = above + 36
    by_node: dict[int, list[int]] = {}
    for gpu in gpus:
        node = gpu.get("numa_node")
        by_node.setdefault(node if node in nodes else min(nodes), []).append(gpu["index"])
    for node, indices in sorted(by_node.items()):
        x, y = nodes[node]
        for group in groups(indices, links, ("switch",)):
            centre = sum(centres[index] for index in group) / len(group)
            canvas.path([(x, y), (x, y + 12), (centre, y + 12), (centre, middle - 11)], "wire")
            for index in group:
                ends = [(centre, middle + 11), (centre, below - 14), (centres[index], below - 14)]
                canvas.path([*ends, (centres[index], below)], "wire")
            name = "PCIe switch" if len(group) > 1 else "PCIe"
            width = len(name) * 7 + 16
            canvas.box(centre - width / 2, middle - 11, width, 22, "inner")
            canvas.words(centre, middle + 4, name, "tiny", "middle")


def _joints(canvas: Canvas, links: list[Facts], centres: dict[int, float], y: float) -> float:
    """Draw NVLink: a bar below all where each pair has it, else a bow for each pair; return where it ends."""
    joined = [link for link in links if link["kind"] == "nvlink"]
    if not joined:
        return y
    if len(joined) == len(links):
        places = sorted(centres.values())
        for x in places:
            canvas.path([(x, y + 2), (x, y + 20)], "link")
        canvas.path([(places[0], y + 20), (places[-1], y + 20)], "link")
        labels = sorted({link["label"] for link in joined})
        text = f"NVLink between all pairs ({', '.join(labels)})"
        canvas.words((places[0] + places[-1]) / 2, y + 40, text, "link-word", "middle")
        return y + 44
    for link in joined:
        first, second = (centres[index] for index in link["gpus"])
        canvas.arc((first, y + 3), (second, y + 3), 40, "link")
        canvas.words((first + second) / 2, y + 47, f"NVLink {link['label']}", "link-word", "middle")
    return y + 50


def _words(canvas: Canvas, links: list[Facts], left: float, y: float) -> float:
    """Say how the pairs without NVLink are joined, and whether they copy to each other directly."""
    pairs_of: dict[tuple[str, str], list[str]] = {}
    for link in links:
        key = (str(_KINDS.get(link["kind"], link["kind"])), peer_shown(link["peer_to_peer"]))
        pairs_of.setdefault(key, []).append("-".join(str(index) for index in link["gpus"]))
    for (kind, peer), pairs in sorted(pairs_of.items()):
        which = f"GPUs {', '.join(pairs)}" if len(pairs) <= _MOST_WORDS else f"{len(pairs)} pairs of GPUs"
        y += 18
        canvas.words(left, y, f"{which}: {kind}, {peer}", "soft")
    return y + 4


def peer_shown(word: str) -> str:
    """Return for people what the driver says of peer-to-peer."""
    told = {"ok": "peer-to-peer works", "unknown": "peer-to-peer not known"}
    return told.get(word, f"no peer-to-peer ({word})")
