"""What the policy decides, in simulated time. That it holds on a host with engines is shown elsewhere."""

from collections.abc import Sequence

import pytest
from bench.residency.simulation import Arrival, FirstComeFirstServed, Outcome, Simulation
from hypothesis import given, settings
from hypothesis import strategies as st

from citadel_llm.residency.holding import Costs, Demand, Footprint, Holding, State
from citadel_llm.residency.policy import Action, Policy, Step

GIB = 1 << 30


def holding(
    name: str, gib: int = 10, device: int = 0, *, start: float = 30, wake: float = 2, sleeps: bool = False
) -> Holding:
    asleep, host = ({device: GIB}, gib * GIB) if sleeps else ({}, None)
    return Holding(name, Footprint({device: gib * GIB}, asleep, host), Costs(start, wake), Demand(120))


def run(policy: Policy, models: Sequence[Holding], arrivals: Sequence[Arrival]) -> Outcome:
    return Simulation(policy, models, arrivals).run()


def test_a_model_that_is_wanted_is_woken_and_answers() -> None:
    outcome = run(Policy({0: 16 * GIB}), [holding("a")], [Arrival(5, "a", 1)])
    assert outcome.waits == [("a", 30.0)]


def test_what_nobody_wants_makes_room_at_once() -> None:
    """The first model's clients are long gone: the second one's need not wait for more than the move."""
    arrivals = [Arrival(0, "a", 1), Arrival(3600, "b", 1)]
    outcome = run(Policy({0: 16 * GIB}), [holding("a"), holding("b")], arrivals)
    assert dict(outcome.waits)["b"] <= 5 + 30 + 1


def alternating(policy: Policy) -> tuple[Outcome, list[float]]:
    """Two clients, one for each model, ask every two seconds in turn; there is room for one model."""
    arrivals = [Arrival(2.0 * number, "ab"[number % 2], 1) for number in range(1800)]
    outcome = run(policy, [holding("a"), holding("b")], arrivals)
    return outcome, sorted(wait for _, wait in outcome.waits)


def test_alternating_clients_do_not_thrash() -> None:
    room = {0: 16 * GIB}
    ours, our_waits = alternating(Policy(room))
    theirs, their_waits = alternating(FirstComeFirstServed(room))
    assert ours.moves[Action.WAKE] < 0.6 * theirs.moves[Action.WAKE]
    # It costs the mean little, and many find their model awake.
    assert sum(our_waits) < 1.1 * sum(their_waits)
    assert our_waits.count(0) > 5 * their_waits.count(0)


def test_a_model_that_is_rarely_wanted_does_not_take_a_busy_ones_place_each_time() -> None:
    arrivals = [Arrival(number / 2, "busy", 2) for number in range(2 * 3600)]
    arrivals += [Arrival(200 + 100.0 * number, "rare", 2) for number in range(30)]
    room = {0: 16 * GIB}
    ours, theirs = (
        run(policy, [holding("busy"), holding("rare")], arrivals)
        for policy in (Policy(room, patience=300), FirstComeFirstServed(room))
    )
    assert ours.moves[Action.WAKE] < 0.5 * theirs.moves[Action.WAKE]
    assert sum(wait for _, wait in ours.waits) < 0.6 * sum(wait for _, wait in theirs.waits)


def test_nobody_starves_beside_a_model_that_is_never_idle() -> None:
    arrivals = [Arrival(number / 4, "busy", 3) for number in range(4 * 1200)] + [Arrival(300, "rare", 1)]
    outcome = run(Policy({0: 16 * GIB}), [holding("busy"), holding("rare")], arrivals)
    rare = dict(outcome.waits)["rare"]
    # Its patience, the requests that the other had begun, the moves, and a second to notice.
    assert 60 <= rare <= 60 + 3 + 5 + 30 + 2
    assert len(outcome.waits) == len(arrivals)


def test_a_sleeper_is_rather_put_to_sleep_than_stopped() -> None:
    models = [holding("a", sleeps=True), holding("b", sleeps=True)]
    arrivals = [Arrival(300 * number, "ab"[number % 2], 1) for number in range(8)]
    outcome = run(Policy({0: 16 * GIB}, host_bytes=64 * GIB), models, arrivals)
    assert (outcome.moves[Action.SLEEP], outcome.moves[Action.STOP]) == (7, 0)
    assert max(wait for _, wait in outcome.waits[2:]) <= 5 + 2 + 1


def test_the_least_wanted_sleeper_gives_its_place_in_the_hosts_memory() -> None:
    models = [holding(name, sleeps=True) for name in "abc"]
    arrivals = [Arrival(0, "a", 1), Arrival(1000, "b", 1), *(Arrival(2000 + n, "c", 1) for n in range(60))]
    arrivals += [Arrival(2600, "b", 1)]
    simulation = Simulation(Policy({0: 13 * GIB}, host_bytes=20 * GIB), models, arrivals)
    simulation.run()
    states = {name: model.state for name, model in simulation.models.items()}
    assert states == {"a": State.COLD, "b": State.AWAKE, "c": State.ASLEEP}


