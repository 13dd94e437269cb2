"""The picture: well-formed, complete, and no text lies on another or outside, for one GPU as for 64."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest

from citadel_llm.placement.devices import machine_of_host, machine_of_text
from citadel_llm.placement.picture import WIDTH, picture
from citadel_llm.placement.plan import Plan
from citadel_llm.placement.planner import make_plan
from citadel_llm.placement.svg import LETTER
from citadel_llm.placement.terms import GIB

from .synthetic import SHARE, gpus, plan, wishes

SVG = "{http://www.w3.org/2000/svg}"


def many(count: int) -> Plan:
    chance = random.Random(count)  # noqa: S311 - only so that it varies
    sizes = [chance.choice((1, 2, 4, 7, 9, 14)) for _ in range(min(200, 4 * count))]
    machine = machine_of_text(f"{count}x NVIDIA RTX PRO 6000 Blackwell Server Edition 24GB", 256 * GIB)
    names = (f"organisation-model-{at}-{size}b-instruct-awq" for at, size in enumerate(sizes))
    return make_plan(SHARE, "cuda", machine, wishes(*zip(names, sizes, strict=True)))


PLANS: dict[str, Callable[[], Plan]] = {
    "one GPU, one model": lambda: plan(gpus(16), ("a", 5)),
    "none at all": lambda: plan(gpus(16, 16)),
    "on demand": lambda: plan(gpus(16, 16), ("a", 7), ("b", 9), ("c", 22)),
    "names with signs": lambda: plan(gpus(16), ("a.b-c_d", 5)),
    "the CPU": lambda: make_plan(SHARE, "cpu", machine_of_host(24 * GIB, "t"), wishes(("a", 1), ("b", 2))),
    **{f"{count} GPUs": partial(many, count) for count in (2, 3, 8, 9, 16, 33, 64)},
}


def boxes(tree: Any) -> Iterator[tuple[float, float, float, float, str]]:
    """Where each text is: left, top, right, bottom; its width from the widest font's letters."""
    for each in tree.iter(f"{SVG}text"):
        size = float(each.get("font-size"))
        width = len(each.text) * size * LETTER
        left = float(each.get("x")) - (width / 2 if each.get("text-anchor") == "middle" else 0)
        base = float(each.get("y"))
        yield left, base - 0.8 * size, left + width, base + 0.2 * size, each.text


@pytest.mark.parametrize("name", PLANS)
def test_no_text_lies_on_another_or_outside(name: str) -> None:
    tree = ElementTree.fromstring(picture(PLANS[name]()))  # noqa: S314 - our own
    height = float(str(tree.get("viewBox")).split()[3])
    found = list(boxes(tree))
    assert len(found) > 4
    for left, top, right, bottom, words in found:
        assert left >= 0, words
        assert right <= WIDTH, words
        assert top >= 0, words
        assert bottom <= height, words
    for first, second in combinations(found, 2):
        apart = (
            first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
        )
        assert apart, (first, second)


@pytest.mark.parametrize("name", PLANS)
def test_a_bar_is_as_long_as_its_memory(name: str) -> None:
    tree = ElementTree.fromstring(picture(PLANS[name]()))  # noqa: S314 - our own
    rects = [(each.get("class"), each) for each in tree.iter(f"{SVG}rect")]
    frames = [each for kind, each in rects if kind == "frame"]
    for frame in frames:
        left = float(frame.get("x") or 0)
        right = left + float(frame.get("width") or 0)
        inside = [
            each
            for _, each in rects
            if each.get("y") == frame.get("y") and float(each.get("x") or 0) >= left - 0.1
        ]
        for each in inside:
            assert float(each.get("x") or 0) + float(each.get("width") or 0) <= right + 0.2


def test_it_is_told_to_those_who_do_not_see_it() -> None:
    result = plan(gpus(16, 16), ("a", 7), ("b", 9), ("c", 22))
    tree = ElementTree.fromstring(picture(result))  # noqa: S314 - our own
    assert tree.get("role") == "img"
    assert tree.findtext(f"{SVG}title") == "3 models on 2 GPUs"
    described = str(tree.findtext(f"{SVG}desc"))
    for words in ("GPU 0: ", "GPU 1: ", "a: asleep", "c: "):
        assert words in described


def test_it_is_the_same_each_time() -> None:
    assert picture(many(9)) == picture(many(9))
