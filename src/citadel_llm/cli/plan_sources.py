"""Where `citadel plan` takes settings and machine from: this host, or, on the controller, an inventory."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from citadel_llm.config import ConfigError, Layers, Settings, validate
from citadel_llm.config.inventory import VARIABLES, said_of_variables, settings_of, variable_of
from citadel_llm.placement.calibration import Measurement
from citadel_llm.placement.devices import (
    GPU_EXAMPLE,
    Machine,
    machine_of_host,
    machine_of_profile,
    machine_of_report,
    machine_of_text,
)
from citadel_llm.placement.model_files import answer
from citadel_llm.placement.options import Build, Wish
from citadel_llm.placement.terms import PlacementError
from citadel_llm.placement.wishes import folders_of, wishes_of

REPORT = Path("/etc/citadel/hardware.json")
MEASURED = Path("/var/lib/citadel/engine")
_PROJECT = Path(__file__).parents[3]
_DEFAULTS = _PROJECT / "roles" / "citadel" / "defaults" / "main.yml"
_ANSIBLE_SECONDS = 120


class SourceError(Exception):
    """What a plan is made from cannot be had; the text says what would do."""


@dataclass(frozen=True)
class Told:
    """What the command line says of the machine.

    Attributes:
        gpus: Groups of GPUs, such as `2x RTX 5060 Ti 16GB`; none: those that are there.
        host_memory: The host's memory in bytes; none: what is there.
    """

    gpus: Sequence[str]
    host_memory: int | None


@dataclass(frozen=True)
class Source:
    """What a plan is made from.

    Attributes:
        settings: The host's settings.
        machine: What there is, or is to be.
        wishes: The models.
        faults: The models that cannot be planned with.
        measured: What engines have measured there.
    """

    settings: Settings
    machine: Machine
    wishes: list[Wish]
    faults: list[PlacementError]
    measured: list[Measurement]


def of_host(settings: Settings, report: Path, told: Told) -> Source:
    """This host: its settings, its hardware report, its models' folders, and what its engines measured.

    Raises:
        SourceError: There is no report, or it cannot be read.
        PlacementError: What is told or reported of the machine cannot be.
    """
    machine = _machine_here(settings, report, told)
    answers = {
        str(folder): answer(folder) for model in settings.models for folder in folders_of(settings, model)
    }
    wishes, faults = wishes_of(settings, answers)
    return Source(settings, machine, wishes, faults, list(_measurements(settings)))


def of_inventory(inventory: str, host: str | None, told: Told, report: Path | None = None) -> Source:
    """A host of an inventory; no host is contacted.

    Raises:
        SourceError: The inventory cannot be read, or leaves open which host is meant.
        ConfigError: Its variables are wrong; the keys are the variables' names.
        PlacementError: What is told, reported, or its hardware_profile says, of the machine cannot be.
    """
    variables = _variables(inventory, host)
    try:
        settings = validate(Layers(values=settings_of(variables)))
    except ConfigError as error:
        problems = [replace(problem, key=variable_of(problem.key)) for problem in error.problems]
        raise ConfigError(problems) from None
    if report is None or told.gpus or settings.engine.build == "cpu":
        machine = _machine_of_inventory(settings, variables, told)
    else:
        machine = _reported(report, told, settings.engine.build)
    wishes, faults = wishes_of(settings, {})
    named = [replace(wish, entry=variable_of(wish.entry)) for wish in wishes]
    renamed = [
        PlacementError(variable_of(each.entry), said_of_variables(each.message), each.remedy)
        for each in faults
    ]
    return Source(settings, machine, named, renamed, [])


def _machine_here(settings: Settings, report: Path, told: Told) -> Machine:
    build = settings.engine.build
    here = _memory_here() if told.host_memory is None else told.host_memory
    if build == "cpu":
        return machine_of_host(here, "this host" if told.host_memory is None else "as told")
    if told.gpus:
        return machine_of_text(told.gpus, here)
    return _reported(report, told, build)


def _reported(report: Path, told: Told, build: Build) -> Machine:
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(
            f"{report}: there is no hardware report; deploy with --tags hardware, or say with --gpu what to "
            "plan for"
        ) from None
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{report}: cannot be read ({error}); deploy with --tags hardware, or use --gpu"
        ) from None
    machine = machine_of_report(found if isinstance(found, Mapping) else {}, build)
    return machine if told.host_memory is None else replace(machine, host_memory=told.host_memory)


def _machine_of_inventory(settings: Settings, variables: Mapping[str, Any], told: Told) -> Machine:
    profile = variables.get("hardware_profile") or {}
    build, memory = settings.engine.build, told.host_memory
    if memory is None and "memory_gib" not in profile:
        raise SourceError("the inventory's hardware_profile says no memory_gib; use --host-memory")
    if memory is None:
        memory = machine_of_profile({"memory_gib": profile["memory_gib"]}).host_memory
    if build == "cpu":
        return machine_of_host(memory, "hardware_profile" if told.host_memory is None else "as told")
    if told.gpus:
        return machine_of_text(told.gpus, memory)
    if "gpus" not in profile:
        raise SourceError(
            f"the inventory's hardware_profile says no gpus; use --gpu, such as {GPU_EXAMPLE!r}"
        )
    return replace(machine_of_profile({"memory_gib": 1, **profile}), host_memory=memory)


def _memory_here() -> int:
    import psutil  # noqa: PLC0415 - only where nothing else says it

    return int(psutil.virtual_memory().total)


def _measurements(settings: Settings) -> Sequence[Measurement]:
    found = []
    for model in settings.models:
        try:
            text = (MEASURED / model.name / "measured.json").read_text(encoding="utf-8")
        except OSError:
            continue
        measurement = Measurement.parse(text)
        if measurement is not None:
            found.append(measurement)
    return found


def _variables(inventory: str, host: str | None) -> dict[str, Any]:
    """A host's variables that settings come from, templated, with the role's defaults below them."""
    tree = json.loads(_ansible("ansible-inventory", "-i", inventory, "--list"))
    known = tree["_meta"]["hostvars"]
    hosts = sorted(set(tree.get("citadel", {}).get("hosts", [])) or known)
    if host is None and len(hosts) != 1:
        raise SourceError(
            f"{inventory}: say which host is meant, with --host: {', '.join(hosts) or 'it has none'}"
        )
    name = host or hosts[0]
    if name not in hosts:
        raise SourceError(f"{inventory}: there is no host {name!r}; there are: {', '.join(hosts)}")
    wanted = [*VARIABLES.values(), "hardware_profile"]
    values = {key: known.get(name, {})[key] for key in wanted if key in known.get(name, {})}
    if "{{" in json.dumps(values) or "{%" in json.dumps(values):
        values = _templated(inventory, name, values)
    defaults = yaml.safe_load(_DEFAULTS.read_text(encoding="utf-8"))
    return {**{key: defaults[key] for key in wanted if key in defaults}, **values}


def _templated(inventory: str, host: str, values: Mapping[str, Any]) -> dict[str, Any]:
    expression = "{{ {" + ", ".join(f"'{key}': {key}" for key in values) + "} }}"
    said = _ansible(
        "ansible", "-i", inventory, host, "-m", "ansible.builtin.debug", "-a", json.dumps({"msg": expression})
    )
    result = json.loads(said)["plays"][0]["tasks"][0]["hosts"][host]
    if not isinstance(result.get("msg"), dict):
        raise SourceError(f"{inventory}: {result.get('msg')}")
    return dict(result["msg"])


def _ansible(program: str, *arguments: str) -> str:
    environment = {
        **os.environ,
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_NOCOLOR": "1",
        # Ours, unless told otherwise: the roles and their defaults belong to it.
        "ANSIBLE_CONFIG": os.environ.get("ANSIBLE_CONFIG", str(_PROJECT / "ansible.cfg")),
    }
    # Beside this interpreter first: the command works without the environment's folder on PATH.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    try:
        result = subprocess.run(  # noqa: S603 - fixed programs; the arguments are the operator's
            [program, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_ANSIBLE_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise SourceError(
            f"there is no {program} here: --inventory works on the controller; see scripts/bootstrap"
        ) from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"{program} did not end within {_ANSIBLE_SECONDS} s") from None
    if result.returncode != 0:
        raise SourceError(_words(result.stderr.strip(), result.stdout.strip()) or f"{program} failed")
    return result.stdout


def _words(errors: str, output: str) -> str:
    """What a failed program of Ansible's says: its task's message where it wrote one."""
    try:
        [task] = json.loads(output)["plays"][0]["tasks"]
        [answer] = task["hosts"].values()
        return str(answer["msg"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return errors or output
