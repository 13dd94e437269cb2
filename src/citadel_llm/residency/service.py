"""The manager of the models on demand as a service: `citadel run manager`."""

import asyncio
import contextlib
import os
import time
from pathlib import Path

import msgspec

from citadel_llm import config
from citadel_llm.residency import record
from citadel_llm.residency.door import Door
from citadel_llm.residency.holding import Demand, Footprint, Holding, State
from citadel_llm.residency.manager import Manager
from citadel_llm.residency.messages import STATE
from citadel_llm.residency.moves import EngineMover, said_of_failure
from citadel_llm.residency.policy import Policy
from citadel_llm.services.base_service import BaseService
from citadel_llm.services.errors import ConfigurationError, StartError
from citadel_llm.services.systemd import Systemd, SystemdError, UnitState

# Over about how long demand is remembered: a request of five minutes ago counts half.
_HALF_LIFE_SECONDS = 300.0
# What a start is guessed to take before one was measured, beside reading the weights from the disk.
_GUESSED_START_SECONDS, _GUESSED_BYTES_A_SECOND = 40.0, 500e6
_GUESSED_WAKE_SECONDS, _GUESSED_LEAVE_SECONDS = 3.0, 5.0
_SHOW_SECONDS = 1.0
_RECORD = "models.json"

_STATES = {
    "active": State.AWAKE,
    "reloading": State.AWAKE,
    "activating": State.WAKING,
    "deactivating": State.LEAVING,
}


