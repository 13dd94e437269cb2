"""What operators want of the manager: a model loaded, unloaded, pinned, or let go."""

import structlog

from citadel_llm.residency.holding import Holding, State
from citadel_llm.residency.manager import Manager
from citadel_llm.residency.messages import Command
from citadel_llm.residency.policy import Action

_GIB = 1024**3
_log = structlog.get_logger("citadel.residency")


class CommandError(Exception):
    """A command cannot be done. The message is one line for people, with what would do."""


async def obey(manager: Manager, command: Command) -> None:
    """Do what an operator wants, and return when it is done.

    Raises:
        CommandError: It cannot be.
    """
    model = manager.holdings.get(command.model)
    if model is None:
        known = ", ".join(manager.holdings) or "there are none"
        raise CommandError(f"{command.model} is no model on demand of this host: {known}")
    _log.info("an operator's command", action=command.action, model=model.name)
    match command.action:
        case "load":
            await _load(manager, model)
        case "unload":
            await _unload(manager, model)
        case "pin":
            _check_pins(manager, model)
            model.pinned = True
            manager.changed()
            await _load(manager, model)
        case "unpin":
            model.pinned = False
            manager.changed()


async def _load(manager: Manager, model: Holding) -> None:
    tally = manager.tallies[model.name]
    if model.state is not State.AWAKE:
        tally.loading = tally.loading or manager.clock()
        tally.reason, model.retry_at = "", 0.0
        manager.take_stock()
    await manager.until(lambda: model.state is State.AWAKE or bool(tally.reason))
    if tally.reason:
        raise CommandError(f"{model.name} did not come up: {tally.reason}")


async def _unload(manager: Manager, model: Holding) -> None:
    if model.pinned:
        raise CommandError(f"{model.name} is pinned: citadel models unpin {model.name}")
    manager.tallies[model.name].loading = None
    await manager.until(lambda: not model.moving)
    if model.state in {State.AWAKE, State.ASLEEP}:
        manager.send_away(model, Action.STOP)
    await manager.until(lambda: not model.moving)


def _check_pins(manager: Manager, model: Holding) -> None:
    """See that all that are pinned fit in together.

    Raises:
        CommandError: They do not.
    """
    pinned = {each.name: each for each in manager.holdings.values() if each.pinned} | {model.name: model}
    for device, there in manager.policy.devices.items():
        held = {name: size for name, each in pinned.items() if (size := each.footprint.awake.get(device, 0))}
        if sum(held.values()) > there:
            others = ", ".join(name for name in held if name != model.name) or "nothing else"
            raise CommandError(
                f"{model.name} cannot be pinned: with {others} pinned it would hold "
                f"{sum(held.values()) / _GIB:.1f} GiB of device {device}, and models on demand have "
                f"{there / _GIB:.1f} GiB there"
            )
