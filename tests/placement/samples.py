"""Models of published shapes, as the tests of the arithmetic need them."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

from citadel_llm.config.schema import Model
from citadel_llm.placement.memory import EngineMemory, memory_of
from citadel_llm.placement.numbers import Numbers, numbers_of_catalogue
from citadel_llm.placement.terms import GIB, Device

PUBLISHED = Path(__file__).parent / "published"
SHAPES = sorted(file.stem for file in (PUBLISHED / "shapes").glob("*.json"))
H100 = Device("cuda", 0, "NVIDIA H100 80GB HBM3", int(79.18 * GIB), (9, 0))
SMALL = Device("cuda", 0, "NVIDIA GeForce RTX 5060 Ti", int(15.9 * GIB), (12, 0))
HOST = Device("cpu", 0, "host", 24 * GIB)


@cache
def shape(name: str) -> dict[str, Any]:
    """One file of published/shapes; its config is shared, so copy it before changing it."""
    read: dict[str, Any] = json.loads((PUBLISHED / "shapes" / f"{name}.json").read_text(encoding="utf-8"))
    return read


@cache
def recorded(name: str) -> Any:
    """One of the recordings beside the shapes."""
    return json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))


def entry(config: dict[str, Any], weight_bytes: int | None = None, **engine: Any) -> Model:
    """An entry of the catalogue."""
    tree = {
        "name": "m",
        "source": {"kind": "folder", "path": "/x"},
        "architecture": config,
        "weight_bytes": weight_bytes,
        "engine": engine,
    }
    return Model.model_validate(tree)


def memory(
    config: str | dict[str, Any],
    build: Literal["cuda", "cpu"] = "cuda",
    weight_bytes: int | None = None,
    tensors: dict[str, Any] | None = None,
    **engine: Any,
) -> EngineMemory:
    """What a published shape, or a config.json, needs."""
    if isinstance(config, str):
        config = dict(shape(config)["config"])
    model = entry(config, weight_bytes, **engine)
    numbers = numbers_of_catalogue(model, "models[0]")
    if tensors is not None:
        numbers = Numbers(config, weight_bytes, tensors, "the files in /x", "/x/config.json")
    made = memory_of(model, numbers, build, "models[0]")
    assert isinstance(made, EngineMemory)
    return made
