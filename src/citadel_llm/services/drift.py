"""What services run with beside what is on disk: each difference that matters, and what would end it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from citadel_llm.config import Layers, Settings
from citadel_llm.config.errors import show_value
from citadel_llm.config.layers import KeyPath, path_of_variable
from citadel_llm.services.running import Running
from citadel_llm.services.service_settings import Tree, Values, leaves_of, values_read

DEPLOY = "ansible-playbook site.yml --tags config"

# What stands in a service's unit, too, or says which units there are.
_IN_UNITS = {"workers", "drain_timeout", "drain_timeout_seconds", "start_timeout", "residency"}
_ABSENT, _THERE = "not there", "there"


@dataclass(frozen=True)
class Difference:
    """A setting that a service runs with, and that is another one on disk.

    Attributes:
        service: The service, as `citadel status` calls it.
        setting: The setting's path; a model stands by its name.
        running: What it runs with, as text with secrets hidden.
        on_disk: What is on disk.
        where: The file and the line, or `default`; where the value on disk comes from.
        variable: The environment variable that sets what it runs with; empty when none does.
        ended_by: The command after which it runs with what is on disk.
    """

    service: str
    setting: str
    running: str
    on_disk: str
    where: str
    variable: str
    ended_by: str

    def as_json(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


def differences(running: Running, settings: Settings, layers: Layers) -> Iterator[Difference]:
    """How what a service runs with differs from what is on disk.

    Args:
        running: What the service wrote down.
        settings: What is on disk, without environment variables.
        layers: Where that comes from.
    """
    disk = settings.model_dump(mode="json")
    ours, theirs = values_read(running.service, running.settings), values_read(running.service, disk)
    _fold_models(ours, theirs)
    places = {path: place for path, place, _ in leaves_of(disk)}
    variables = {path_of_variable(name): name for name in running.variables}
    name = running.service.partition("@")[2] or running.service
    for path in dict.fromkeys([*theirs, *ours]):
        if path in ours and path in theirs and ours[path] == theirs[path]:
            continue
        setting = _spoken(path, (disk, running.settings))
        set_by = next((name for at, name in variables.items() if path[: len(at)] == at), "")
        ended_by = _ended_by(running.service, name, path)
        yield Difference(
            service=name,
            setting=setting,
            running=_shown(setting, path, ours),
            on_disk=_shown(setting, path, theirs),
            where=str(layers.origins.get(places.get(path, path)) or "default") if path in theirs else "",
            variable=set_by,
            ended_by=f"take {set_by} out of its unit" if set_by else ended_by,
        )


def _fold_models(ours: Values, theirs: Values) -> None:
    """Make one difference of a model that only one side has."""
    for side, other in ((ours, theirs), (theirs, ours)):
        known = {path[1] for path in other if path[0] == "models" and len(path) > 1}
        for path in [path for path in side if path[0] == "models" and len(path) > 1]:
            if path[1] not in known:
                del side[path]
                side[path[:2]] = _THERE


def _shown(setting: str, path: KeyPath, values: Values) -> str:
    if path not in values:
        return _ABSENT
    return _THERE if values[path] is _THERE else show_value(setting, values[path])


def _ended_by(service: str, name: str, path: KeyPath) -> str:
    if len(path) == 2 and path[0] == "models":  # noqa: PLR2004 - a whole model: its unit comes or goes
        return DEPLOY
    if _IN_UNITS & set(map(str, path[1:])) and path[0] in {"gateway", "models"}:
        return DEPLOY
    if service.startswith("gateway"):
        return "citadel reload gateway"
    return f"citadel {'reload' if path[0] in {'logging', 'features'} else 'restart'} {name}"


def _spoken(path: KeyPath, trees: Sequence[Tree]) -> str:
    """A path as people write it, in which what has a name stands by that: `models[phi].task`."""
    named = {
        tuple(shown[: len(place[:end])])
        for tree in trees
        for shown, place, _ in leaves_of(tree)
        for end in range(1, len(place) + 1)
        if isinstance(place[end - 1], int)
    }
    text = ""
    for end, part in enumerate(path, 1):
        text += f"[{part}]" if path[:end] in named else f".{part}" if text else str(part)
    return text
