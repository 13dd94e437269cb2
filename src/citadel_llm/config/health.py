"""The settings of the health checks: what is looked at, how often, and what is done about it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from citadel_llm.config.parts import MisfitError, Part, Seconds

# What the built-in checks' names begin with; after a colon stands which of several one is.
FAMILIES = ("unit", "gateway", "ready", "engine", "certificate", "disk", "memory", "cpu", "gpu")

_Times = Annotated[int, Field(ge=1, le=1000)]
_Percent = Annotated[float, Field(gt=0, le=100)]
_Gib = Annotated[float, Field(ge=0)]
CheckName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
# HOST:PORT, an IPv6 address in brackets.
Address = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:]+\]|[^\s:/\[\]]+):[0-9]{1,5}$")]
Command = tuple[str, ...]


def _is_absolute(command: Command) -> Command:
    if command and not command[0].startswith("/"):
        message = f"must begin with the program's whole path (no shell looks for it), not {command[0]!r}"
        raise ValueError(message)
    return command


class Recovery(Part):
    """What is done when a check has failed, and how often at most."""

    action: Literal["none", "notify", "restart", "drain", "command"] = "notify"
    """Nothing; tell of it; besides, restart a service; take an engine out of service, which stays stopped
    until somebody starts it; run a command."""
    service: str | None = None
    """What is restarted or drained: gateway, or an engine by its name."""
    command: Command = ()
    """Program and arguments for the action command; it gets the event as JSON on its standard input."""
    attempts: _Times = 2
    """How often it is done at most within `within_seconds`; after that it is only told."""
    within_seconds: Seconds = 3600.0
    """The time in which attempts are counted."""
    pause_seconds: Seconds = 300.0
    """How long after an attempt the next one may follow; doubled with each."""

    _command_is_absolute = field_validator("command")(_is_absolute)

    @model_validator(mode="after")
    def _is_complete(self) -> "Recovery":
        acts_on_service = self.action in {"restart", "drain"}
        if acts_on_service != (self.service is not None):
            message = (
                f"must name what to {self.action}" if acts_on_service else "is for restart and drain alone"
            )
            raise MisfitError(("service",), message)
        if (self.action == "command") != bool(self.command):
            message = "must hold the command" if not self.command else "is for the action command alone"
            raise MisfitError(("command",), message)
        if self.action == "drain" and self.service == "gateway":
            message = "must be an engine: a gateway that stays stopped serves nobody. Restart it instead"
            raise MisfitError(("service",), message)
        return self

    @property
    def acts(self) -> bool:
        """Whether it does more than tell."""
        return self.action in {"restart", "drain", "command"}


class CheckOptions(Part):
    """How often a check looks, and what follows from what it sees."""

    interval_seconds: Seconds = 30.0
    """How long after a look the next one follows."""
    timeout_seconds: Seconds = 5.0
    """How long a look may take."""
    failures: _Times = 3
    """Bad looks in a row until it has failed."""
    successes: _Times = 2
    """Good looks in a row until it is well again."""
    depends_on: tuple[CheckName, ...] = ()
    """Checks without which this one means nothing: while one of them is not well, it is skipped."""
    recovery: Recovery = Recovery()
    """What is done when it has failed."""


class _OwnCheck(CheckOptions):
    name: CheckName
    """What it is called; no built-in check's name."""


class DiskLimits(Part):
    """How much must be free on a disk."""

    warn_free_gib: _Gib = 5.0
    """Below this it is a warning: logs and a database still fit, another release does not."""
    fail_free_gib: _Gib = 1.0
    """Below this it has failed, in GiB."""
    fail_free_inodes: Annotated[int, Field(ge=0)] = 1000
    """So has it with fewer inodes free: no more files can be made, however much room there is."""


class MemoryLimits(Part):
    """When the host is short of memory."""

    fail_available_gib: _Gib = 0.5
    """Below this it has failed (MemAvailable, in GiB)."""
    fail_pressure_percent: _Percent = 20.0
    """So has it when all work stood still for want of memory for this share of the last minute (the kernel's
    pressure stall information)."""


