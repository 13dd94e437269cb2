"""What a plan says, and what becomes of what is left."""

from dataclasses import replace
from typing import Any

import pytest

from citadel_llm.config.schema import EnginePlan, Placement
from citadel_llm.placement.devices import machine_of_host
from citadel_llm.placement.plan import Plan, WorkerPlan
from citadel_llm.placement.planner import make_plan, must_be_free
from citadel_llm.placement.refusal import PlacementRefusedError
from citadel_llm.placement.segments import segments_of
from citadel_llm.placement.terms import GIB, MIB, Term
from citadel_llm.placement.text import bar, explanation, plan_text

from .synthetic import SHARE, gpus, plan, wish, wishes


def states(result: Plan) -> dict[str, str]:
    return {model.name: model.residency for model in result.models}


@pytest.mark.parametrize(
    ("sizes", "host", "models", "expected"),
    [
        # There is room for all.
        ((16, 16), 64, [("a", 7), ("b", 9)], {"a": "resident", "b": "resident"}),
        # The first of the catalogue goes first.
        ((16,), 64, [("a", 7), ("b", 9)], {"a": "warm", "b": "warm"}),
        ((16, 16), 64, [("a", 7), ("b", 9), ("c", 9)], {"a": "resident", "b": "warm", "c": "warm"}),
        # The host's memory has no room to sleep in.
        ((16,), 8, [("a", 7), ("b", 5)], {"a": "cold", "b": "warm"}),
        # Asleep, it would hold what the other needs when awake.
        ((16,), 64, [("a", 7), ("b", 12.9)], {"a": "cold", "b": "warm"}),
        # What an entry says is kept, whatever it costs the others.
        ((16,), 64, [("a", 5), ("b", 5, {"residency": "resident"})], {"a": "resident", "b": "resident"}),
        (
            (16,),
            64,
            [("a", 6), ("b", 5, {"residency": "resident"}), ("c", 6)],
            {"a": "warm", "b": "resident", "c": "warm"},
        ),
        ((16,), 64, [("a", 1, {"residency": "cold"})], {"a": "cold"}),
    ],
)
def test_who_is_awake(
    sizes: tuple[float, ...], host: float, models: list[Any], expected: dict[str, str]
) -> None:
    result = plan(gpus(*sizes, host=host), *models)
    assert states(result) == expected
    assert result.complete


def test_to_be_awake_no_model_is_laid_over_more_gpus_than_it_needs() -> None:
    result = plan(gpus(24, 24, 24), ("a", 15), ("big", 34, {"residency": "cold"}), ("b", 8))
    assert [len(model.devices) for model in result.models] == [1, 2, 1]


def test_a_gpu_that_is_filled_to_the_brim() -> None:
    bare = {"overhead": 0, "rest": 0, "token": 0}
    result = plan(gpus(16), ("a", 7.3, bare), ("b", 7.3, bare))
    assert states(result) == {"a": "resident", "b": "resident"}


def test_the_emptiest_gpu_is_taken() -> None:
    result = plan(gpus(16, 16), ("a", 3), ("b", 3))
    assert {model.devices for model in result.models} == {(0,), (1,)}
    result = plan(gpus(16, 80, 16), ("a", 3))
    assert result.models[0].devices == (1,)
    # A card of its own before a share of the largest.
    result = plan(gpus(16, 80), ("a", 7), ("b", 3))
    assert [model.devices for model in result.models] == [(1,), (0,)]


def test_the_first_of_the_catalogue_gets_its_context_first() -> None:
    # 14.72 usable; 2 x (5 + 1) fixed; 2.72 left: at 128 KiB a token 22,000 tokens.
    first, second = plan(gpus(16), ("a", 5), ("b", 5)).models
    assert (first.context, second.context) == (18176, 4096)
    assert first.kv_cache + second.kv_cache <= 2.72 * GIB
    assert "all 32768 that it was made for would take 1.78 GiB more" in first.why[-1]


def test_what_is_left_is_shared_equally() -> None:
    entry = {"engine": {"max_model_len": 4096}}
    first, second = plan(gpus(16), ("a", 5, entry), ("b", 4, entry)).models
    # Shared in whole MiB; the last one is one's or the other's.
    assert abs(first.kv_cache - second.kv_cache) <= MIB
    assert first.kv_cache > 1.8 * GIB
    assert first.requests == first.kv_cache // (GIB // 2)