def test_two_that_fit_together_stay_together() -> None:
    arrivals = [Arrival(10 * number, "ab"[number % 2], 1) for number in range(100)]
    outcome = run(Policy({0: 20 * GIB}), [holding("a"), holding("b")], arrivals)
    assert outcome.moves[Action.WAKE] == 2


def test_the_cheapest_set_makes_room() -> None:
    """One large model that is wanted often, or two small ones that are not."""
    big, one, two = holding("big", 10), holding("one", 5), holding("two", 5)
    new = holding("new", 10)
    for model in (big, one, two):
        model.state, model.since = State.AWAKE, 0
    for _ in range(100):
        big.demand.note(990)
    one.demand.note(10)
    new.waiting = [999.0]
    steps = Policy({0: 20 * GIB}).decide([big, one, two, new], 1000)
    assert {(step.action, step.model) for step in steps} == {(Action.STOP, "one"), (Action.STOP, "two")}


def test_a_pinned_model_comes_up_and_stays() -> None:
    pinned, other = holding("pinned"), holding("other")
    pinned.pinned = True
    policy = Policy({0: 16 * GIB})
    assert policy.decide([pinned, other], 0) == [Step(Action.WAKE, "pinned")]
    pinned.state, other.waiting = State.AWAKE, [0.0]
    assert policy.decide([pinned, other], 10_000) == []


def test_what_did_not_come_up_is_not_tried_again_at_once() -> None:
    model = holding("a")
    model.waiting, model.retry_at = [0.0], 100.0
    policy = Policy({0: 16 * GIB})
    assert policy.decide([model], 99) == []
    assert policy.decide([model], 100) == [Step(Action.WAKE, "a")]


def test_a_model_is_open_again_when_who_wanted_its_place_has_left() -> None:
    busy, other = holding("busy"), holding("other")
    busy.state, busy.leases, other.waiting = State.AWAKE, 1, [0.0]
    policy = Policy({0: 16 * GIB})
    assert policy.decide([busy, other], 100) == [Step(Action.CLOSE, "busy", "other")]
    busy.closed = True
    assert policy.decide([busy, other], 101) == [], "it is closed already, and still busy"
    other.waiting = []
    assert policy.decide([busy, other], 102) == [Step(Action.OPEN, "busy")]


def test_a_model_that_pauses_keeps_its_place_until_it_pays_to_give_it() -> None:
    """Asked for every ten seconds: who takes its place must have waited as long as its clients would."""
    often, other = holding("often"), holding("other")
    often.state, other.waiting = State.AWAKE, [1000.0]
    for number in range(100):
        often.demand.note(10.0 * number)
    policy = Policy({0: 16 * GIB})
    assert policy.decide([often, other], 1005) == []
    other.waiting = [1000.0] * 20
    assert policy.decide([often, other], 1005) == [Step(Action.STOP, "often", "other")]


def test_who_answers_is_closed_only_for_one_that_has_waited_long() -> None:
    busy, other = holding("busy"), holding("other")
    busy.state, busy.leases, other.waiting = State.AWAKE, 1, [1000.0] * 100
    policy = Policy({0: 16 * GIB})
    assert policy.decide([busy, other], 1059) == []
    assert policy.decide([busy, other], 1060) == [Step(Action.CLOSE, "busy", "other")]


def test_small_ones_do_not_slip_in_before_a_large_one_that_has_waited_long() -> None:
    busy, small, large = holding("busy"), holding("small"), holding("large", 20)
    busy.state, busy.leases, busy.closed = State.AWAKE, 1, True
    large.waiting, small.waiting = [1000.0], [1050.0]
    policy = Policy({0: 20 * GIB})
    assert policy.decide([busy, small, large], 1059) == [Step(Action.WAKE, "small")]
    assert policy.decide([busy, small, large], 1061) == []


def test_one_at_a_time_moves_on_a_device() -> None:
    first, second, elsewhere = holding("first"), holding("second"), holding("elsewhere", device=1)
    first.state, second.waiting, elsewhere.waiting = State.WAKING, [0.0, 0.0], [1.0]
    policy = Policy({0: 40 * GIB, 1: 40 * GIB})
    assert policy.decide([first, second, elsewhere], 10) == [Step(Action.WAKE, "elsewhere")]
    first.state = State.AWAKE
    assert policy.decide([first, second, elsewhere], 10) == [Step(Action.WAKE, "second")]


def test_the_order_of_turns() -> None:
    """Most requests for what it takes, but for who has waited too long, and whom room was made for."""
    few, many, dear = holding("few"), holding("many"), holding("dear", start=300)
    few.waiting, many.waiting, dear.waiting = [0.0], [5.0] * 4, [4.0] * 9
    policy = Policy({0: 10 * GIB}, longest_wait=100)
    models = [few, many, dear]
    assert policy.decide(models, 10) == [Step(Action.WAKE, "many")]
    assert policy.decide(models, 101) == [Step(Action.WAKE, "few")]
    dear.promised = True
    assert policy.decide(models, 101) == [Step(Action.WAKE, "dear")]
    dear.goes(State.WAKING, 101)
    assert not dear.promised


