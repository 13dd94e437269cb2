"""Which checks a host has: the built-in ones, which follow from its settings, and the site's own."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from citadel_llm.config import Settings
from citadel_llm.config.health import (
    BuiltIn,
    CertificateCheck,
    CheckOptions,
    CommandCheck,
    CpuCheck,
    DiskCheck,
    GpuCheck,
    HttpCheck,
    MemoryCheck,
    OwnCheck,
    ProcessCheck,
    Recovery,
    TcpCheck,
)
from citadel_llm.health_checks import probes
from citadel_llm.health_checks.probes import Probe
from citadel_llm.services.service_manager import services_of
from citadel_llm.services.systemd import Systemd

# Slower than systemd's watchdog, which acts first on a process that gives no sign of life.
_GATEWAY = CheckOptions(
    interval_seconds=10,
    failures=8,
    recovery=Recovery(action="restart", service="gateway"),
)
_SLOW = CheckOptions(interval_seconds=60)


@dataclass(frozen=True)
class HealthCheck:
    """One check: what looks, how often, and what follows.

    Attributes:
        name: What it is called.
        kind: http, tcp, process, disk, memory, cpu, gpu, certificate, command or function.
        probe: Looks once; any asynchronous function that returns a `Reading`.
        options: How often it looks, and what follows from what it sees.
        remedy: What people may do when it has failed.
    """

    name: str
    kind: str
    probe: Probe
    options: CheckOptions = field(default_factory=CheckOptions)
    remedy: str = ""


class CheckError(Exception):
    """The checks do not fit together on this host. The message names the setting."""


def checks_of(settings: Settings, systemd: Systemd) -> list[HealthCheck]:
    """All checks of a host, each after those that it depends on.

    Raises:
        CheckError: One depends on a check that there is not, or on itself.
    """
    built_in = [
        _tuned(check, tuning)
        for check in built_in_checks(settings, systemd)
        if (tuning := _tuning(settings, check.name)).enabled
    ]
    return _in_order([*built_in, *(_own(check, systemd) for check in settings.health.checks)])


def built_in_checks(settings: Settings, systemd: Systemd) -> Iterator[HealthCheck]:
    """The checks that need no setting, as they come."""
    for service in services_of(settings):
        probe = probes.unit(systemd, service.unit, on_demand=service.on_demand)
        options = CheckOptions(interval_seconds=10, timeout_seconds=10, failures=2)
        remedy = f"citadel logs {service.name}, then citadel start {service.name}"
        yield HealthCheck(f"unit:{service.name}", "process", probe, options, remedy)
    yield from _gateway(settings)
    for engine in settings.engines:
        yield HealthCheck(
            f"engine:{engine.id}",
            "http",
            probes.http("http://engine/health", socket=engine.socket),
            CheckOptions(interval_seconds=15, failures=4, depends_on=(f"unit:{engine.id}",)),
            f"citadel logs {engine.id}, then citadel restart {engine.id}",
        )
    for folder in disks(settings):
        remedy = "make room: old releases, logs, caches"
        yield HealthCheck(f"disk:{folder}", "disk", probes.disk(folder, settings.health.disk), _SLOW, remedy)
    yield HealthCheck(
        "memory", "memory", probes.memory(settings.health.memory), remedy="citadel status: who takes it?"
    )
    yield HealthCheck("cpu", "cpu", probes.cpu(settings.health.cpu), _SLOW, "top: who takes it?")
    for index in sorted({index for engine in settings.engines for index in engine.model.gpus}):
        options = CheckOptions(interval_seconds=60, timeout_seconds=30, failures=2)
        probe = probes.gpu(index, settings.health.gpu)
        remedy = "nvidia-smi -q, dmesg; a GPU that is lost wants the host restarted"
        yield HealthCheck(f"gpu:{index}", "gpu", probe, options, remedy)


def gateway_url(settings: Settings) -> str:
    """Where the gateway is asked from the host itself."""
    scheme = "https" if settings.gateway.tls else "http"
    return f"{scheme}://{_gateway_address(settings)}"


def disks(settings: Settings) -> list[Path]:
    """The folders that are written to, one for each disk."""
    folders = (settings.root, settings.models_root, *map(Path, ("/var/lib", "/var/log", "/var/cache")))
    found: dict[int, Path] = {}
    for folder in folders:
        if folder.is_dir():
            found.setdefault(folder.stat().st_dev, folder)
    return list(found.values())


def _gateway(settings: Settings) -> Iterator[HealthCheck]:
    """The checks of the gateway, by its port: its certificate names the API, not this address."""
    url = gateway_url(settings)
    # Several share a port, and none can tell which of them did not answer.
    options = _GATEWAY if settings.gateway.workers == 1 else CheckOptions(interval_seconds=10, failures=6)
    yield HealthCheck(
        "gateway",
        "http",
        probes.http(f"{url}/health", verify=False),
        options.model_copy(update={"depends_on": ("unit:gateway",)}),
        "citadel logs gateway, then citadel restart gateway",
    )
    always = frozenset(model.name for model in settings.served_models if not model.on_demand)
    if always:
        probe = probes.ready(f"{url}/ready", always, verify=False)
        yield HealthCheck("ready", "http", probe, CheckOptions(depends_on=("gateway",)), "citadel status")
    if settings.gateway.tls:
        probe = probes.served_certificate(_gateway_address(settings), settings.health.certificate)
        options = CheckOptions(interval_seconds=3600, depends_on=("gateway",))
        remedy = "renew gateway.tls.certificate, then citadel restart gateway: it reads it when it starts"
        yield HealthCheck("certificate", "certificate", probe, options, remedy)


def _gateway_address(settings: Settings) -> str:
    address = settings.gateway.address
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    return f"[{address}]:{settings.gateway.port}" if ":" in address else f"{address}:{settings.gateway.port}"


def _own(check: OwnCheck, systemd: Systemd) -> HealthCheck:
    return HealthCheck(check.name, check.kind, _probe(check, systemd), check)


def _probe(check: OwnCheck, systemd: Systemd) -> Probe:  # noqa: PLR0911 - one for each kind
    match check:
        case HttpCheck():
            return probes.http(
                check.url,
                socket=check.socket,
                status=check.status,
                contains=check.contains,
                verify=check.verify,
            )
        case TcpCheck():
            return probes.tcp(check.address)
        case ProcessCheck(unit=str(unit)):
            return probes.unit(systemd, unit)
        case ProcessCheck(pid_file=Path() as path):
            return probes.pid_file(path)
        case DiskCheck():
            return probes.disk(check.path, check)
        case MemoryCheck():
            return probes.memory(check)
        case CpuCheck():
            return probes.cpu(check)
        case GpuCheck():
            return probes.gpu(check.index, check)
        case CertificateCheck(address=str(address)):
            return probes.served_certificate(address, check)
        case CertificateCheck(file=Path() as path):
            return probes.certificate_file(path, check)
        case CommandCheck():
            return probes.command(check.command)
    raise TypeError(f"{check.kind} is no kind of check")


def _tuning(settings: Settings, name: str) -> BuiltIn:
    """What the site says of a built-in check: by its own name, else of its family."""
    said = settings.health.built_in
    return said.get(name) or said.get(name.partition(":")[0]) or BuiltIn()


def _tuned(check: HealthCheck, tuning: BuiltIn) -> HealthCheck:
    # Not dumped: what is set is taken as it is, a recovery as a whole.
    changes = {name: value for name, value in tuning if name != "enabled" and value is not None}
    return replace(check, options=check.options.model_copy(update=changes))


def _in_order(checks: list[HealthCheck]) -> list[HealthCheck]:
    """The checks, each after those that it depends on."""
    known = {check.name: check for check in checks}
    ordered: dict[str, HealthCheck] = {}

    def add(check: HealthCheck, below: tuple[str, ...]) -> None:
        if check.name in below:
            raise CheckError(f"health: {' -> '.join([*below, check.name])}: a check cannot depend on itself")
        for name in check.options.depends_on:
            # One that is switched off vouches for nothing, and stands in nobody's way.
            if name in known:
                add(known[name], (*below, check.name))
        ordered[check.name] = check

    for check in checks:
        if check.name not in ordered:
            add(check, ())
    return list(ordered.values())