def test_a_kv_cache_is_no_larger_than_what_can_be_used() -> None:
    [model] = plan(gpus(80), ("a", 5, {"token": 1 << 10, "engine": {"max_model_len": 1024}})).models
    assert model.kv_cache <= 256 * GIB // 1024
    assert model.requests >= 255


def test_what_the_entry_says_of_the_kv_cache_is_obeyed() -> None:
    [model] = plan(gpus(80), ("a", 5, {"engine": {"kv_cache_gib": 2}})).models
    assert model.kv_cache == 2 * GIB
    assert model.context == 16384
    assert "kv_cache_gib allows" in model.why[-1]


def test_a_model_that_was_made_for_less_than_the_least_context() -> None:
    [model] = plan(gpus(16), ("a", 5, {"max_context": 512})).models
    assert model.context == 512


def test_the_engines_get_what_the_plan_says() -> None:
    result = plan(gpus(16, 16), ("a", 20, {"engine": {"max_model_len": 2048}}))
    [model] = result.models
    assert result.engine_plans() == {
        "a": EnginePlan(
            residency="resident",
            gpus=model.devices,
            tensor_parallel_size=1,
            pipeline_parallel_size=2,
            max_model_len=2048,
            kv_cache_bytes=model.kv_cache,
            gpu_memory_utilization=model.gpu_memory_utilization,
        )
    }


def test_what_must_be_free_is_what_vllm_takes_after_it_has_looked() -> None:
    # Without the context that it has made by then, and of the stage that takes the least: its GPU may be the
    # one with the least left.
    result = plan(gpus(16, 16), ("a", 20, {"engine": {"max_model_len": 2048}}))
    [model] = result.models
    first, last = model.workers
    lighter = replace(first, fixed=(*first.fixed, Term("runtime", GIB, "")))
    heavier = replace(last, fixed=(*last.fixed, Term("weights", GIB, "")))
    share = must_be_free([lighter, heavier], result.machine.devices)
    assert 0 <= (lighter.awake_bytes - GIB) / (16 * GIB) - share < 1e-4
    assert must_be_free([replace(first, fixed=(), kv_cache=0)], result.machine.devices[:1]) == 1e-4


def test_arguments_that_the_plan_does_not_read_are_a_warning() -> None:
    arguments = ["--max_num_seqs=512", "--seed", "1", "--speculative-config", "{}"]
    result = plan(gpus(16), ("a", 5, {"engine": {"extra_args": arguments}}))
    [warning] = result.models[0].warnings
    assert warning.startswith(
        "models[0].engine.extra_args has --max_num_seqs=512, --speculative-config, whose"
    )
    assert warning in plan_text(result)


def test_a_model_of_another_runtime_is_planned_and_not_served() -> None:
    other = replace(wish("b", 99, 1, runtime="transformers"), memory=None)
    result = make_plan(SHARE, "cuda", gpus(16), [wish("a", 5), other])
    assert [each.name for each in result.unserved] == ["b"]
    assert list(result.engine_plans()) == ["a"]
    assert "b: not served here: this release has no engine for runtime transformers." in plan_text(result)


def test_on_the_cpu_build() -> None:
    host = machine_of_host(16 * GIB, "a test")
    result = make_plan(Placement(), "cpu", host, wishes(("a", 3), ("b", 4), ("c", 5)))
    # 12 GiB may be taken, each takes its weights, 1, and 1 of KV cache: c beside a fills it.
    assert states(result) == {"a": "resident", "b": "cold", "c": "cold"}
    for model in result.models:
        assert model.gpu_memory_utilization is None
        assert model.kv_cache % GIB == 0
        assert model.kv_cache >= GIB
    assert result.engine_plans()["a"].gpus == ()
    assert "CPU" in plan_text(result)
    assert "kept back (25%)" in plan_text(result)
    with pytest.raises(PlacementRefusedError, match="sleeping in host memory needs a GPU"):
        make_plan(Placement(), "cpu", host, [wish("a", 3, residency="warm")])


def test_the_json() -> None:
    tree = plan(gpus(16, 16), ("a", 7), ("c", 22)).as_json()
    assert tree["fits"] is True
    assert [device["index"] for device in tree["devices"]] == [0, 1]
    for device in tree["devices"]:
        parts = ("resident_bytes", "asleep_bytes", "on_demand_bytes", "free_bytes")
        assert sum(device[part] for part in parts) == device["usable_bytes"]
    worker = tree["models"][0]["workers"][0]
    assert sum(term["bytes"] for term in worker["terms"]) == worker["awake_bytes"]
    assert all(term["source"] for term in worker["terms"])


