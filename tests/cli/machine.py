"""A host for the command line: its configuration, and a stand-in for `systemctl`.

The stand-in writes what systemd 252 wrote on a lab host. What it leaves unproven: that systemd does what it
is told. That is seen on a lab host.
"""

from collections.abc import Callable
from pathlib import Path

import yaml
from typer.testing import Result

Run = Callable[..., Result]

_SYSTEMCTL = """\
#!/bin/sh
here={folder}
echo "$*" >> $here/called
if [ "$1" = show ]; then
    # Each call sees the next of the states, and the last one for ever.
    state=$(ls $here/states | head -n 1)
    cat $here/states/$state
    # The health checks, which every site has, run always.
    case "$*" in *citadel-health.service*) echo; cat $here/health ;; esac
    [ "$(ls $here/states | wc -l)" = 1 ] || rm $here/states/$state
    exit 0
fi
cat $here/complaint >&2
exit $(cat $here/code)
"""


class Machine:
    """What the command line finds on a host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.systemctl = folder / "systemctl"
        self.systemctl.write_text(_SYSTEMCTL.format(folder=folder))
        self.systemctl.chmod(0o755)
        (folder / "states").mkdir()
        (folder / "health").write_text(RUNNING)
        self.gateway_settings = (0, "")
        self.answers()
        self.configure()

    def configure(self, **changes: object) -> None:
        """Write the configuration: one model, named small."""
        model = {"name": "small", "source": {"kind": "folder", "path": "/x"}}
        tree = {
            "environment": "staging",
            "root": str(self.folder / "root"),
            "run_dir": str(self.folder / "run"),
            "models_root": str(self.folder / "models"),
            "engine": {"build": "cpu"},
            "models": [model],
            # How busy the machine is that runs the tests is no matter of theirs.
            "health": {"built_in": {name: {"enabled": False} for name in ("disk", "memory", "cpu")}},
            **changes,
        }
        (self.folder / "config" / "global").mkdir(parents=True, exist_ok=True)
        (self.folder / "config" / "global" / "a.yml").write_text(yaml.safe_dump(tree))

    def answers(self, complaint: str = "", code: int = 0) -> None:
        """What `systemctl start` and its like come back with."""
        (self.folder / "complaint").write_text(complaint)
        (self.folder / "code").write_text(str(code))

    def is_seen_as(self, *moments: list[str]) -> None:
        """The blocks that `systemctl show` writes, one list for each time that it is asked."""
        for old in (self.folder / "states").iterdir():
            old.unlink()
        for number, blocks in enumerate(moments):
            (self.folder / "states" / str(number)).write_text("\n".join(blocks))

    @property
    def called(self) -> list[str]:
        """The calls of systemctl, without those that only look."""
        lines = (self.folder / "called").read_text().splitlines()
        return [line for line in lines if not line.startswith("show ")]


def block(active: str, sub: str, says: str = "", **fields: str) -> str:
    """A unit as `systemctl show` writes it."""
    known = {
        "MainPID": "4711" if active == "active" else "0",
        "StatusText": says,
        "Result": "success",
        "NRestarts": "0",
        "MemoryCurrent": "3267440640" if active == "active" else "[not set]",
        "Id": "any.service",
        "LoadState": "loaded",
        "ActiveState": active,
        "SubState": sub,
        "ActiveEnterTimestampMonotonic": "1000000" if active == "active" else "0",
        "Job": "",
    }
    return "".join(f"{key}={value}\n" for key, value in {**known, **fields}.items())


RUNNING = block("active", "running", "ready after 0.3 s")
STOPPED = block("inactive", "dead")
LOADING = block("activating", "start", "loading the weights, 50% (12 s)")
FAILED = block("failed", "failed", "failed: out of memory", Result="exit-code")
