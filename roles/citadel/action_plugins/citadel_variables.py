"""Check all variables of a host against the argument specs of all roles, and report every fault at once.

Ansible's own check sees one role at a time, stops at the first role with a fault, converts what it should
refuse, and cannot see a misspelt name. This one knows every name that a role declares.
"""

import difflib
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

Spec = dict[str, Any]
Specs = dict[str, Spec]

_TRUTHS = {"true", "false", "yes", "no", "on", "off", "1", "0"}
_SECRET_WORDS = ("password", "passwd", "secret", "token", "api_key")
_AS_IN_YAML = {None: "null", True: "true", False: "false"}
_LONGEST_VALUE = 80
_HIGHEST_PORT = 65535
# How alike a name must be to a known one to be taken for it misspelt: less when it carries a role's prefix.
_ALIKE_IN_ROLE = 0.75
_ALIKE = 0.9

_EXPECTED = {
    "str": "text (in quotes, where it looks like a number)",
    "path": "a path",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
}


class Fault(NamedTuple):
    """Something wrong: where (a variable, or a place inside it), what it was, and what would do."""

    where: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where} is {self.found}: {self.remedy}"


def read_specs(roles: Path) -> tuple[Specs, list[str]]:
    """Return the specification of each variable of all roles in a folder, and the roles' names."""
    specs: Specs = {}
    names = []
    for file in sorted(roles.glob("*/meta/argument_specs.yml")):
        names.append(file.parent.parent.name)
        entry_points = yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"]
        for entry_point in entry_points.values():
            specs |= entry_point.get("options") or {}
    return specs, names


