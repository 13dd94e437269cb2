"""Which models vLLM can serve, by the class names in config.json's `architectures`.

The list is that of the two locked versions; vllm_architectures.json says where it stands in vLLM's source. A
model that is not on it may still run by vLLM's Transformers backend; whether it does, only a try can tell.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Build = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Support:
    """What vLLM says of a model.

    Attributes:
        served: Whether it has a class of its own for it.
        version: The version of vLLM that was asked.
        until: The last version that served it, when a former one did.
        nearest: Names in its registry that are spelt alike.
    """

    served: bool
    version: str
    until: str | None
    nearest: tuple[str, ...]


def served_by_vllm(architectures: Sequence[str], build: Build = "cuda") -> bool:
    """Whether the locked vLLM of a build has a class for any of these names."""
    supported = _registry()[build]["supported"]
    return any(name in supported for name in architectures)


def support(architectures: Sequence[str], build: Build = "cuda") -> Support:
    """What the locked vLLM of a build says of a model, for people."""
    registry = _registry()[build]
    near = [
        name for wanted in architectures for name in get_close_matches(wanted, registry["supported"], 3, 0.9)
    ]
    until = next((registry["until"][name] for name in architectures if name in registry["until"]), None)
    return Support(
        served=served_by_vllm(architectures, build),
        version=registry["version"],
        until=until,
        nearest=tuple(dict.fromkeys(near)),
    )


@cache
def _registry() -> Mapping[str, Any]:
    text = files("citadel_llm.placement").joinpath("vllm_architectures.json").read_text(encoding="utf-8")
    registry: Mapping[str, Any] = json.loads(text)
    return registry
