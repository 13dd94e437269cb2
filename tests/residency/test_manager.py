"""The manager's own work: what it makes of reports, of systemd's word, and of moves that fail.

Who moves the models is a stand-in for systemd and vLLM (the outer edge); time is real and short.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from citadel_llm.residency.holding import Costs, Demand, Footprint, Holding, State
from citadel_llm.residency.manager import Manager
from citadel_llm.residency.messages import Asked, Report
from citadel_llm.residency.mover import MoveError
from citadel_llm.residency.policy import Policy
from citadel_llm.residency.tally import Gateway


@dataclass
class Edge:
    """Moves at once, unless told otherwise."""

    fails: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    async def _do(self, what: str, model: str) -> None:
        self.done.append(f"{what} {model}")
        if reason := self.fails.get(what):
            raise MoveError(reason)

    async def start(self, model: str) -> None:
        await self._do("start", model)

    async def stop(self, model: str) -> None:
        await self._do("stop", model)

    async def sleep(self, model: str) -> None:
        await self._do("sleep", model)

    async def wake(self, model: str) -> None:
        await self._do("wake", model)


def holding(name: str, *, sleeps: bool = False) -> Holding:
    asleep, host = ({0: 1}, 6) if sleeps else ({}, None)
    return Holding(name, Footprint({0: 6}, asleep, host), Costs(1.0, 0.1, 0.1), Demand(60.0))


Work = Callable[[Manager, Edge], Awaitable[None]]


def managing(work: Work, *, sleeps: bool = False, retry: float = 60.0, host: int = 0) -> Edge:
    """Run a manager of the models a and b, with room for one, while the work lasts."""
    edge = Edge()

    async def run() -> None:
        models = {name: holding(name, sleeps=sleeps) for name in "ab"}
        policy = Policy({0: 10}, host, minimum_stay=0.0, patience=0.3)
        manager = Manager(models, policy, edge, clock=time.monotonic, retry=(retry, retry))
        task = asyncio.create_task(manager.run())
        try:
            async with asyncio.timeout(10):
                await work(manager, edge)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    return edge


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.005)


def says(manager: Manager, gateway: Gateway, **models: Asked) -> None:
    """The gateway's word, having seen the last notice."""
    manager.report(gateway, Report(manager.number, models))


def test_it_waits_until_every_gateway_has_let_go() -> None:
    async def work(manager: Manager, edge: Edge) -> None:
        one, other = manager.connected(), manager.connected()
        says(manager, other)
        says(manager, one, a=Asked(waiting=1, asked=1))
        await until(lambda: manager.holdings["a"].state is State.AWAKE)
        says(manager, one, a=Asked(in_hand=1, asked=1), b=Asked(waiting=1, asked=1))
        # Its patience over, a is closed; one request of it is under way at each gateway.
        await until(lambda: manager.holdings["a"].closed)
        closed = manager.number
        says(manager, one, b=Asked(waiting=1, asked=1))
        await until(lambda: manager.holdings["a"].state is State.LEAVING)
        # The other one has not seen that yet, and may be about to give it a request.
        manager.report(other, Report(closed - 1, {}))
        await asyncio.sleep(0.1)
        assert edge.done == ["start a"]
        says(manager, other, a=Asked(in_hand=1))
        await asyncio.sleep(0.1)
        assert edge.done == ["start a"]
        says(manager, other)
        await asyncio.sleep(0)
        says(manager, one, b=Asked(waiting=1, asked=1))
        await until(lambda: manager.holdings["b"].state is State.AWAKE)

    assert managing(work).done == ["start a", "stop a", "start b"]


def test_a_gateway_that_goes_away_holds_nothing_up() -> None:
    async def work(manager: Manager, _edge: Edge) -> None:
        one, other = manager.connected(), manager.connected()
        says(manager, one, a=Asked(waiting=1))
        await until(lambda: manager.holdings["a"].state is State.AWAKE)
        says(manager, other, a=Asked(in_hand=5))
        says(manager, one, b=Asked(waiting=1))
        await until(lambda: manager.holdings["a"].closed)
        manager.gone(other)
        await until(lambda: manager.holdings["a"].state is State.LEAVING)
        says(manager, one, b=Asked(waiting=1))
        await until(lambda: manager.holdings["b"].state is State.AWAKE)

    managing(work)