def test_on_demand_counts_what_comes_on_top_of_what_is_held_asleep() -> None:
    result = plan(gpus(16), ("a", 7), ("b", 8))
    [use] = result.uses()
    segments = {(each.kind, each.model): each for each in segments_of(result, use)}
    # Held asleep is half a GiB of each; no term of that name is there awake, so it comes off the last one.
    assert segments["asleep", "a"].bytes == segments["asleep", "b"].bytes == GIB // 2
    [on_demand] = [each for each in segments.values() if each.kind == "on demand"]
    assert dict(on_demand.parts)["activation"] == GIB // 2
    assert on_demand.bytes == use.on_demand
    fixed = (Term("weights", 5, ""), Term("CUDA graphs", 2, ""), Term("runtime", 3, ""))
    worker = WorkerPlan(0, fixed, (Term("runtime", 3, ""), Term("CUDA graphs", 1, "")), 4)
    moved = replace(result.models[0], workers=(worker,), residency="warm")
    alone = replace(result, models=(moved,))
    parts = {each.kind: each.parts for each in segments_of(alone, alone.uses()[0])}
    assert parts["on demand"] == (("weights", 5), ("KV cache", 4), ("CUDA graphs", 1))


def test_the_terminal() -> None:
    result = plan(gpus(16, 16), ("a", 7), ("b", 9), ("c", 22))
    text = plan_text(result)
    for model in result.models:
        assert model.name in text
        assert all(sentence in explanation(model) for sentence in model.why)
    assert "▒ the largest on demand" in text
    for use in result.uses():
        assert len(bar(segments_of(result, use), 48)) == 48


def test_each_replica_takes_its_own_memory_and_all_have_one_context() -> None:
    two = {"engine": {"replicas": 2}}
    result = plan(gpus(16, 16), ("a", 7, two))
    assert [(model.name, model.entry, model.replica) for model in result.models] == [
        ("a", "models[0]", 1),
        ("a.2", "models[0]", 2),
    ]
    assert {model.devices for model in result.models} == {(0,), (1,)}
    # Where they share what is left with another model, both have the longest context that both can have.
    result = plan(gpus(16, 16), ("b", 4, {"residency": "resident", "engine": {"gpus": [0]}}), ("a", 7, two))
    first, second = result.models[1:]
    assert first.context == second.context
    assert all(use.free >= 0 for use in result.uses())
    # On one device, too.
    first, second = plan(gpus(24), ("a", 7, two)).models
    assert first.devices == second.devices == (0,)
    assert first.context == second.context > 4096
    assert "a.2" in plan_text(result)
    assert "its entry asks for 2 engines" in explanation(first)

    plans = plan(gpus(16, 24), ("a", 7, {"engine": {"replicas": 2, "gpus": [1, 0]}})).engine_plans()
    assert (plans["a"].gpus, [each.gpus for each in plans["a"].replicas]) == ((1,), [(0,)])
    assert plans["a"].of_replica(2).gpus == (0,)
    assert EnginePlan.model_validate(plans["a"].model_dump(mode="json")) == plans["a"]


def test_too_many_replicas_are_refused_with_how_many_would_fit() -> None:
    with pytest.raises(PlacementRefusedError) as caught:
        plan(gpus(16, 16), ("a", 9, {"engine": {"replicas": 4}}))
    assert "a.2" in str(caught.value)
    settings = [each.settings for each in caught.value.suggestions]
    assert ("models[0].engine.replicas: 2",) in settings
    assert ("models[0].engine.replicas: 3",) not in settings
    # Alone it would not fit either: that is said once.
    with pytest.raises(PlacementRefusedError) as caught:
        plan(gpus(16), ("a", 20, {"engine": {"replicas": 3}}))
    assert len(caught.value.reasons) == 1


def test_replicas_on_the_cpu_build_share_the_hosts_memory() -> None:
    machine = machine_of_host(int(64 * GIB), "a test")
    result = make_plan(SHARE, "cpu", machine, wishes(("a", 7, {"engine": {"replicas": 3}})))
    alone = make_plan(SHARE, "cpu", machine, wishes(("a", 7)))
    assert result.uses()[0].resident == 3 * alone.uses()[0].resident
    assert [each.gpus for each in result.engine_plans()["a"].replicas] == [(), ()]