class ManagerService(BaseService):
    """Lets the models on demand of this host take turns."""

    name = "manager"

    def __init__(self, settings: config.Settings, config_directory: Path | None = None) -> None:
        super().__init__(settings, config_directory)
        self._engines = {each.model.name: each for each in settings.engines if each.model.on_demand}
        state = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
        self._record = Path(state) / _RECORD if state else None
        self._remembered = record.read(self._record) if self._record else {}
        self._open = contextlib.AsyncExitStack()
        self._shown = b""
        self._changed = asyncio.Event()

    async def configure(self) -> None:
        """See that the plan says what each model holds.

        Raises:
            ConfigurationError: It does not.
        """
        if not self._engines:
            raise ConfigurationError("no model runs on demand: there is nothing to manage")
        for name, engine in self._engines.items():
            if engine.plan is None or not engine.plan.memory:
                raise ConfigurationError(
                    f"the plan does not say what {name} holds (models.plan.memory): deploy with --tags config"
                )

    async def start(self) -> None:
        """See where all models are, and manage them from then on.

        Raises:
            StartError: systemd cannot be asked, or a socket cannot be made.
        """
        options = self.settings.residency
        budget = self.settings.placement.on_demand
        try:
            systemd = await self._open.enter_async_context(Systemd())
            mover = EngineMover(self._engines, systemd)
            names = {engine.unit: name for name, engine in self._engines.items()}
            states = {names[each.unit]: each for each in await systemd.states(list(names))}
        except SystemdError as error:
            raise StartError(f"systemd cannot be asked: {error}") from error
        policy = Policy(
            {each.device: each.bytes for each in budget.devices},
            budget.host_bytes,
            minimum_stay=options.minimum_stay_seconds,
            patience=options.patience_seconds,
            # In the other half of its time it comes up.
            longest_wait=options.wait_seconds / 2,
        )
        holdings = {name: self._holding(name) for name in self._engines}
        manager = Manager(
            holdings,
            policy,
            mover,
            clock=time.monotonic,
            retry=(options.retry_seconds, options.retry_max_seconds),
        )
        for name, state in states.items():
            where, reason = _where(state)
            if where is State.AWAKE and holdings[name].footprint.host_bytes is not None:
                where = State.ASLEEP if await mover.is_asleep(name) else where
            manager.observe(name, where, reason)
        door = Door(manager)

        def tell() -> None:
            door.tell()
            self._changed.set()

        manager.on_change = tell
        try:
            await self._open.enter_async_context(door.open(self.settings.run_dir))
        except OSError as error:
            raise StartError(f"cannot listen below {self.settings.run_dir}: {error}") from error
        self._manager = manager
        self.spawn(manager.run(), "the manager")
        self.spawn(self._watch(systemd, names), "the watch over the engines' units")
        self.spawn(self._show(), "the account of the models")

    async def stop(self) -> None:
        """Let go of everything; the models stay where they are."""
        await self._open.aclose()
        if hasattr(self, "_manager"):
            self._keep()

    def _holding(self, name: str) -> Holding:
        plan = self._engines[name].plan
        assert plan is not None  # noqa: S101 - `configure` makes sure
        known = self._remembered.get(name)
        size = sum(each.awake_bytes for each in plan.memory) - plan.kv_cache_bytes * len(plan.memory)
        costs = (
            known.costs()
            if known
            else record.Remembered(
                start=_GUESSED_START_SECONDS + max(0, size) / _GUESSED_BYTES_A_SECOND,
                wake=_GUESSED_WAKE_SECONDS,
                leave=_GUESSED_LEAVE_SECONDS,
            ).costs()
        )
        footprint = Footprint(
            {each.device: each.awake_bytes for each in plan.memory},
            {each.device: each.asleep_bytes for each in plan.memory},
            plan.asleep_host_bytes,
        )
        return Holding(
            name, footprint, costs, Demand(_HALF_LIFE_SECONDS), pinned=known.pinned if known else False
        )

    async def _watch(self, systemd: Systemd, names: dict[str, str]) -> None:
        async for state in systemd.changes(list(names)):
            where, reason = _where(state)
            self._manager.observe(names[state.unit], where, reason)

    async def _show(self) -> None:
        """Write where all models are for all to read, and keep what is to be known the next time."""
        kept: object = None
        while True:
            account = self._account()
            text = msgspec.json.format(msgspec.json.encode(account)) + b"\n"
            if text != self._shown:
                _replace(self.settings.run_dir / STATE, text, mode=0o644)
                self._shown = text
            if kept != (remembered := self._as_remembered(exact=False)):
                kept = remembered
                self._keep()
            awake = [name for name, each in self._manager.holdings.items() if each.state is State.AWAKE]
            self.status(f"awake: {', '.join(awake) or 'none'}")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SHOW_SECONDS):
                    await self._changed.wait()

    def _account(self) -> dict[str, object]:
        """How all models are, for `citadel models`."""
        manager, now, unix = self._manager, time.monotonic(), time.time()
        notice = manager.notice()
        models = {}
        for name, model in manager.holdings.items():
            tally, told = manager.tallies[name], notice.models[name]
            models[name] = {
                "state": told.state,
                "since": round(unix - (now - model.since), 1) if model.since else None,
                "ready_in_seconds": told.ready_in,
                "reason": told.reason,
                "pinned": model.pinned,
                "in_hand": model.leases,
                "waiting": len(model.waiting),
                "last_used": self._last_used(name, now, unix) or None,
                "brought_up": tally.brought_up,
                "sent_away": tally.sent_away,
                "start_seconds": round(model.costs.start, 1),
                "wake_seconds": round(model.costs.wake, 1),
                "holds": [{"device": device, "bytes": size} for device, size in model.held().items()],
                "asks_for": [
                    {"device": device, "bytes": size} for device, size in model.footprint.awake.items()
                ],
            }
        budget = [{"device": device, "bytes": size} for device, size in manager.policy.devices.items()]
        return {"budget": budget, "host_budget_bytes": manager.policy.host_bytes, "models": models}

    def _last_used(self, name: str, now: float, unix: float) -> float:
        last = self._manager.tallies[name].last_used
        if last is not None:
            return round(unix - (now - last), 0)
        known = self._remembered.get(name)
        return known.last_used if known else 0.0

    def _as_remembered(self, *, exact: bool = True) -> dict[str, record.Remembered]:
        now, unix = time.monotonic(), time.time()
        return {
            name: record.Remembered(
                start=round(model.costs.start, 2),
                wake=round(model.costs.wake, 2),
                leave=round(model.costs.leave, 2),
                pinned=model.pinned,
                last_used=self._last_used(name, now, unix) if exact else 0.0,
            )
            for name, model in self._manager.holdings.items()
        }

    def _keep(self) -> None:
        if self._record is None:
            return
        try:
            record.write(self._record, self._as_remembered())
        except OSError as error:
            self.log.warning("what moves take could not be written down", error=str(error))


def _where(state: UnitState) -> tuple[State, str]:
    """Where systemd has an engine; with a reason when it has failed."""
    if state.active_state == "failed" or state.sub_state == "auto-restart":
        return State.COLD, said_of_failure(state)
    return _STATES.get(state.active_state, State.COLD), ""


def _replace(file: Path, text: bytes, mode: int) -> None:
    draft = file.with_suffix(".new")
    draft.write_bytes(text)
    draft.chmod(mode)
    draft.replace(file)