class CpuLimits(Part):
    """When the host is short of CPU time."""

    warn_pressure_percent: _Percent = 80.0
    """It is a warning when some work waited for a CPU for more than this share of the last five minutes (the
    kernel's pressure stall information); a CPU that is busy and keeps nobody waiting is well used."""
    fail_pressure_percent: _Percent = 100.0
    """It has failed with more than this; with 100 it never does, for a host that is busy is not ill."""


class GpuLimits(Part):
    """When a GPU is not well, beside what it says itself: uncorrectable errors, no row left to remap."""

    fail_celsius: Annotated[float, Field(gt=0)] = 95.0
    """From this temperature on it has failed."""


class CertificateLimits(Part):
    """How long a certificate must be good for."""

    warn_days: Annotated[float, Field(ge=0)] = 21.0
    """With fewer days left it is a warning."""
    fail_days: Annotated[float, Field(ge=0)] = 7.0
    """With fewer days left it has failed."""


class HttpCheck(_OwnCheck):
    """A URL answers as it should."""

    kind: Literal["http"]
    """Which check it is."""
    url: Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+([/?#]\S*)?$")]
    """What is asked for (GET); without a password."""
    socket: Path | None = None
    """The unix socket to ask on, where it is not the network."""
    status: Annotated[tuple[int, ...], Field(min_length=1)] = (200,)
    """The statuses that are good."""
    contains: str | None = None
    """What the answer's first 64 KiB must hold, if anything."""
    verify: bool = True
    """Whether its certificate must be good for the name in the URL."""


class TcpCheck(_OwnCheck):
    """A TCP port accepts connections."""

    kind: Literal["tcp"]
    """Which check it is."""
    address: Address
    """HOST:PORT."""


class ProcessCheck(_OwnCheck):
    """A process runs."""

    kind: Literal["process"]
    """Which check it is."""
    unit: (
        Annotated[str, Field(pattern=r"^[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|mount|target)$")] | None
    ) = None
    """The systemd unit that must be active."""
    pid_file: Path | None = None
    """The file with its process id, where it is no unit."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "ProcessCheck":
        if (self.unit is None) == (self.pid_file is None):
            raise ValueError("must name either a unit or a pid_file, and not both")
        return self


class DiskCheck(_OwnCheck, DiskLimits):
    """There is room on a disk."""

    kind: Literal["disk"]
    """Which check it is."""
    path: Path
    """A folder on it."""


class MemoryCheck(_OwnCheck, MemoryLimits):
    """There is memory."""

    kind: Literal["memory"]
    """Which check it is."""


class CpuCheck(_OwnCheck, CpuLimits):
    """There is CPU time."""

    kind: Literal["cpu"]
    """Which check it is."""


class GpuCheck(_OwnCheck, GpuLimits):
    """A GPU is well."""

    kind: Literal["gpu"]
    """Which check it is."""
    index: Annotated[int, Field(ge=0)]
    """Its index."""


class CertificateCheck(_OwnCheck, CertificateLimits):
    """A TLS certificate is not about to end."""

    kind: Literal["certificate"]
    """Which check it is."""
    address: Address | None = None
    """HOST:PORT that serves it."""
    file: Path | None = None
    """The file that holds it, in PEM."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "CertificateCheck":
        if (self.address is None) == (self.file is None):
            raise ValueError("must name either an address or a file, and not both")
        return self


class CommandCheck(_OwnCheck):
    """A command says so, by its exit code, as monitoring plugins do: 0 ok, 1 warning, 2 failed, 3 unknown."""

    kind: Literal["command"]
    """Which check it is."""
    command: Annotated[Command, Field(min_length=1)]
    """Program and arguments; the first line that it writes is what was seen."""

    _command_is_absolute = field_validator("command")(_is_absolute)


OwnCheck = Annotated[
    HttpCheck
    | TcpCheck
    | ProcessCheck
    | DiskCheck
    | MemoryCheck
    | CpuCheck
    | GpuCheck
    | CertificateCheck
    | CommandCheck,
    Field(discriminator="kind"),
]


class BuiltIn(Part):
    """What of a built-in check is other than it comes; what is absent stays."""

    enabled: bool = True
    """Whether it is made at all."""
    interval_seconds: Seconds | None = None
    """How long after a look the next one follows."""
    timeout_seconds: Seconds | None = None
    """How long a look may take."""
    failures: _Times | None = None
    """Bad looks in a row until it has failed."""
    successes: _Times | None = None
    """Good looks in a row until it is well again."""
    depends_on: tuple[CheckName, ...] | None = None
    """Checks without which this one means nothing."""
    recovery: Recovery | None = None
    """What is done when it has failed."""


class Health(Part):
    """The health checks: those that are built in need no setting."""

    built_in: dict[CheckName, BuiltIn] = {}  # noqa: RUF012 - the model is frozen
    """What is other than it comes, by the check's name (`engine:phi`) or all of a family (`engine`)."""
    disk: DiskLimits = DiskLimits()
    """What the built-in checks of disks go by."""
    memory: MemoryLimits = MemoryLimits()
    """What the built-in check of memory goes by."""
    cpu: CpuLimits = CpuLimits()
    """What the built-in check of the CPUs goes by."""
    gpu: GpuLimits = GpuLimits()
    """What the built-in checks of GPUs go by."""
    certificate: CertificateLimits = CertificateLimits()
    """What the built-in check of the gateway's certificate goes by."""
    checks: tuple[OwnCheck, ...] = ()
    """The site's own checks."""
    notify_command: Command = ()
    """Program and arguments that are run for each event (failed, well, recover, gave_up), with the event as
    JSON on standard input. The log and the metrics tell of it in any case."""
    notify_timeout_seconds: Seconds = 30.0
    """How long that, or a recovery's command, may take."""

    _command_is_absolute = field_validator("notify_command")(_is_absolute)

    @field_validator("built_in")
    @classmethod
    def _names_families(cls, value: dict[str, BuiltIn]) -> dict[str, BuiltIn]:
        for name in value:
            if name.partition(":")[0] not in FAMILIES:
                raise ValueError(f"{name!r} is no built-in check; they begin with {', '.join(FAMILIES)}")
        return value

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Health":
        seen: set[str] = set()
        for index, check in enumerate(self.checks):
            where = ("checks", index, "name")
            if check.name.partition(":")[0] in FAMILIES:
                raise MisfitError(where, f"{check.name!r} is a built-in check's name; take another")
            if check.name in seen:
                raise MisfitError(where, f"{check.name!r} is another check's name already")
            seen.add(check.name)
        return self

    @model_validator(mode="after")
    def _depend_on_what_there_is(self) -> "Health":
        own = {check.name: check.depends_on for check in self.checks}
        for index, check in enumerate(self.checks):
            for name in check.depends_on:
                if name not in own and name.partition(":")[0] not in FAMILIES:
                    raise MisfitError(("checks", index, "depends_on"), f"{name!r} is no check")
            if check.name in _reachable(check.name, own):
                raise MisfitError(("checks", index, "depends_on"), f"{check.name} would depend on itself")
        return self

    @property
    def recoveries(self) -> list[tuple[tuple[str | int, ...], Recovery]]:
        """All recoveries that the site has written, each with where it stands."""
        own = [(("checks", index, "recovery"), each.recovery) for index, each in enumerate(self.checks)]
        tuned = [
            (("built_in", name, "recovery"), each.recovery)
            for name, each in self.built_in.items()
            if each.recovery
        ]
        return [*own, *tuned]


def _reachable(name: str, edges: dict[str, tuple[str, ...]]) -> set[str]:
    """What a check depends on, directly or not."""
    found: set[str] = set()
    ahead = list(edges.get(name, ()))
    while ahead:
        each = ahead.pop()
        if each not in found:
            found.add(each)
            ahead += edges.get(each, ())
    return found
