"""What the names that clients ask for stand for, and for whom; and the retry budget."""

from collections import Counter
from typing import Any

import pytest

from citadel_llm.config.gateway import Alias, WeightedModel
from citadel_llm.gateway.errors import ModelNotFoundError
from citadel_llm.gateway.routing.names import Names
from citadel_llm.gateway.routing.retries import RetryBudget

from .parts import Clock, make_engine, make_key, make_model


def make_names(*, third: float = 1.0) -> Names:
    clock = Clock()
    models = {name: make_model(clock, [make_engine(clock, name)], name=name) for name in ("a", "b", "c")}
    parts = (WeightedModel(model="a", weight=3), WeightedModel(model="b", weight=third))
    return Names(models, [Alias(name="mix", models=parts)], {"a": ("c", "b"), "b": ("c",)})


def names_of(names: Names, name: str, affinity: bytes = b"", **key: object) -> list[str]:
    return [model.name for model in names.route(name, make_key(**key), affinity)]


def refusal(names: Names, name: str, **key: object) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        names.route(name, make_key(**key))
    return str(caught.value)


def test_a_name_leads_to_its_model_and_then_to_those_that_stand_in_for_it() -> None:
    names = make_names()
    assert names_of(names, "a") == ["a", "c", "b"]
    assert names_of(names, "c") == ["c"]
    assert names.find("b").name == "b"


def test_a_weighted_name_gives_each_model_its_share_and_each_session_always_the_same() -> None:
    names = make_names()
    sessions = [b"user %d" % number for number in range(4000)]
    first = {session: names_of(names, "mix", session)[0] for session in sessions}
    assert 2700 < Counter(first.values())["a"] < 3300
    assert first == {session: names_of(names, "mix", session)[0] for session in sessions}
    assert 2600 < Counter(names_of(names, "mix")[0] for _ in range(4000))["a"] < 3400
    assert set(names_of(names, "mix")) == {"a", "b", "c"}
    # With more weight for b, sessions move to b alone.
    more = make_names(third=3.0)
    moved = {s for s in sessions if names_of(more, "mix", s)[0] != first[s]}
    assert moved
    assert {first[session] for session in moved} == {"a"}


def test_a_key_learns_of_no_model_but_its_own() -> None:
    names = make_names()
    assert names_of(names, "a", models=("a", "b")) == ["a", "b"]
    assert names_of(names, "mix", models=("b",)) == ["b"]
    assert names_of(names, "a", models=("*",), scope="admin") == ["a", "c", "b"]
    hidden: list[tuple[str, dict[str, Any]]] = [
        ("a", {"models": ("c",)}),
        ("mix", {"models": ("c",)}),
        ("a", {"scope": "admin"}),
    ]
    for name, key in hidden:
        assert refusal(names, name, **key) == refusal(names, "nope", **key).replace("nope", name)
    long = "x" * 1000
    assert "x" * 64 + "…" in refusal(names, long)
    assert len(refusal(names, long)) < 200


def test_retries_are_a_share_of_the_requests_after_a_burst_and_a_floor() -> None:
    clock = Clock()
    budget = RetryBudget(0.2, burst=10, clock=clock)
    assert sum(budget.may_retry() for _ in range(50)) == 10
    for _ in range(100):
        budget.note_request()
    assert sum(budget.may_retry() for _ in range(50)) == 10  # never more than the burst at once
    for _ in range(25):
        budget.note_request()
    assert sum(budget.may_retry() for _ in range(50)) == 5
    clock.now += 1
    assert sum(budget.may_retry() for _ in range(50)) == 2
    assert (budget.allowed, budget.refused) == (27, 173)
    never = RetryBudget(0.0, burst=10, clock=clock)
    never.note_request()
    clock.now += 100
    assert not never.may_retry()
