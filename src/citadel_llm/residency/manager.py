"""Lets the models of a host take turns: knows where each is, has the policy decide, and sees it done.

It speaks to gateways and operators by `messages` and to systemd and the engines by a `Mover`; both are handed
in. All of it runs in one event loop.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping

import structlog

from citadel_llm.residency.holding import Holding, State
from citadel_llm.residency.messages import Notice, Report, Told
from citadel_llm.residency.mover import MoveError, Mover
from citadel_llm.residency.policy import Action, Policy, Step
from citadel_llm.residency.tally import Gateway, Tally

_TICK_SECONDS = 1.0
# More steps than this in one go would be a policy that goes round in circles.
_MOST_STEPS = 1000


class Manager:
    """Manages the models on demand of one host.

    Args:
        holdings: The models, as they are when it begins.
        policy: Decides.
        mover: Does.
        clock: Tells the time in seconds.
        retry: Seconds after which a model that did not come up is tried again: the first time, and at most.
        on_change: Called when there is something to tell (`notice`).
    """

    def __init__(
        self,
        holdings: Mapping[str, Holding],
        policy: Policy,
        mover: Mover,
        *,
        clock: Callable[[], float],
        retry: tuple[float, float],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.holdings = holdings
        self.tallies = {name: Tally() for name in holdings}
        self.policy = policy
        self.gateways: set[Gateway] = set()
        self.number = 0
        self._mover = mover
        self.clock = clock
        self._retry_first, self._retry_most = retry
        self.on_change = on_change
        self._log = structlog.get_logger("citadel.residency")
        self._moves: dict[str, asyncio.Task[None]] = {}
        self._stirred = asyncio.Event()
        self._waiters: set[asyncio.Future[None]] = set()
        self._states: dict[str, str] = {}

    # For those who speak to it.

    def notice(self) -> Notice:
        """How all models are now."""
        now = self.clock()
        return Notice(self.number, {name: self._told(model, now) for name, model in self.holdings.items()})

    def connected(self) -> Gateway:
        """A gateway has connected; it is to be told the notice, and heard by `report`."""
        gateway = Gateway()
        self.gateways.add(gateway)
        return gateway

    def gone(self, gateway: Gateway) -> None:
        """Its connection is over. What it had in hand the engine still finishes before it goes."""
        self.gateways.discard(gateway)
        self.take_stock()

    def report(self, gateway: Gateway, report: Report) -> None:
        """Take in what a gateway says."""
        now = self.clock()
        for name, asked in report.models.items():
            model = self.holdings.get(name)
            if model is None:
                continue
            # What it counted before its first word is not known to be new.
            new = asked.asked - gateway.of(name).asked if gateway.seen >= 0 else asked.waiting
            if new > 0:
                model.demand.note(now, new)
            if new > 0 or asked.in_hand:
                self.tallies[name].last_used = now
        gateway.models, gateway.seen = report.models, report.seen
        self.take_stock()

    def observe(self, name: str, state: State, reason: str = "") -> None:
        """Take note of where systemd has an engine that nobody here moves: by hand, or by its own failure."""
        model = self.holdings[name]
        if (
            name in self._moves
            or model.state is state
            or (model.state is State.ASLEEP and state is State.AWAKE)
        ):
            return
        if state is State.COLD and reason:
            self._log.warning("the engine has ended", model=name, reason=reason)
            self._failed(model, reason)
        elif state is State.AWAKE:
            self.tallies[name].reason, model.retry_at = "", 0.0
        model.goes(state, self.clock())
        model.closed = False
        self.changed()

    # Its own work.

    async def run(self) -> None:
        """Decide and act for ever; at the end, leave every model where it is."""
        try:
            while True:
                # By the time alone: a model that failed may be tried again, and those who wait for it count.
                self.take_stock()
                self._decide()
                self._tell_if_time_has_changed_anything()
                self._stirred.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_SECONDS):
                        await self._stirred.wait()
        finally:
            moves = list(self._moves.values())
            for move in moves:
                move.cancel()
            await asyncio.gather(*moves, return_exceptions=True)

    def _tell_if_time_has_changed_anything(self) -> None:
        states: dict[str, str] = {name: told.state for name, told in self.notice().models.items()}
        if states != self._states:
            self._states = states
            self.changed()

    def _decide(self) -> None:
        for _ in range(_MOST_STEPS):
            steps = self.policy.decide(self.holdings.values(), self.clock())
            if not steps:
                return
            for step in steps:
                self._do(step)
        self._log.error("the policy comes to no end", steps=[str(step) for step in steps])

    def _do(self, step: Step) -> None:
        model = self.holdings[step.model]
        self._log.info("decided", action=step.action.value, model=step.model, wanted_by=step.wanted_by)
        match step.action:
            case Action.OPEN:
                model.closed = False
                self.changed()
            case Action.CLOSE:
                self._close(model)
            case Action.WAKE:
                self._bring_up(model)
            case Action.SLEEP | Action.STOP:
                if step.wanted_by:
                    self.holdings[step.wanted_by].promised = True
                self.send_away(model, step.action)

    def _bring_up(self, model: Holding) -> None:
        asleep = model.state is State.ASLEEP

        async def work() -> None:
            began = self.clock()
            try:
                await (self._mover.wake(model.name) if asleep else self._mover.start(model.name))
            except MoveError as error:
                self._log.error("did not come up", model=model.name, reason=str(error))
                # One that did not wake still holds what it held.
                where = await self._make_sure_it_is_stopped(model) if asleep else State.COLD
                self._failed(model, str(error))
                model.goes(where, self.clock())
            else:
                now, tally = self.clock(), self.tallies[model.name]
                model.costs.measured("wake" if asleep else "start", now - began)
                model.goes(State.AWAKE, now)
                model.closed, model.retry_at = False, 0.0
                tally.reason, tally.failures, tally.loading = "", 0, None
                tally.brought_up += 1
                self._log.info("awake", model=model.name, seconds=round(now - began, 2))

        model.goes(State.WAKING, self.clock())
        self._move(model, work())

    def send_away(self, model: Holding, action: Action) -> None:
        """Have a model go, when every gateway has let go of it."""
        was_asleep = model.state is State.ASLEEP

        async def work() -> None:
            await self.until(lambda: self._is_let_go(model))
            began = self.clock()
            goal = State.ASLEEP if action is Action.SLEEP else State.COLD
            try:
                await (self._mover.sleep if action is Action.SLEEP else self._mover.stop)(model.name)
            except MoveError as error:
                self._log.error("did not leave in good order", model=model.name, reason=str(error))
                goal = await self._make_sure_it_is_stopped(model)
            now = self.clock()
            if not was_asleep:
                model.costs.measured("leave", now - began)
            model.goes(goal, now)
            model.closed = False
            self.tallies[model.name].sent_away += 1

        self._close(model)
        model.goes(State.LEAVING, self.clock())
        self._move(model, work())

    async def _make_sure_it_is_stopped(self, model: Holding) -> State:
        """After a sleep or a stop that failed: nobody knows what it holds, until it is stopped."""
        try:
            await self._mover.stop(model.name)
        except MoveError as error:
            self._log.error("cannot be stopped", model=model.name, reason=str(error))
            return State.AWAKE
        return State.COLD

    def _move(self, model: Holding, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"move of {model.name}")
        self._moves[model.name] = task

        def over(_: object) -> None:
            del self._moves[model.name]
            self.changed()

        task.add_done_callback(over)
        self.changed()

    def _close(self, model: Holding) -> None:
        model.closed = True
        self.changed()
        self.tallies[model.name].closed_by = self.number

    def _is_let_go(self, model: Holding) -> bool:
        """Whether each gateway knows that the model is closed, and has nothing of it in hand."""
        closed_by = self.tallies[model.name].closed_by
        return all(each.seen >= closed_by and not each.of(model.name).in_hand for each in self.gateways)

    def _failed(self, model: Holding, reason: str) -> None:
        """It did not come up, or has ended by itself: not again at once."""
        tally = self.tallies[model.name]
        seconds = min(self._retry_first * 2.0 ** min(tally.failures, 30), self._retry_most)
        tally.failures += 1
        tally.reason, tally.loading = reason, None
        model.retry_at = self.clock() + seconds
        # The gateways refuse those that wait, with this reason.
        model.waiting.clear()

    # How things are.

    def take_stock(self) -> None:
        """Work out from all reports who waits for what, and have it looked at."""
        now = self.clock()
        for name, model in self.holdings.items():
            model.leases = sum(gateway.of(name).in_hand for gateway in self.gateways)
            count = sum(gateway.of(name).waiting for gateway in self.gateways)
            tally = self.tallies[name]
            if now < model.retry_at or (model.state is State.AWAKE and not model.closed):
                count = 0
            # The oldest are served, or give up, first.
            del model.waiting[: max(0, len(model.waiting) - count)]
            model.waiting += [now] * (count - len(model.waiting))
            if tally.loading is not None and model.state is not State.AWAKE:
                # An operator does not wait for others' patience.
                model.waiting.insert(0, tally.loading - self.policy.patience)
            # Room that was made for it is anybody's when nobody waits for it any more.
            model.promised = model.promised and bool(model.waiting)
        self._stir()

    def changed(self) -> None:
        """Something is to be told."""
        self.number += 1
        self.on_change()
        self._stir()

    def _stir(self) -> None:
        self._stirred.set()
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a state of things."""
        while not holds():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            await waiter

    def _told(self, model: Holding, now: float) -> Told:
        tally = self.tallies[model.name]
        if model.state is State.AWAKE and not model.closed:
            return Told("awake", open=True)
        ready_in = round(self.policy.ready_in(model, self.holdings.values(), now), 1)
        if tally.reason and model.state is State.COLD and now < model.retry_at:
            return Told("failed", ready_in=ready_in, reason=tally.reason)
        return Told(model.state.value, ready_in=ready_in)
