"""Which engine a request goes to: what always holds, whatever has happened before."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from citadel_llm.gateway.errors import EngineFailedError
from citadel_llm.gateway.routing.choice import SLACK, choose
from citadel_llm.gateway.routing.engine import REQUEST_LOAD, Engine

from .parts import Clock, dice, make_engines

FACTOR = 1.25
SESSIONS = [b"session %d" % number for number in range(400)]

CONDITIONS = st.sampled_from(["up", "unknown", "down", "ejected", "suspect", "stalled", "probed", "full"])


def put_into(engine: Engine, condition: str, clock: Clock) -> None:
    match condition:
        case "up":
            pass
        case "unknown" | "down":
            engine.set_state(condition)
        case "ejected":
            engine.failed(EngineFailedError("x"))
        case "suspect":
            engine.is_late(5)
        case "stalled":
            engine.began(1)
            engine.sweep(clock() + 31)
        case "probed":
            engine.failed(EngineFailedError("x"))
            engine._ejected_until = 0
            engine._settle()
            engine.began(1)
        case "full":
            for _ in range(engine.limit):
                engine.began(1)


@settings(max_examples=100, deadline=None)
@given(
    conditions=st.lists(CONDITIONS, min_size=1, max_size=6),
    loads=st.lists(st.integers(0, 50_000), min_size=6, max_size=6),
    affinity=st.binary(max_size=8),
    tried=st.sets(st.integers(0, 5)),
    seed=st.integers(0, 1000),
)
def test_only_an_engine_that_may_is_chosen_and_one_is_if_any_may(
    conditions: list[str], loads: list[int], affinity: bytes, tried: set[int], seed: int
) -> None:
    clock = Clock()
    engines = make_engines(clock, len(conditions), capacity=3)
    for engine, condition, load in zip(engines, conditions, loads, strict=False):
        put_into(engine, condition, clock)
        engine.load += load
    failed = [engine for number, engine in enumerate(engines) if number in tried]
    left = [
        condition
        for engine, condition in zip(engines, conditions, strict=True)
        if engine not in failed and condition not in {"down", "stalled"}
    ]

    chosen = choose(engines, affinity, failed, clock(), FACTOR, dice(seed).random)

    good = {"up", "unknown"}
    if good & set(left):
        expected = good
    elif "full" in left:
        # Its place is free soon; a request that has failed elsewhere would not live to see it.
        expected = {"full"} if failed else set()
    else:
        expected = {"ejected", "suspect", "probed"} & set(left)
    if not expected:
        assert chosen is None
    else:
        assert chosen is not None
        assert chosen not in failed
        assert conditions[engines.index(chosen)] in expected


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 8), gone=st.integers(0, 7), how=st.sampled_from(["down", "ejected", "stalled"]))
def test_when_an_engine_goes_only_its_sessions_move_and_they_come_back(
    count: int, gone: int, how: str
) -> None:
    clock = Clock()
    engines = make_engines(clock, count)
    lost = engines[gone % count]
    before = {session: choose(engines, session, (), clock(), FACTOR) for session in SESSIONS}
    put_into(lost, how, clock)
    after = {session: choose(engines, session, (), clock(), FACTOR) for session in SESSIONS}
    assert all(after[session] is not lost for session in SESSIONS)
    assert all(after[session] is engine for session, engine in before.items() if engine is not lost)
    lost.set_state("down")
    lost.set_state("up")
    if how == "stalled":
        lost.ended(1)
    assert before == {session: choose(engines, session, (), clock(), FACTOR) for session in SESSIONS}


def test_sessions_are_dealt_out_evenly() -> None:
    clock = Clock()
    for count in (2, 3, 8):
        engines = make_engines(clock, count)
        sessions = [b"user %d" % number for number in range(8000)]
        chosen = Counter(id(choose(engines, session, (), clock(), FACTOR)) for session in sessions)
        mean = len(sessions) / count
        # Far beyond the chance of fair dice, far within what a bad hash does.
        assert all(0.85 * mean < chosen[id(engine)] < 1.15 * mean for engine in engines)


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(2, 6),
    sizes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6000)), min_size=30, max_size=100),
    seed=st.integers(0, 1000),
)
def test_no_engine_has_more_than_its_share_however_uneven_the_sessions(
    count: int, sizes: list[tuple[int, int]], seed: int
) -> None:
    clock, uniform = Clock(), dice(seed).random
    engines = make_engines(clock, count)
    for session, tokens in sizes:
        mean = sum(engine.load for engine in engines) / count
        engine = choose(engines, b"%d" % session, (), clock(), FACTOR, uniform)
        assert engine is not None
        assert engine.load <= FACTOR * mean + SLACK
        engine.began(tokens)
    assert sum(engine.load for engine in engines) == sum(tokens + REQUEST_LOAD for _, tokens in sizes)


def test_without_affinity_the_less_loaded_of_two_is_taken() -> None:
    clock, uniform = Clock(), dice(1).random
    engines = make_engines(clock, 4)
    for _ in range(400):
        engine = choose(engines, b"", (), clock(), FACTOR, uniform)
        assert engine is not None
        engine.began(100)
    assert max(engine.outstanding for engine in engines) - min(e.outstanding for e in engines) <= 6


def test_what_overflows_goes_to_the_less_loaded_and_an_idle_engine_keeps_its_sessions() -> None:
    clock = Clock()
    engines = make_engines(clock, 3)
    home = choose(engines, b"s", (), clock(), FACTOR)
    assert home is not None
    home.began(SLACK - REQUEST_LOAD)
    assert choose(engines, b"s", (), clock(), FACTOR) is home
    home.began(10_000)
    others = {id(choose(engines, b"s", (), clock(), FACTOR)) for _ in range(50)}
    assert others == {id(engine) for engine in engines if engine is not home}


def test_two_engines_behind_a_peer_get_two_shares() -> None:
    clock = Clock()
    here, there = make_engines(clock, 2)
    there.told(0, 0, [(17, 3), (912_345_678, 99)])
    chosen = Counter(id(choose([here, there], session, (), clock(), FACTOR)) for session in SESSIONS)
    assert 1.4 < chosen[id(there)] / chosen[id(here)] < 2.8
