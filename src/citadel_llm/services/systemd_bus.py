"""A connection to the system bus, on which systemd answers.

SystemdError           systemd cannot be asked, or did not do it
├── NoSuchUnitError    there is no such unit, or nothing is known of it
├── NotPermittedError  this account may not do that
└── JobFailedError     systemd tried, and it did not work
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from dbus_fast import BusType, DBusFastError, Message, MessageType, unpack_variants
from dbus_fast.aio import MessageBus

SYSTEMD = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = f"{SYSTEMD}.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"
_BUS = "org.freedesktop.DBus"
_ANSWER_SECONDS = 30.0
_LOST = "the connection to the system bus was lost"
_REFUSALS = {
    f"{_BUS}.Error.AccessDenied",
    f"{_BUS}.Error.AuthFailed",
    f"{_BUS}.Error.InteractiveAuthorizationRequired",
}
_FAILURES = {
    "canceled": "another request took its place",
    "dependency": "a unit that it needs failed",
    "failed": "it failed",
    "timeout": "it took too long",
}


class SystemdError(Exception):
    """systemd cannot be asked, or did not do it. The message is for people."""


class NoSuchUnitError(SystemdError):
    """There is no such unit, or systemd has not loaded it."""


class NotPermittedError(SystemdError):
    """This account may not do that."""


class JobFailedError(SystemdError):
    """systemd tried, and it did not work.

    Attributes:
        result: systemd's word for it: failed, timeout, dependency, canceled, …
    """

    def __init__(self, doing: str, result: str) -> None:
        super().__init__(f"{doing}: {_FAILURES.get(result, result)}")
        self.result = result


def unit_path(unit: str) -> str:
    """The D-Bus object of a unit: what is no letter or digit becomes `_` and two hexadecimal digits."""
    escaped = "".join(
        char if char.isascii() and (char.isalpha() or (place and char.isdigit())) else _escape(char)
        for place, char in enumerate(unit)
    )
    return f"{PATH}/unit/{escaped}"


class Watch:
    """The units that may have changed since they were last looked at: at first all of them."""

    def __init__(self, units: Sequence[str]) -> None:
        self.by_path = {unit_path(unit): unit for unit in units}
        self.moved = set(units)
        self._woken = asyncio.Event()

    def hear(self, path: str | None) -> None:
        """Take in that the unit of this path may have changed; without a path, that any may have."""
        self.moved |= {unit for each, unit in self.by_path.items() if path in {each, None}}
        self._woken.set()

    async def wait(self) -> None:
        """Wait until something was heard since the last wait."""
        await self._woken.wait()
        self._woken.clear()


class Connection:
    """A connection that hears of every job's end; each call raises SystemdError when it is lost."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._lost: asyncio.Future[None] = asyncio.ensure_future(
            bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        )
        self._lost.add_done_callback(self._on_lost)
        self._systemd = ""  # systemd's address; nobody else's signals count
        self._results: dict[str, asyncio.Future[str]] = {}
        self._callers = 0
        self._watches: list[Watch] = []
        bus.add_message_handler(self._on_message)

    @classmethod
    async def open(cls) -> "Connection":
        """Connect, and subscribe to what systemd does.

        Raises:
            SystemdError: There is no system bus, or no systemd on it.
        """
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                made = cls(await MessageBus(bus_type=BusType.SYSTEM).connect())
        except (OSError, EOFError, DBusFastError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it does not answer"
            raise SystemdError(
                f"systemd cannot be asked: there is no system bus to be reached here ({reason}); "
                "run this on the host itself, not in a container or a chroot of it"
            ) from error
        try:
            await made._subscribe()
        except BaseException:
            await made.close()
            raise
        return made

    @property
    def alive(self) -> bool:
        """Whether it has not been lost."""
        return not self._lost.done()

    async def close(self) -> None:
        """End it."""
        self._bus.disconnect()
        await asyncio.wait([self._lost])

    async def call(  # noqa: PLR0917 - a D-Bus call has these parts
        self, path: str, interface: str, member: str, signature: str, body: list[Any], doing: str
    ) -> list[Any]:
        """Call a method of systemd's, and return what it answers.

        Args:
            path: Of the object.
            interface: Of the method.
            member: The method.
            signature: Of its arguments.
            body: Its arguments.
            doing: What it is for, for the error's message.
        """
        return await self._call(SYSTEMD, path, interface, member, signature, body, doing)

    async def manager(self, method: str, unit: str, *further: str, doing: str) -> list[Any]:
        """Call a method of systemd's manager on a unit."""
        arguments = [unit, *further]
        return await self.call(PATH, MANAGER, method, "s" * len(arguments), arguments, doing)

    async def properties(self, unit: str) -> dict[str, Any]:
        """All properties of a unit, of each of its interfaces."""
        doing = f"systemd cannot be asked for {unit}"
        (found,) = await self.call(unit_path(unit), PROPERTIES, "GetAll", "s", [""], doing)
        return dict(unpack_variants(found))

    async def job(self, method: str, unit: str, doing: str) -> str:
        """Have systemd do something to a unit, and wait for the end: its result, `done` when it is good."""
        # The end of a quick job is told before the call returns which one it is: all are kept meanwhile.
        self._callers += 1
        try:
            (job,) = await self.manager(method, unit, "replace", doing=doing)
            return await self._result(job)
        finally:
            self._callers -= 1
            if not self._callers:
                self._results.clear()

    @contextlib.asynccontextmanager
    async def watching(self, units: Sequence[str]) -> AsyncIterator[Watch]:
        """Hear of these units' changes."""
        watch = Watch(units)
        rules = [
            f"type='signal',sender='{SYSTEMD}',interface='{PROPERTIES}',path='{path}'"
            for path in watch.by_path
        ]
        rules.append(f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='Reloading'")
        self._watches.append(watch)
        try:
            for rule in rules:
                await self._match("AddMatch", rule)
            yield watch
        finally:
            self._watches.remove(watch)
            with contextlib.suppress(SystemdError):
                for rule in rules:
                    await self._match("RemoveMatch", rule)

    async def _subscribe(self) -> None:
        await self._match(
            "AddMatch", f"type='signal',sender='{_BUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'"
        )
        await self._match(
            "AddMatch", f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'"
        )
        doing = "systemd cannot be asked"
        (self._systemd,) = await self._call(
            _BUS, "/org/freedesktop/DBus", _BUS, "GetNameOwner", "s", [SYSTEMD], doing
        )
        await self.call(PATH, MANAGER, "Subscribe", "", [], doing)

    async def _match(self, member: str, rule: str) -> None:
        doing = "the system bus does not tell of systemd"
        await self._call(_BUS, "/org/freedesktop/DBus", _BUS, member, "s", [rule], doing)

    async def _call(  # noqa: PLR0917
        self, to: str, path: str, interface: str, member: str, signature: str, body: list[Any], doing: str
    ) -> list[Any]:
        message = Message(
            destination=to, path=path, interface=interface, member=member, signature=signature, body=body
        )
        if not self.alive:
            raise SystemdError(f"{doing}: {_LOST}")
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                reply = await self._bus.call(message)
        except TimeoutError as error:
            raise SystemdError(f"{doing}: no answer within {_ANSWER_SECONDS:.0f} s") from error
        except (OSError, EOFError) as error:
            raise SystemdError(f"{doing}: {_LOST}") from error
        if reply is None:
            raise SystemdError(f"{doing}: {_LOST}")
        if reply.message_type is not MessageType.ERROR:
            return list(reply.body)
        reason = reply.body[0] if reply.signature.startswith("s") else reply.error_name
        if reply.error_name in _REFUSALS:
            raise NotPermittedError(f"not permitted: {doing}: {reason}")
        if reply.error_name == f"{SYSTEMD}.NoSuchUnit":
            raise NoSuchUnitError(f"{doing}: {reason}")
        raise SystemdError(f"{doing}: {reason}")

    def _result(self, job: str) -> asyncio.Future[str]:
        return self._results.setdefault(job, asyncio.get_running_loop().create_future())

    def _on_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == _BUS and message.member == "NameOwnerChanged":
            self._systemd = message.body[2]
            self._tell_watches()
        elif message.sender != self._systemd:
            return
        elif message.member == "JobRemoved":
            _, job, _, result = message.body
            if self._callers and not self._result(job).done():
                self._result(job).set_result(result)
        elif message.member == "PropertiesChanged":
            self._tell_watches(message.path)
        elif message.member == "Reloading":
            self._tell_watches()

    def _tell_watches(self, path: str | None = None) -> None:
        for watch in self._watches:
            watch.hear(path)

    def _on_lost(self, lost: asyncio.Future[None]) -> None:
        lost.exception()  # whatever it was: who waits is told
        for result in self._results.values():
            if not result.done():
                result.set_exception(SystemdError(_LOST))
        self._tell_watches()


def _escape(char: str) -> str:
    return "".join(f"_{byte:02x}" for byte in char.encode())
