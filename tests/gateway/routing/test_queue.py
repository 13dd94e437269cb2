"""Waiting for an engine, in simulated time."""

import weakref
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from citadel_llm.config.gateway import Admission
from citadel_llm.gateway.errors import EngineDownError, GatewayError, QueueFullError, QueueTimeoutError
from citadel_llm.gateway.routing.queue import AdmissionQueue, Ticket

from .parts import MODEL, Clock, dice, make_engine, make_model, queue_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from citadel_llm.gateway.routing.engine import Engine


class Waiting:
    """A model with one engine, and requests by name that wait for it."""

    def __init__(self, clock: Clock, *, capacity: int = 1, **admission: Any) -> None:
        self.clock = clock
        self.engine = make_engine(clock, capacity=capacity)
        self.model = make_model(clock, [self.engine], **admission)
        self.turns: list[str] = []
        self.refused: dict[str, GatewayError] = {}

    def enter(self, name: str, priority: str = "normal") -> Ticket:
        def take() -> None:
            self.turns.append(name)
            engine = self.model.choose(b"", ())
            if engine is not None:
                engine.began(1)

        def refuse(error: GatewayError) -> None:
            self.refused[name] = error

        return self.model.queue.enter(priority, take, refuse)

    def end_one(self) -> None:
        self.engine.ended(1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nobody_waits_while_there_is_room_and_everybody_does_behind_others(clock: Clock) -> None:
    waiting = Waiting(clock)
    queue = waiting.model.queue
    assert not queue.must_wait()
    waiting.engine.began(1)
    assert queue.must_wait()
    ticket = waiting.enter("a")
    waiting.engine.limit = 5
    assert queue.must_wait()  # those who wait go first
    ticket.leave()
    ticket.leave()
    assert (queue.must_wait(), queue.waiting) == (False, 0)


def test_turns_go_by_priority_then_arrival(clock: Clock) -> None:
    waiting = Waiting(clock)
    waiting.engine.began(1)
    for name, priority in [("n1", "normal"), ("l1", "low"), ("h1", "high"), ("n2", "normal"), ("h2", "high")]:
        waiting.enter(name, priority)
        clock.now += 0.1
    gone = waiting.enter("gone", "high")
    gone.leave()
    for _ in range(5):
        waiting.end_one()
    assert waiting.turns == ["h1", "h2", "n1", "n2", "l1"]
    assert waiting.engine.outstanding == 1


def test_a_low_one_is_overtaken_only_for_two_thirds_of_its_time(clock: Clock) -> None:
    waiting = Waiting(clock, queue_seconds=30)
    waiting.engine.began(1)
    waiting.enter("low", "low")
    for number in range(29):
        clock.now += 1
        waiting.enter(f"high {number}", "high")
        waiting.end_one()
    # One high one comes each second and one is served each second: still the low one has its turn.
    assert waiting.turns.index("low") == 20
    assert not waiting.refused


def test_whoever_waited_for_its_whole_time_is_refused_and_nobody_earlier(clock: Clock) -> None:
    waiting = Waiting(clock, queue_seconds=30)
    waiting.engine.began(1)
    waiting.enter("a", "low")
    clock.now += 10
    waiting.enter("b", "high")
    clock.now += 19.9
    waiting.model.sweep(clock())
    assert not waiting.refused
    clock.now += 0.2
    waiting.model.sweep(clock())
    assert list(waiting.refused) == ["a"]
    assert isinstance(waiting.refused["a"], QueueTimeoutError)
    waiting.end_one()
    assert waiting.turns == ["b"]


def test_a_full_queue_refuses_or_has_a_lower_one_give_way(clock: Clock) -> None:
    waiting = Waiting(clock, queue_requests=3)
    waiting.engine.began(1)
    for name, priority in [("n1", "normal"), ("l1", "low"), ("l2", "low")]:
        waiting.enter(name, priority)
    with pytest.raises(QueueFullError):
        waiting.enter("l3", "low")
    waiting.enter("h1", "high")
    assert list(waiting.refused) == ["l2"]
    waiting.enter("n2", "normal")
    assert list(waiting.refused) == ["l2", "l1"]
    with pytest.raises(QueueFullError):
        waiting.enter("n3", "normal")
    assert waiting.model.waiting == 3


def test_all_get_their_turn_when_no_engine_is_left_so_that_another_model_may_answer(clock: Clock) -> None:
    waiting = Waiting(clock)
    waiting.engine.began(1)
    waiting.enter("a")
    waiting.enter("b")
    waiting.engine.failed(EngineDownError("x"))
    waiting.model.pump()
    assert waiting.turns == ["a", "b"]
    assert not waiting.model.queue.must_wait()
    assert isinstance(waiting.model.refusal(), EngineDownError)


def test_a_turn_comes_too_when_an_ejection_is_over_and_when_another_engine_comes_up(clock: Clock) -> None:
    engines = [make_engine(clock, "a", capacity=1), make_engine(clock, "b", capacity=1)]
    model = make_model(clock, engines)
    turns: list[Engine | None] = []

    def take() -> None:
        engine = model.choose(b"", ())
        turns.append(engine)
        if engine:
            engine.began(1)

    engines[0].began(1)
    engines[1].eject()
    model.queue.enter("normal", take, lambda _: None)
    model.sweep(clock())
    assert not turns
    clock.now = engines[1].ready_at
    model.sweep(clock())
    assert turns == [engines[1]]


@pytest.mark.parametrize(("rate", "engines_width"), [(2.0, 4), (50.0, 32)])
def test_retry_after_is_how_long_those_who_wait_take(clock: Clock, rate: float, engines_width: int) -> None:
    """Against an engine that is simulated: as many places as given, and answers of random length."""
    numbers = dice(3)
    waiting = Waiting(clock, capacity=engines_width, queue_requests=40, queue_seconds=60)
    running = [clock() + numbers.expovariate(rate / engines_width) for _ in range(engines_width)]
    for _ in running:
        waiting.engine.began(1)
    told: list[tuple[float, float]] = []
    names = iter(range(10**6))
    for _ in range(600):
        while waiting.model.waiting < 40:
            waiting.enter(str(next(names)))
        if len(waiting.turns) > 200:
            with pytest.raises(QueueFullError) as caught:
                waiting.enter("one more")
            told.append((clock(), float(caught.value.retry_after or 0)))
        # The next answer ends, and its place goes to the next in line.
        clock.now = min(running)
        running.remove(clock.now)
        waiting.end_one()
        running.append(clock() + numbers.expovariate(rate / engines_width))
    true = 41 / rate
    assert all(0.5 * true <= seconds <= 2 * true for _, seconds in told) or true < 1
    mean = sum(seconds for _, seconds in told) / len(told)
    assert 0.75 * max(true, 1) < mean < 1.35 * max(true, 1)


def test_retry_after_is_bounded_where_nothing_was_measured(clock: Clock) -> None:
    waiting = Waiting(clock, queue_requests=1, queue_seconds=30)
    waiting.engine.began(1)
    waiting.enter("a")
    with pytest.raises(QueueFullError) as caught:
        waiting.enter("b")
    assert caught.value.retry_after == 30  # then whoever waits now is served or refused


def test_who_leaves_from_the_middle_is_forgotten_at_once(clock: Clock) -> None:
    class Body:
        """What a request holds while it waits."""

    waiting = Waiting(clock)
    waiting.engine.began(1)
    waiting.enter("first")
    body = Body()
    left = weakref.ref(body)
    queue = waiting.model.queue
    ticket = queue.enter("normal", lambda held=body: None, lambda _error, held=body: None)  # type: ignore[misc]
    waiting.enter("last")
    ticket.leave()
    del ticket, body
    assert left() is None
    assert queue.waiting == 2


def test_waits_and_refusals_are_counted(clock: Clock) -> None:
    registry, metrics = queue_metrics()
    full = True
    queue = AdmissionQueue(MODEL, Admission(queue_requests=1), clock, metrics, lambda _: full)

    def ignore(*_: object) -> None: ...

    on_turn: Callable[[], None] = ignore
    queue.enter("normal", on_turn, ignore)
    with pytest.raises(QueueFullError):
        queue.enter("normal", on_turn, ignore)
    clock.now += 2
    full = False
    queue.pump()
    assert _value(registry, "citadel_gateway_queue_refusals_total", reason="full") == 1
    assert _value(registry, "citadel_gateway_queue_wait_seconds_sum") == 2


def _value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"model": MODEL, **labels})
