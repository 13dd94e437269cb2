"""One engine through its troubles, in simulated time."""

import math

import pytest

from citadel_llm.gateway.errors import EngineDownError, EngineFailedError
from citadel_llm.gateway.routing.engine import Engine

from .parts import Clock, make_engine

FAILED = EngineFailedError("it broke off")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def wait_of(engine: Engine, clock: Clock) -> float:
    return engine.ready_at - clock()


def test_each_further_failure_doubles_the_time_up_to_its_limit(clock: Clock) -> None:
    engine = make_engine(clock, ejection_seconds=1, ejection_max_seconds=5)
    waits = []
    for _ in range(5):
        engine.began(10)
        engine.failed(FAILED)
        engine.ended(10)
        waits.append(wait_of(engine, clock))
        assert engine.condition == "ejected"
        clock.now = engine.ready_at
    assert waits == [1, 2, 4, 5, 5]
    engine.succeeded()
    engine.failed(FAILED)
    assert wait_of(engine, clock) == 1


def test_many_requests_that_break_off_at_once_are_one_failure(clock: Clock) -> None:
    engine = make_engine(clock, ejection_seconds=1)
    for _ in range(20):
        engine.began(10)
    for _ in range(20):
        engine.failed(FAILED)
        engine.ended(10)
    assert (wait_of(engine, clock), engine.ejections, engine.outstanding, engine.load) == (1, 1, 0, 0)


def test_after_its_time_one_request_tries_it_and_the_others_wait_for_how_that_ends(clock: Clock) -> None:
    engine = make_engine(clock)
    engine.failed(FAILED)
    clock.now += 1
    assert engine.ready_at <= clock()
    engine.began(10)
    assert engine.ready_at > clock()
    # Its first byte is proof enough: an answer may take minutes.
    clock.now += 2
    engine.last_progress = clock()
    engine.sweep(clock())
    assert engine.ready_at <= clock()
    engine.ended(10)

    engine.failed(FAILED)
    clock.now += 1
    engine.began(10)
    engine.ended(10)  # its client hung up: nothing was learnt, the next may try
    assert engine.ready_at <= clock()


def test_an_engine_that_cannot_be_connected_to_is_down_with_all_behind_its_peer(clock: Clock) -> None:
    engine, other = make_engine(clock, "node-2/a"), make_engine(clock, "node-2/b")
    engine.together = other.together = [engine, other]
    error = EngineDownError("x")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    engine.failed(error)
    assert [(each.state, each.reason) for each in (engine, other)] == [("down", "Connection refused")] * 2
    assert engine.ready_at == math.inf
    engine.set_state("up")
    assert engine.ready_at <= clock()


def test_a_late_health_check_makes_it_the_last_resort_and_three_make_it_down(clock: Clock) -> None:
    engine = make_engine(clock)
    engine.is_late(5)
    assert (engine.state, engine.condition, engine.usable, engine.hangs) == ("up", "suspect", True, False)
    assert engine.ready_at > clock() + 3600
    engine.is_late(5)
    assert (engine.state, engine.hangs) == ("up", True)
    engine.is_late(5)
    assert (engine.state, engine.usable, engine.hangs) == ("down", False, True)
    engine.set_state("up")
    assert (engine.ready_at <= clock(), engine.hangs) == (True, False)


def test_an_engine_without_progress_gets_nothing_until_it_moves_again(clock: Clock) -> None:
    engine = make_engine(clock, stall_seconds=30)
    clock.now += 100  # idle for long: that is no stall
    engine.began(10)
    clock.now += 29
    engine.sweep(clock())
    assert engine.usable
    clock.now += 2
    engine.sweep(clock())
    assert (engine.condition, engine.usable, engine.hangs) == ("stalled", False, True)
    engine.set_state("up")  # vLLM's health check stays green while it hangs
    assert engine.condition == "stalled"
    clock.now += 1
    engine.last_progress = clock()
    engine.sweep(clock())
    assert (engine.condition, engine.hangs) == ("up", False)


def test_a_stalled_engine_that_has_nothing_left_is_tried_by_one_request(clock: Clock) -> None:
    engine = make_engine(clock, stall_seconds=30, ejection_seconds=2)
    engine.began(10)
    clock.now += 31
    engine.sweep(clock())
    engine.ended(10)
    engine.sweep(clock())
    assert (engine.condition, wait_of(engine, clock)) == ("ejected", 2)
    clock.now += 2
    engine.began(10)
    assert engine.ready_at > clock()


def test_what_others_have_given_an_engine_counts_too(clock: Clock) -> None:
    engine = make_engine(clock, capacity=10)
    engine.began(100)
    own = engine.load
    engine.told(outstanding=4, load=own + 5000, seeds=[(1, 1), (2, 2)])
    assert (engine.limit, engine.load, engine.weight) == (17, own + 5000, 2)
    engine.told(outstanding=0, load=0, seeds=[])
    assert (engine.limit, engine.load) == (20, own)
    engine.ended(100)
    assert engine.load == 0
