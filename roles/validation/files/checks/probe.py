"""Questions that several checks ask of a host."""

import json
import time
from collections.abc import Iterable
from typing import Any

from testinfra.backend.base import CommandResult
from testinfra.host import Host

# A longer one is cut in messages.
LONGEST_COMMAND = 90

# A certificate names the API, not the host's own address: and it is the host itself that is asked.
_FETCH = (
    "import ssl, sys, urllib.request as r; c = ssl._create_unverified_context(); "
    "sys.stdout.write(r.urlopen(sys.argv[1], timeout=10, context=c).read().decode())"
)


def said(host: Host, command: str, *arguments: str) -> str:
    """What a command that must succeed writes on its standard output."""
    done = host.run(command, *arguments)
    assert done.rc == 0, f"`{_short(command, *arguments)}` ended with {done.rc}: {_last_line(done)}"
    return str(done.stdout).strip()


def logged(host: Host, unit: str, words: str, within: float = 10) -> str:
    """The last line of a unit's journal, or of several', that holds these words. journald lags a moment.

    Args:
        host: Where it is looked for.
        unit: The beginning of the units' names: a gateway may have several workers.
        words: A regular expression.
        within: Seconds until it counts as missing.
    """
    search = f"journalctl --unit='{unit}*' --since=-2min --output=cat --grep={words}"
    deadline = time.monotonic() + within
    while (found := host.run(search)).rc != 0:
        assert time.monotonic() < deadline, f"no line of {unit}'s journal holds {words}"
        time.sleep(0.2)
    return str(found.stdout).strip().splitlines()[-1]


def _short(command: str, *arguments: str) -> str:
    for argument in arguments:
        command = command.replace("%s", argument, 1)
    return command if len(command) <= LONGEST_COMMAND else f"{command[: LONGEST_COMMAND - 3]}..."


def _last_line(done: CommandResult) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return str(lines[-1]) if lines else "it says nothing"


def fetch(host: Host, url: str) -> str:
    """What a URL answers on the host itself."""
    return said(host, f"python3 -c '{_FETCH}' %s", url)


def fetch_json(host: Host, url: str) -> Any:
    """The same, where it is JSON."""
    return json.loads(fetch(host, url))


def units(host: Host, names: Iterable[str], *properties: str) -> dict[str, dict[str, str]]:
    """Properties of systemd units, in one call."""
    wanted = ",".join(("Id", *properties))
    shown = said(host, f"systemctl show --property={wanted} -- {' '.join(names)}")
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n")]
    return {block["Id"]: block for block in blocks}


def modes(host: Host, paths: Iterable[str]) -> dict[str, str]:
    """Type, owner and mode of paths, as `directory citadel:citadel 755`; what is absent is left out."""
    listed = host.run(f"stat --format='%n|%F %U:%G %a' -- {' '.join(paths)}").stdout
    return dict(line.split("|", 1) for line in listed.splitlines())


def doctor(host: Host, user: str) -> list[dict[str, str]]:
    """What `citadel doctor` finds as a user: `check`, `verdict` (ok, failed, unknown), `detail`, `remedy`."""
    done = host.run(f"runuser --login {user} --command 'citadel doctor --json'")
    assert done.rc in {0, 1}, f"`citadel doctor` ended with {done.rc}: {_last_line(done)}"
    return list(json.loads(done.stdout))


def processes(host: Host, group: str) -> list[int]:
    """The ids of the processes in a control group, under either version of cgroups."""
    files = [f"/sys/fs/cgroup{group}/cgroup.procs", f"/sys/fs/cgroup/systemd{group}/cgroup.procs"]
    return [int(pid) for pid in host.run(f"cat {' '.join(files)} 2>/dev/null").stdout.split()]


def versions(host: Host, python: str, packages: Iterable[str]) -> dict[str, str]:
    """The versions of packages in an environment; those that are not installed are left out."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    return dict(json.loads(said(host, f"{python} -c %s {' '.join(packages)}", code)))
