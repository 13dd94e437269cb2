"""A PostgreSQL of a test's own: a private cluster on a unix socket, run by a user without rights.

It ends with the process that made it, also when that is killed.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_USER = "nobody"
_SECONDS = 60.0


class PostgresServer:
    """One cluster, whose user is `postgres`, without a password. `url` is what SQLAlchemy connects with.

    Args:
        folder: Where it lives; empty, and reachable for the user.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._account = pwd.getpwnam(_USER) if os.geteuid() == 0 else None
        self.url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
        if self._account:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        login = ["--username=postgres", "--auth=trust"]
        self._run("initdb", f"--pgdata={self._data}", *login, "--encoding=UTF8", "--no-locale", "--no-sync")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            _binary("postgres"),
            "-D",
            str(self._data),
            "-k",
            str(self.folder),
            "-h",
            "",
            "-F",
            "-B",
            "16MB",
        ]
        # Not `subprocess`'s own `user`: it has no way to have the server die with this process.
        who = (
            [f"--reuid={_USER}", f"--regid={self._account.pw_gid}", "--clear-groups"] if self._account else []
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "QUIT", *who, *command], stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + _SECONDS
        while not self._ready():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it as a crash would: every connection is cut, nothing is finished."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_SECONDS)
            self._process = None

    def _ready(self) -> bool:
        command = [_binary("pg_isready"), "--quiet", "--host", str(self.folder)]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account
        who: dict[str, object] = (
            {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
        )
        result = subprocess.run(  # type: ignore[call-overload]
            [_binary(program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            **who,
        )
        assert result.returncode == 0, result.stderr


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that runs, and is gone afterwards with all that it held."""
    # Not in pytest's folder, into which the server's user cannot even look; and short, for its socket's sake.
    folder = Path(tempfile.mkdtemp(prefix="citadel-postgres-"))
    server = PostgresServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def _binary(name: str) -> str:
    """A program of the newest PostgreSQL that is installed; Debian keeps most of them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    known = str(found[-1]) if found else shutil.which(name)
    assert known, "these tests need PostgreSQL's server: scripts/bootstrap lab installs it"
    return known
