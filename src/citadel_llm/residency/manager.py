"""Lets the models of a host take turns: knows where each is, has the policy decide, and sees it done.

It speaks to gateways and operators by `messages` and to systemd and the engines by a `Mover`; both are handed
in. All of it runs in one event loop.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from citadel_llm.residency.holding import Holding, State
from citadel_llm.residency.messages import Asked, Command, Notice, Report, Told
from citadel_llm.residency.policy import Action, Policy, Step

_GIB = 1024**3
_TICK_SECONDS = 1.0
# More steps than this in one go would be a policy that goes round in circles.
_MOST_STEPS = 1000


class MoveError(Exception):
    """A model did not go where it was to go. The message is one line for people."""


class CommandError(Exception):
    """A command cannot be done. The message is one line for people, with what would do."""


class Mover(Protocol):
    """Moves the models of this host; each returns when the model is there, or raises MoveError."""

    async def start(self, model: str) -> None:
        """From cold to awake."""

    async def stop(self, model: str) -> None:
        """To cold."""

    async def sleep(self, model: str) -> None:
        """From awake to asleep."""

    async def wake(self, model: str) -> None:
        """From asleep to awake."""


@dataclass(eq=False)
class Gateway:
    """A gateway's connection.

    Attributes:
        seen: The number of the last notice that it has obeyed; negative before its first word.
        models: What it has of each.
    """

    seen: int = -1
    models: Mapping[str, Asked] = field(default_factory=dict)

    def of(self, model: str) -> Asked:
        """What it has of a model."""
        return self.models.get(model, Asked())


@dataclass
class Tally:
    """What became of a model so far.

    Attributes:
        reason: Why it did not come up the last time; empty when it did.
        failures: How often it did not, in a row.
        brought_up: How often it was brought up since the manager has started.
        sent_away: How often it was stopped or put to sleep.
        last_used: When it was asked for or answered last, in the clock's time; None: not yet.
        loading: Since when an operator wants it loaded; None: none does.
        closed_by: The number of the notice by which it was closed.
    """

    reason: str = ""
    failures: int = 0
    brought_up: int = 0
    sent_away: int = 0
    last_used: float | None = None
    loading: float | None = None
    closed_by: int = 0


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
        self._clock = clock
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
        now = self._clock()
        return Notice(self.number, {name: self._told(model, now) for name, model in self.holdings.items()})

    def connected(self) -> Gateway:
        """A gateway has connected; it is to be told the notice, and heard by `report`."""
        gateway = Gateway()
        self.gateways.add(gateway)
        return gateway

    def gone(self, gateway: Gateway) -> None:
        """Its connection is over. What it had in hand the engine still finishes before it goes."""
        self.gateways.discard(gateway)
        self._take_stock()

    def report(self, gateway: Gateway, report: Report) -> None:
        """Take in what a gateway says."""
        now = self._clock()
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
        self._take_stock()

    async def obey(self, command: Command) -> None:
        """Do what an operator wants, and return when it is done.

        Raises:
            CommandError: It cannot be.
        """
        model = self.holdings.get(command.model)
        if model is None:
            known = ", ".join(self.holdings) or "there are none"
            raise CommandError(f"{command.model} is no model on demand of this host: {known}")
        match command.action:
            case "load":
                await self._load(model)
            case "unload":
                await self._unload(model)
            case "pin":
                self._check_pins(model)
                model.pinned = True
                self._log.info("pinned", model=model.name)
                self._changed()
                await self._load(model)
            case "unpin":
                model.pinned = False
                self._log.info("no longer pinned", model=model.name)
                self._changed()

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
        model.goes(state, self._clock())
        model.closed = False
        self._changed()

    # Its own work.

    async def run(self) -> None:
        """Decide and act for ever; at the end, leave every model where it is."""
        try:
            while True:
                # By the time alone: a model that failed may be tried again, and those who wait for it count.
                self._take_stock()
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
            self._changed()

    def _decide(self) -> None:
        for _ in range(_MOST_STEPS):
            steps = self.policy.decide(self.holdings.values(), self._clock())
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
                self._changed()
            case Action.CLOSE:
                self._close(model)
            case Action.WAKE:
                self._bring_up(model)
            case Action.SLEEP | Action.STOP:
                if step.wanted_by:
                    self.holdings[step.wanted_by].promised = True
                self._send_away(model, step.action)

    def _bring_up(self, model: Holding) -> None:
        asleep = model.state is State.ASLEEP

        async def work() -> None:
            began = self._clock()
            try:
                await (self._mover.wake(model.name) if asleep else self._mover.start(model.name))
            except MoveError as error:
                self._log.error("did not come up", model=model.name, reason=str(error))
                # One that did not wake still holds what it held.
                where = await self._make_sure_it_is_stopped(model) if asleep else State.COLD
                self._failed(model, str(error))
                model.goes(where, self._clock())
            else:
                now, tally = self._clock(), self.tallies[model.name]
                model.costs.measured("wake" if asleep else "start", now - began)
                model.goes(State.AWAKE, now)
                model.closed, model.retry_at = False, 0.0
                tally.reason, tally.failures, tally.loading = "", 0, None
                tally.brought_up += 1
                self._log.info("awake", model=model.name, seconds=round(now - began, 2))

        model.goes(State.WAKING, self._clock())
        self._move(model, work())

    def _send_away(self, model: Holding, action: Action) -> None:
        was_asleep = model.state is State.ASLEEP

        async def work() -> None:
            await self._until(lambda: self._is_let_go(model))
            began = self._clock()
            goal = State.ASLEEP if action is Action.SLEEP else State.COLD
            try:
                await (self._mover.sleep if action is Action.SLEEP else self._mover.stop)(model.name)
            except MoveError as error:
                self._log.error("did not leave in good order", model=model.name, reason=str(error))
                goal = await self._make_sure_it_is_stopped(model)
            now = self._clock()
            if not was_asleep:
                model.costs.measured("leave", now - began)
            model.goes(goal, now)
            model.closed = False
            self.tallies[model.name].sent_away += 1

        self._close(model)
        model.goes(State.LEAVING, self._clock())
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
            self._changed()

        task.add_done_callback(over)
        self._changed()

    def _close(self, model: Holding) -> None:
        model.closed = True
        self._changed()
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
        model.retry_at = self._clock() + seconds
        # The gateways refuse those that wait, with this reason.
        model.waiting.clear()

    # Operators.

    async def _load(self, model: Holding) -> None:
        tally = self.tallies[model.name]
        if model.state is not State.AWAKE:
            tally.loading = tally.loading or self._clock()
            tally.reason, model.retry_at = "", 0.0
            self._take_stock()
        await self._until(lambda: model.state is State.AWAKE or bool(tally.reason))
        if tally.reason:
            raise CommandError(f"{model.name} did not come up: {tally.reason}")

    async def _unload(self, model: Holding) -> None:
        if model.pinned:
            raise CommandError(f"{model.name} is pinned: citadel models unpin {model.name}")
        self.tallies[model.name].loading = None
        await self._until(lambda: not model.moving)
        if model.state in {State.AWAKE, State.ASLEEP}:
            self._log.info("unloaded by hand", model=model.name)
            self._send_away(model, Action.STOP)
        await self._until(lambda: not model.moving)

    def _check_pins(self, model: Holding) -> None:
        pinned = {each.name: each for each in self.holdings.values() if each.pinned} | {model.name: model}
        for device, there in self.policy.devices.items():
            held = {name: each.footprint.awake.get(device, 0) for name, each in pinned.items()}
            held = {name: size for name, size in held.items() if size}
            if sum(held.values()) > there:
                others = ", ".join(name for name in held if name != model.name) or "nothing else"
                raise CommandError(
                    f"{model.name} cannot be pinned: with {others} pinned it would hold "
                    f"{sum(held.values()) / _GIB:.1f} GiB of device {device}, and models on demand have "
                    f"{there / _GIB:.1f} GiB there"
                )

    # How things are.

    def _take_stock(self) -> None:
        """Work out from all reports who waits for what, and have it looked at."""
        now = self._clock()
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

    def _changed(self) -> None:
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

    async def _until(self, holds: Callable[[], bool]) -> None:
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
