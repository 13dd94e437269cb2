"""From a catalogue and what a host told of it to what is to stand there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from citadel_llm.config import Settings
from citadel_llm.placement.calibration import Measurement, variant_of
from citadel_llm.placement.deployment import Deployed, Deployment, PlacementFaultsError, deploy
from citadel_llm.placement.devices import Machine, machine_of_text
from citadel_llm.placement.refusal import PlacementRefusedError
from citadel_llm.placement.terms import GIB, PlacementError
from citadel_llm.placement.wishes import of_the_hub, wishes_of

SHAPES = Path(__file__).parent / "published" / "shapes"
TWO = machine_of_text("2x RTX 5060 Ti 16GB", 251 * GIB)
LARGE = machine_of_text("2x H200 141GB", 251 * GIB)
NOTHING = Deployed("", {})


def shape(name: str) -> dict[str, Any]:
    return dict(json.loads((SHAPES / f"{name}.json").read_text())["config"])


def model(name: str, of: str | None = "phi-3-mini-4k", **more: Any) -> dict[str, Any]:
    known = {"architecture": shape(of)} if of else {}
    return {"name": name, "source": {"kind": "folder", "path": f"/sources/{name}"}, **known, **more}


def settings(*models: dict[str, Any], **more: Any) -> Settings:
    tree = {"environment": "staging", "models_root": "/models", "models": list(models), **more}
    return Settings.model_validate(tree)


def absent(folder: str) -> dict[str, dict[str, str]]:
    return {folder: {"error": f"{folder}/config.json: cannot be read: No such file or directory"}}


def files(of: str, **changes: Any) -> dict[str, Any]:
    return {"config": shape(of) | changes, "weight_bytes": None, "tensors": None, "note": ""}


def stands(deployment: Deployment, host: Settings) -> Deployed:
    """What the role writes, read again as the next run reads it."""
    models = [
        {
            **each.model_dump(mode="json", exclude={"plan"}),
            "plan": deployment.plans[each.name].model_dump(mode="json"),
        }
        for each in host.served_models
    ]
    placement = {
        "made_from": deployment.made_from,
        "on_demand": deployment.on_demand.model_dump(mode="json"),
    }
    return Deployed.read(yaml.safe_dump({"placement": placement, "models": models}))


def test_a_plan_is_made_and_then_kept() -> None:
    host = settings(model("phi"))
    first = deploy(host, TWO, {}, [], NOTHING)
    assert first.fresh is not None
    assert first.plans["phi"].residency == "resident"
    again = deploy(host, TWO, {}, [], stands(first, host))
    assert again == replace(first, fresh=None)


def test_models_on_demand_are_told_their_memory_and_how_much_there_is() -> None:
    # The one is resident, so that something is taken from the others.
    demanded: dict[str, Any] = {"residency": "cold", "engine": {"tensor_parallel_size": 2}}
    asleep: dict[str, Any] = {"residency": "warm", "engine": {"tensor_parallel_size": 1}}
    host = settings(
        model("phi", residency="resident", engine={"kv_cache_gib": 1}),
        model("cold", **demanded),
        model("warm", **asleep),
    )
    first = deploy(host, LARGE, {}, [], NOTHING)
    assert first.fresh is not None
    assert first.plans["phi"].memory == ()
    assert [each.device for each in first.plans["cold"].memory] == [0, 1]
    assert all(each.awake_bytes > 3 * GIB and not each.asleep_bytes for each in first.plans["cold"].memory)
    (warm,) = first.plans["warm"].memory
    assert 0 < warm.asleep_bytes < warm.awake_bytes
    assert first.plans["warm"].asleep_host_bytes == first.fresh.host_asleep
    left = {each.device: each.bytes for each in first.on_demand.devices}
    uses = {use.device.index: use for use in first.fresh.uses()}
    assert left == {index: use.usable - use.resident for index, use in uses.items()}
    # So the largest of them has its room beside those that sleep.
    assert all(left[each.device] >= each.awake_bytes for each in first.plans["cold"].memory)
    again = deploy(host, LARGE, {}, [], stands(first, host))
    assert again == replace(first, fresh=None)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        pytest.param({"aliases": ["other"]}, True, id="an alias"),
        pytest.param({"engine": {"drain_timeout": 5}}, True, id="a time limit"),
        pytest.param({"engine": {"max_model_len": 2048}}, False, id="the context"),
        pytest.param({"residency": "cold"}, False, id="the residency"),
        pytest.param({"source": {"kind": "folder", "path": "/elsewhere"}}, False, id="the source"),
    ],
)
def test_a_plan_is_kept_until_a_wish_changes(change: dict[str, Any], kept: bool) -> None:
    before, after = settings(model("phi")), settings(model("phi") | change)
    first = deploy(before, TWO, {}, [], NOTHING)
    assert (deploy(after, TWO, {}, [], stands(first, before)).fresh is None) is kept


@pytest.mark.parametrize(
    "machine", [machine_of_text("2x RTX 5060 Ti 16GB", 64 * GIB), machine_of_text("1x H200 141GB", 251 * GIB)]
)
def test_a_plan_is_made_anew_for_another_machine(machine: Machine) -> None:
    host = settings(model("phi"))
    first = deploy(host, TWO, {}, [], NOTHING)
    assert deploy(host, machine, {}, [], stands(first, host)).fresh is not None


def test_a_plan_of_an_arithmetic_that_was_wrong_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    host = settings(model("phi"))
    first = deploy(host, TWO, {}, [], NOTHING)
    monkeypatch.setattr("citadel_llm.placement.deployment._ARITHMETIC", 0)
    assert deploy(host, TWO, {}, [], stands(first, host)).fresh is not None


def measured(host: Settings, **changes: Any) -> Measurement:
    known = Measurement(
        model="phi",
        variant=variant_of(host.models[0]),
        device="RTX 5060 Ti",
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        vllm="0.33.0",
        weights=8 * GIB,
        cuda_graphs=GIB // 8,
        kv_cache=2 * GIB,
    )
    return replace(known, **changes)


def test_what_was_measured_counts_when_a_new_plan_is_asked_for() -> None:
    host = settings(model("phi"))
    first = deploy(host, TWO, {}, [], NOTHING)
    known = [measured(host)]
    assert deploy(host, TWO, {}, known, stands(first, host)).fresh is None
    anew = deploy(host, TWO, {}, known, stands(first, host), vllm="0.33.0", replan=True)
    assert anew.fresh is not None
    terms = {term.name: term for term in anew.fresh.models[0].workers[0].fixed}
    assert terms["weights"].bytes == 8 * GIB
    assert "measured on this host with vLLM 0.33.0" in terms["weights"].source
    assert terms["CUDA graphs"].bytes == GIB // 8


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"variant": "{}"},
        {"device": "NVIDIA H200"},
        {"tensor_parallel_size": 2},
        {"vllm": "0.32.0"},
    ],
)
def test_what_was_measured_of_something_else_does_not_count(changes: dict[str, Any]) -> None:
    host = settings(model("phi"))
    plan = deploy(host, TWO, {}, [measured(host, **changes)], NOTHING, vllm="0.33.0").fresh
    assert plan is not None
    assert all(
        "on this host" not in term.source for worker in plan.models[0].workers for term in worker.fixed
    )


def test_a_total_that_was_more_raises_what_stands_beside_the_models_own() -> None:
    host = settings(model("phi"))
    [estimate] = wishes_of(host, {})[0]
    assert estimate.memory is not None
    [need] = estimate.memory.on(deploy(host, TWO, {}, [], NOTHING).fresh.models[0].layout, TWO.devices[0])  # type: ignore[union-attr]
    for extra, expected in ((GIB, need.fixed_bytes + GIB), (-GIB, need.fixed_bytes)):
        total = need.fixed_bytes + 2 * GIB + extra
        known = measured(host, weights=None, cuda_graphs=None, total=total)
        plan = deploy(host, TWO, {}, [known], NOTHING).fresh
        assert plan is not None
        assert sum(term.bytes for term in plan.models[0].workers[0].fixed) == expected


def test_a_measurement_is_read_as_it_was_written() -> None:
    known = measured(settings(model("phi")))
    assert Measurement.parse(known.dump()) == known


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "model": "m"}'])
def test_a_measurement_that_cannot_be_read_is_none(text: str) -> None:
    assert Measurement.parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models: [",
        "models: 3",
        "models: []",
        "placement: {made_from: x}\nmodels: [{name: m, plan: {gpus: x}}]",
    ],
)
def test_a_file_without_a_plan_in_it_holds_none(text: str) -> None:
    assert Deployed.read(text) == NOTHING


def test_what_the_catalogue_says_goes_before_the_files() -> None:
    host = settings(model("phi"))
    answers = {"/models/phi": files("phi-3-mini-4k", max_position_embeddings=2048)}
    [wish] = wishes_of(host, answers)[0]
    assert wish.memory is not None
    assert wish.memory.max_context == 4096


def test_the_files_tell_what_the_catalogue_does_not() -> None:
    host = settings(model("phi", of=None))
    answers = absent("/models/phi") | {"/sources/phi": files("phi-3-mini-4k")}
    [wish] = wishes_of(host, answers)[0]
    assert wish.memory is not None
    assert wish.memory.parameters == 3821079552


def test_the_hub_tells_what_is_not_here_yet() -> None:
    hub = {"kind": "hub", "repository": "o/phi", "revision": "1"}
    host = settings(model("phi", of=None, source=hub))
    told = of_the_hub({"o/phi@1": {"config": shape("phi-3-mini-4k"), "weight_bytes": 7642159104}})
    [wish] = wishes_of(host, absent("/models/phi") | told)[0]
    assert wish.memory is not None
    assert wish.memory.weight_bytes == 7642159104


def test_all_faults_are_told_with_their_entries() -> None:
    broken = {"/models/c": {"error": "/models/c/model.safetensors: its header is not JSON"}}
    wrong = model("b") | {"architecture": shape("phi-3-mini-4k") | {"hidden_size": -3072}}
    host = settings(model("a", of=None), wrong, model("c"), model("d"))
    answers = broken | {"/models/d": files("qwen2.5-14b")}
    with pytest.raises(PlacementFaultsError) as caught:
        deploy(host, TWO, answers, [], NOTHING)
    faults = caught.value.faults
    assert [fault.entry for fault in faults] == [
        "models[0].architecture",
        "models[1].architecture.hidden_size",
        "/models/c/model.safetensors",
        "models[3].architecture",
    ]
    assert faults[2].message == "its header is not JSON (the files of models[2], c)"
    assert "describes 7.12 GiB of weights, the files in /models/d hold 27.51" in faults[3].message


def test_what_no_engine_serves_needs_no_numbers_and_gets_no_plan() -> None:
    host = settings(model("phi"), model("imp", of=None, runtime="transformers"))
    made = deploy(host, TWO, {}, [], NOTHING)
    assert set(made.plans) == {"phi"}
    assert deploy(host, TWO, {}, [], stands(made, host)).fresh is None


def test_a_set_that_cannot_be_is_refused() -> None:
    host = settings(model("mixtral", of="mixtral-8x7b", residency="resident"))
    with pytest.raises(PlacementRefusedError) as caught:
        deploy(host, TWO, {}, [], NOTHING)
    assert isinstance(caught.value, PlacementError)
    assert "too much" in str(caught.value)