def test_a_model_that_sleeps_is_woken_and_not_started() -> None:
    async def work(manager: Manager, _edge: Edge) -> None:
        gateway = manager.connected()
        for name in "aba":
            while manager.holdings[name].state is not State.AWAKE:
                says(manager, gateway, **{name: Asked(waiting=1)})
                await asyncio.sleep(0.02)

    assert managing(work, sleeps=True, host=12).done == [
        "start a",
        "sleep a",
        "start b",
        "sleep b",
        "wake a",
    ]


def test_one_that_cannot_be_put_to_sleep_is_stopped() -> None:
    async def work(manager: Manager, edge: Edge) -> None:
        edge.fails["sleep"] = "out of memory"
        gateway = manager.connected()
        for name in "ab":
            while manager.holdings[name].state is not State.AWAKE:
                says(manager, gateway, **{name: Asked(waiting=1)})
                await asyncio.sleep(0.02)

    assert managing(work, sleeps=True, host=12).done == ["start a", "sleep a", "stop a", "start b"]


def test_one_that_does_not_wake_is_stopped_and_started_anew() -> None:
    async def work(manager: Manager, edge: Edge) -> None:
        gateway = manager.connected()
        for name in "ab":
            while manager.holdings[name].state is not State.AWAKE:
                says(manager, gateway, **{name: Asked(waiting=1)})
                await asyncio.sleep(0.02)
        edge.fails["wake"] = "it talks nonsense"
        while manager.holdings["a"].state is not State.AWAKE:
            says(manager, gateway, a=Asked(waiting=1))
            await asyncio.sleep(0.02)

    assert managing(work, sleeps=True, host=12, retry=0.1).done == [
        "start a",
        "sleep a",
        "start b",
        "sleep b",
        "wake a",
        "stop a",
        "start a",
    ]


def test_one_that_fails_is_tried_again_when_its_time_has_come() -> None:
    async def work(manager: Manager, edge: Edge) -> None:
        edge.fails["start"] = "no weights"
        gateway = manager.connected()
        says(manager, gateway, a=Asked(waiting=1))
        await until(lambda: manager.notice().models["a"].state == "failed")
        assert manager.notice().models["a"].reason == "no weights"
        edge.fails.clear()
        while manager.holdings["a"].state is not State.AWAKE:
            says(manager, gateway, a=Asked(waiting=1))
            await asyncio.sleep(0.02)
        assert manager.notice().models["a"].reason == ""

    began = time.monotonic()
    assert managing(work, retry=0.4).done == ["start a", "start a"]
    assert time.monotonic() - began >= 0.4


def test_gateways_are_told_when_a_model_that_failed_may_be_asked_for_again() -> None:
    async def work(manager: Manager, edge: Edge) -> None:
        edge.fails["start"] = "no weights"
        gateway = manager.connected()
        says(manager, gateway, a=Asked(waiting=1))
        await until(lambda: manager.notice().models["a"].state == "failed")
        # As they refuse those who waited, nobody waits until they know that it may be tried again.
        says(manager, gateway)
        told: list[str] = []
        manager.on_change = lambda: told.append(manager.notice().models["a"].state)
        await until(lambda: bool(told) and told[-1] == "cold")

    managing(work, retry=0.3)


def test_what_happens_without_it_is_taken_note_of() -> None:
    """An engine is started by hand, ends by itself, and is asked for again."""

    async def work(manager: Manager, _edge: Edge) -> None:
        gateway = manager.connected()
        manager.observe("a", State.WAKING)
        manager.observe("a", State.AWAKE)
        assert manager.notice().models["a"].open
        manager.observe("a", State.COLD, "killed")
        assert manager.notice().models["a"].state == "failed"
        says(manager, gateway, a=Asked(waiting=1))
        await until(lambda: manager.holdings["a"].state is State.AWAKE)

    assert managing(work, retry=0.1).done == ["start a"]


def test_costs_are_learnt() -> None:
    async def work(manager: Manager, _edge: Edge) -> None:
        gateway = manager.connected()
        says(manager, gateway, a=Asked(waiting=1))
        await until(lambda: manager.holdings["a"].state is State.AWAKE)
        assert 0.4 < manager.holdings["a"].costs.start < 0.6

    managing(work)