def show(name: str, value: Any) -> str:
    """Return a value as a message may show it: short, and nothing secret."""
    if any(word in name.rsplit(".", 1)[-1].lower() for word in _SECRET_WORDS):
        return "<hidden>"
    text = _AS_IN_YAML[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def unknown_names(variables: Mapping[str, Any], specs: Specs, roles: list[str]) -> Iterator[Fault]:
    """Yield the names that nothing declares, where they carry a role's prefix or nearly are a known name."""
    for name in sorted(variables):
        if name in specs or name.startswith(("_", "ansible_")):
            continue
        in_role = any(name.startswith(f"{role}_") for role in roles)
        cutoff = _ALIKE_IN_ROLE if in_role else _ALIKE
        nearest = difflib.get_close_matches(name, specs, n=1, cutoff=cutoff)
        if nearest:
            yield Fault(
                name, show(name, variables[name]), f"no variable has this name; did you mean {nearest[0]}?"
            )
        elif in_role:
            remedy = "no variable has this name; the roles' READMEs list those that there are"
            yield Fault(name, show(name, variables[name]), remedy)


def value_faults(where: str, value: Any, spec: Spec) -> Iterator[Fault]:
    """Yield what is wrong with a value, going down into lists and mappings."""
    kind = spec.get("type", "str")
    if value is None and "default" not in spec and not spec.get("required"):
        return
    if not _is_a(kind, value):
        yield Fault(where, show(where, value), f"it must be {_expected(where, kind)}{_example(spec)}")
    elif "choices" in spec and value not in spec["choices"]:
        yield Fault(where, show(where, value), f"it must be one of {', '.join(map(str, spec['choices']))}")
    elif kind == "list":
        yield from _list_faults(where, value, spec)
    elif kind == "dict" and "options" in spec:
        yield from _dict_faults(where, value, spec["options"])
    else:
        yield from _convention_faults(where, value, kind)


def _expected(where: str, kind: str) -> str:
    if kind in {"int", "float"} and where.endswith("_gib"):
        return f"{_EXPECTED[kind]}, in GiB and without a unit: 1 TB as disks are sold is 931"
    return _EXPECTED[kind]


def _list_faults(where: str, values: list[Any], spec: Spec) -> Iterator[Fault]:
    element = {"type": spec.get("elements", "raw"), "required": True}
    if "options" in spec:
        element["options"] = spec["options"]
    for index, value in enumerate(values):
        yield from value_faults(f"{where}[{index}]", value, element)


def _dict_faults(where: str, values: Mapping[str, Any], options: Specs) -> Iterator[Fault]:
    for key, value in values.items():
        if key in options:
            yield from value_faults(f"{where}.{key}", value, options[key])
            continue
        nearest = difflib.get_close_matches(str(key), options, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(sorted(options))}"
        yield Fault(f"{where}.{key}", show(str(key), value), f"there is no such key; {hint}")
    for key, option in options.items():
        if option.get("required") and key not in values:
            yield Fault(
                f"{where}.{key}", "missing", f"it must be set to {_EXPECTED[option.get('type', 'str')]}"
            )


def _convention_faults(where: str, value: Any, kind: str) -> Iterator[Fault]:
    """Yield breaches of what holds for all variables of a kind of name: ports, networks, sizes."""
    name = where.rstrip("]0123456789").rstrip("[")
    if kind in {"int", "float"}:
        number = float(value)
        if name.endswith(("port", "ports")) and not 1 <= number <= _HIGHEST_PORT:
            yield Fault(where, show(where, value), f"a port is between 1 and {_HIGHEST_PORT}")
        elif number < 0:
            yield Fault(where, show(where, value), "it must not be negative")
    elif kind == "str" and name.endswith("sources") and not _is_network(value):
        yield Fault(where, show(where, value), "it must be a network such as 10.0.0.0/8 or fd00::/8")


def _is_network(value: str) -> bool:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True


def _is_a(kind: str, value: Any) -> bool:
    """Tell whether a value is of a type; text from `-e name=value` may stand for a number or a truth."""
    return _CHECKS[kind](value)


def _reads_as(number: type, value: Any) -> bool:
    try:
        number(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in _TRUTHS)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "path": lambda value: isinstance(value, str),
    "int": lambda value: not isinstance(value, bool | float) and _reads_as(int, value),
    "float": lambda value: not isinstance(value, bool) and _reads_as(float, value),
    "bool": _is_truth,
    "list": lambda value: isinstance(value, list | tuple),
    "dict": lambda value: isinstance(value, Mapping),
    "raw": lambda _value: True,
}


def _example(spec: Spec) -> str:
    default = spec.get("default")
    return f", such as {show('', default)} (the default)" if default not in (None, "", [], {}) else ""


def report(faults: Iterable[Fault]) -> str:
    """Return the message for a list of faults."""
    lines = [f"- {fault}" for fault in faults]
    return "\n".join([f"{len(lines)} of the variables cannot be used. Nothing was changed.", *lines])


class ActionModule(ActionBase):
    """Runs on the controller; the host is not contacted."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with all faults, or return the roles that have checks of their own."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        roles = Path(self._task.args["roles"])
        specs, names = read_specs(roles)
        faults = list(unknown_names(variables, specs, names))
        for name in sorted(specs.keys() & variables.keys()):
            faults += self._faults_of(name, variables[name], specs[name])
        result |= {"changed": False, "preflights": _with_preflight(roles, names)}
        if faults:
            result |= {"failed": True, "msg": report(faults)}
        return result

    def _faults_of(self, name: str, raw: Any, spec: Spec) -> list[Fault]:
        """Return the faults of a variable's value as it is after templating."""
        try:
            value = self._templar.template(raw)
        except AnsibleError as error:
            # A default may build on what only its role finds out.
            if raw == spec.get("default"):
                return []
            return [Fault(name, show(name, raw), f"it cannot be evaluated: {error.message}")]
        return list(value_faults(name, value, spec))


def _with_preflight(roles: Path, names: list[str]) -> list[str]:
    return [name for name in names if name != "citadel" and (roles / name / "tasks/preflight.yml").exists()]
