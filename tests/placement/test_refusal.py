"""Refusals and what is suggested, with what real models need."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from citadel_llm.config.schema import Model, Placement
from citadel_llm.placement.devices import machine_of_text
from citadel_llm.placement.memory import memory_of
from citadel_llm.placement.numbers import numbers_of_catalogue
from citadel_llm.placement.options import Wish
from citadel_llm.placement.plan import Plan
from citadel_llm.placement.planner import make_plan
from citadel_llm.placement.refusal import PlacementRefusedError
from citadel_llm.placement.terms import GIB

from .samples import shape

CARD = "RTX 5060 Ti 16GB"


def real(name: str, at: int, *, awq: bool = False, engine: dict[str, Any] | None = None, **more: Any) -> Wish:
    """A model of a published shape."""
    config = copy.deepcopy(shape(name)["config"])
    if awq:
        config["quantization_config"] = {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 128,
            "zero_point": True,
        }
    tree = {"name": name, "source": {"kind": "folder", "path": "/m"}, "architecture": config, **more}
    model = Model.model_validate({**tree, "engine": engine or {}})
    return made(model, f"models[{at}]")


def made(model: Model, entry: str) -> Wish:
    numbers = numbers_of_catalogue(model, entry)
    return Wish(model, memory_of(model, numbers, "cuda", entry), entry, numbers)


def refused(gpus: str, *wishes: Wish) -> PlacementRefusedError:
    with pytest.raises(PlacementRefusedError) as error:
        planned(gpus, *wishes)
    return error.value


def planned(gpus: str, *wishes: Wish) -> Plan:
    return make_plan(Placement(), "cuda", machine_of_text(gpus, 64 * GIB), wishes)


def settings(error: PlacementRefusedError) -> list[tuple[str, ...]]:
    return [each.settings for each in error.suggestions]


def test_a_model_that_is_too_large_for_the_machine() -> None:
    error = refused(f"1x {CARD}", real("llama-3.1-8b", 0))
    [reason] = error.reasons
    assert reason.missing is not None
    assert "models[0] (llama-3.1-8b) does not fit even alone: weights 14.96 + KV cache 0.50 + " in reason.text
    assert f"{reason.missing / GIB:.2f} GiB too much" in reason.text
    assert settings(error) == [
        ("models[0].engine.quantization: fp8",),
        ("models[0].engine.quantization: awq",),
    ]


def test_the_suggested_quantizations_fit_when_they_are_set() -> None:
    wish = real("llama-3.1-8b", 0, engine={"quantization": "fp8"})
    assert planned(f"1x {CARD}", wish).models[0].quantization.startswith("fp8")
    assert planned(f"1x {CARD}", real("llama-3.1-8b", 0, awq=True)).models[0].quantization == "awq"


def test_two_that_want_to_be_awake_on_one_gpu() -> None:
    phi = real("phi-3-mini-4k", 0, residency="resident")
    qwen = real("qwen2.5-14b", 1, awq=True, engine={"max_model_len": 8192}, residency="resident")
    error = refused(f"1x {CARD}", phi, qwen)
    [reason] = error.reasons
    assert reason.device == 0
    assert reason.text.startswith("GPU 0: 14.65 GiB usable; phi-3-mini-4k: weights 7.12 + KV cache 1.5")
    assert "qwen2.5-14b: weights 9.29" in reason.text
    # Neither can be awake beside the other even on demand: only both together, or one alone.
    assert ("models[0].residency: auto", "models[1].residency: auto") in settings(error)
    assert ("models[1] removed",) in settings(error)
    freed = [replace(each, model=each.model.model_copy(update={"residency": "auto"})) for each in (phi, qwen)]
    assert "resident" not in [each.residency for each in planned(f"1x {CARD}", *freed).models]


def test_only_those_that_can_never_be_are_left_out_of_many() -> None:
    # The first of the catalogue, among more than are tried one by one.
    many = [real("phi-3-mini-4k", at) for at in range(20)]
    many[0] = real("deepseek-v3", 0)
    many[7] = real("phi-3-mini-4k", 7, engine={"tensor_parallel_size": 3})
    named = [
        replace(each, model=each.model.model_copy(update={"name": f"m{at}"})) for at, each in enumerate(many)
    ]
    error = refused(f"2x {CARD}", *named)
    assert ("models[0] removed", "models[7] removed") in settings(error)
    assert "(m7) has no place: its shape cannot be laid out with tensor_parallel_size 3 on 2" in str(error)


def test_pinned_to_one_gpu_while_another_is_free() -> None:
    first = real("phi-3-mini-4k", 0, engine={"gpus": [0]}, residency="resident")
    second = real("phi-3-mini-4k", 1, engine={"gpus": [0]}, residency="resident")
    second = replace(second, model=second.model.model_copy(update={"name": "phi-again"}))
    error = refused(f"2x {CARD}", first, second)
    assert settings(error)[:2] == [("models[0].engine.gpus: []",), ("models[1].engine.gpus: []",)]


def test_a_context_that_is_too_long() -> None:
    error = refused(f"1x {CARD}", real("phi-3-mini-4k", 0, engine={"concurrent_requests": 6}))
    assert ("models[0].engine.kv_cache_dtype: fp8",) in settings(error)
    assert ("models[0].engine.concurrent_requests: 3",) in settings(error)
    error = refused(f"1x {CARD}", real("qwen2.5-14b", 0, awq=True, engine={"max_model_len": 32768}))
    [context] = [each for each, *_ in settings(error) if "max_model_len" in each]
    too_long = refused(f"1x {CARD}", real("phi-3-mini-4k", 0, engine={"max_model_len": 5000}))
    assert ("models[0].engine.max_model_len: 4096",) in settings(too_long)
    shorter = int(context.split(": ")[1])
    assert shorter < 32768
    assert (
        planned(f"1x {CARD}", real("qwen2.5-14b", 0, awq=True, engine={"max_model_len": shorter}))
        .models[0]
        .context
        == shorter
    )


def test_more_asleep_than_the_hosts_memory_holds() -> None:
    wishes = [real("llama-3.1-8b", at, awq=False, residency="warm") for at in range(4)]
    named = [
        replace(each, model=each.model.model_copy(update={"name": f"llama-{at}"}))
        for at, each in enumerate(wishes)
    ]
    error = refused("1x L40S 48GB", *named)
    [reason] = error.reasons
    assert reason.text.startswith("Host memory: 48.00 GiB usable; asleep in it: llama-0 14.96 GiB + ")
    assert "11.83 GiB too much" in reason.text
    assert settings(error)[0] == ("models[0].residency: cold",)


def test_no_gpu_at_all() -> None:
    from citadel_llm.placement.devices import Machine  # noqa: PLC0415

    with pytest.raises(PlacementRefusedError, match=r"the machine has 0 GPUs \(a report\)"):
        make_plan(Placement(), "cuda", Machine((), (), GIB, "a report"), [real("phi-3-mini-4k", 0)])


def test_an_architecture_that_vllm_does_not_know() -> None:
    wish = real("phi-3-mini-4k", 0)
    assert wish.numbers is not None
    config = {**wish.numbers.config, "architectures": ["ImpForCausalLM"]}
    error = refused(f"1x {CARD}", replace(wish, numbers=replace(wish.numbers, config=config)))
    assert "models[0].runtime: ImpForCausalLM of phi-3-mini-4k is not in the registry of vLLM" in str(error)
    assert "runtime: transformers" in str(error)


def test_the_refusal_for_programs() -> None:
    tree = refused(f"1x {CARD}", real("llama-3.1-8b", 0)).as_json()
    assert tree["fits"] is False
    assert tree["reasons"][0]["missing_bytes"] > 0
    assert tree["reasons"][0]["models"] == ["llama-3.1-8b"]
    assert tree["suggestions"][0]["settings"] == ["models[0].engine.quantization: fp8"]