def test_a_sleeper_that_is_waited_for_is_not_stopped_for_another() -> None:
    sleeper, other = holding("sleeper", 6, sleeps=True), holding("other", 16)
    sleeper.state, sleeper.waiting, other.waiting = State.ASLEEP, [1001.0], [1000.0]
    policy = Policy({0: 16 * GIB}, host_bytes=64 * GIB)
    assert policy.decide([sleeper, other], 1010) == [Step(Action.WAKE, "sleeper")]
    sleeper.waiting = []
    assert policy.decide([sleeper, other], 1010) == [Step(Action.STOP, "sleeper", "other")]


def wanted_often(model: Holding) -> Holding:
    model.state = State.AWAKE
    for number in range(50):
        model.demand.note(900.0 + number)
    return model


def moves(steps: Sequence[Step]) -> set[tuple[Action, str]]:
    return {(step.action, step.model) for step in steps}


def test_sleepers_that_go_for_another_give_their_rest_on_the_device_too() -> None:
    awake, new = wanted_often(holding("awake", 10, sleeps=True)), holding("new", 11)
    sleepers = [holding(name, 5, sleeps=True) for name in ("one", "two")]
    for sleeper in sleepers:
        sleeper.state = State.ASLEEP
    new.waiting = [0.0]
    # Asleep it wants 10 GiB of the host's memory, which the two have; with their rests there is just room.
    steps = Policy({0: 12 * GIB}, host_bytes=10 * GIB).decide([awake, *sleepers, new], 1000)
    assert moves(steps) == {(Action.SLEEP, "awake"), (Action.STOP, "one"), (Action.STOP, "two")}


def test_two_sleep_only_where_both_have_room() -> None:
    pair = [wanted_often(holding(name, 8, sleeps=True)) for name in "ab"]
    new = holding("new", 14)
    new.waiting = [0.0]
    both, one = (Policy({0: 16 * GIB}, host_bytes=size * GIB).decide([*pair, new], 1000) for size in (16, 8))
    assert moves(both) == {(Action.SLEEP, "a"), (Action.SLEEP, "b")}
    assert {action for action, _ in moves(one)} == {Action.SLEEP, Action.STOP}


@pytest.mark.parametrize("stay", [0.0, 30.0])
def test_the_minimum_stay(stay: float) -> None:
    awake, other = holding("awake"), holding("other")
    awake.state, awake.since, other.waiting = State.AWAKE, 1000, [0.0]
    policy = Policy({0: 16 * GIB}, minimum_stay=stay)
    assert bool(policy.decide([awake, other], 1029)) == (stay == 0)
    assert policy.decide([awake, other], 1030) == [Step(Action.STOP, "awake", "other")]


@st.composite
def hosts(draw: st.DrawFn) -> tuple[Policy, list[Holding], list[Arrival]]:
    """Up to three GPUs of 24 GiB, up to eight models on one or two of them, and an hour of arrivals."""
    gpus = draw(st.integers(1, 3))
    models = []
    for number in range(draw(st.integers(1, 8))):
        devices = draw(st.sets(st.integers(0, gpus - 1), min_size=1, max_size=2))
        size = draw(st.integers(1, 16)) * GIB
        asleep, host = ({}, None)
        if draw(st.booleans()):
            # Together those of all sleepers leave room for the largest model, as in a plan.
            asleep, host = dict.fromkeys(devices, GIB), size * len(devices)
        costs = Costs(draw(st.floats(5, 60)), draw(st.floats(0.5, 5)), draw(st.floats(0.1, 10)))
        footprint = Footprint(dict.fromkeys(devices, max(size, GIB)), asleep, host)
        models.append(Holding(f"m{number}", footprint, costs, Demand(120)))
    names = st.sampled_from([model.name for model in models])
    arrivals = draw(
        st.lists(st.builds(Arrival, st.floats(0, 3600), names, st.floats(0.1, 20)), min_size=1, max_size=60)
    )
    policy = Policy(
        dict.fromkeys(range(gpus), 24 * GIB),
        host_bytes=draw(st.integers(0, 64)) * GIB,
        minimum_stay=draw(st.floats(0, 60)),
        patience=draw(st.floats(0, 120)),
    )
    return policy, models, arrivals


@settings(max_examples=300, deadline=None)
@given(hosts())
def test_all_are_answered_in_time_whatever_comes(host: tuple[Policy, list[Holding], list[Arrival]]) -> None:
    """And the simulation itself raises where memory is promised twice, or a busy model taken away."""
    policy, models, arrivals = host
    outcome = run(policy, models, arrivals)
    assert len(outcome.waits) == len(arrivals)
    # Each of the others may go first, once, with all that this takes.
    turn = policy.minimum_stay + 20 + 60 + 10 + 60 + 3
    assert max(wait for _, wait in outcome.waits) <= policy.patience + (len(models) + 1) * turn
