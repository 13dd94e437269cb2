"""Gets the peers: nginx and HAProxy from Debian's packages, the others into an environment of their own.

Nothing is installed in the system and no service is started: the packages are unpacked under .cache/bench.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.command import Say

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "bench"
LOCK = ROOT / "requirements" / "bench.txt"
PACKAGES = ("nginx", "haproxy")


class SetupError(Exception):
    """A peer cannot be had."""


@dataclass(frozen=True)
class Peers:
    """Where the peers' programs are."""

    programs: dict[str, Path]
    libraries: tuple[Path, ...]
    python: Path

    def environment(self) -> dict[str, str]:
        """What the Debian programs need to find their libraries."""
        return {"LD_LIBRARY_PATH": ":".join(str(each) for each in self.libraries)}


def get(say: Say) -> Peers:
    """Get what is not there yet.

    Raises:
        SetupError: Something cannot be had.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    unpacked = CACHE / "debian"
    python = CACHE / "venv" / "bin" / "python"
    _unpack_packages(unpacked, say)
    _make_environment(python, say)
    libraries = tuple(path for path in (unpacked / "usr" / "lib").glob("*-linux-gnu") if path.is_dir())
    programs = {name: _program(unpacked, name) for name in PACKAGES}
    return Peers(programs, libraries, python)


def _program(unpacked: Path, name: str) -> Path:
    own = unpacked / "usr" / "sbin" / name
    if own.exists():
        return own
    # apt-get brings only what the system does not have.
    if found := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        return Path(found)
    raise SetupError(f"there is no {name}, neither in the system nor among its packages")


def _unpack_packages(unpacked: Path, say: Say) -> None:
    """Download the packages and what they need beyond the system's, and unpack them: no root, no install."""
    done = unpacked / ".complete"
    if done.exists():
        return
    if not shutil.which("apt-get"):
        raise SetupError("nginx and HAProxy come from Debian's packages, and there is no apt-get here")
    say(f"getting {' and '.join(PACKAGES)} from the system's package archive")
    archives = CACHE / "archives"
    shutil.rmtree(unpacked, ignore_errors=True)
    shutil.rmtree(archives, ignore_errors=True)
    (archives / "partial").mkdir(parents=True)
    apt = ["apt-get", "-qq", "-y", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1"]
    _do([*apt, "-o", f"Dir::Cache::archives={archives}", "install", *PACKAGES], "try `apt-get update`")
    for package in sorted(archives.glob("*.deb")):
        _do(["dpkg-deb", "--extract", str(package), str(unpacked)])
    unpacked.mkdir(exist_ok=True)
    done.touch()


def _make_environment(python: Path, say: Say) -> None:
    stamp = CACHE / "venv" / ".complete"
    lock = LOCK.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == lock:
        return
    say(f"making an environment from {LOCK.relative_to(ROOT)}")
    uv = Path(sys.executable).with_name("uv")
    _do([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(CACHE / "venv")])
    links = _pip_setting("find-links")
    arguments = [word for link in links.split() for word in ("--find-links", link)]
    if index := _pip_setting("index-url"):
        arguments += ["--default-index", index]
    sync = [str(uv), "pip", "sync", "--quiet", "--python", str(python), "--require-hashes"]
    _do([*sync, *arguments, str(LOCK)])
    stamp.write_text(lock, encoding="utf-8")


def _pip_setting(name: str) -> str:
    """What pip is told, uv is told."""
    if told := os.environ.get(f"PIP_{name.upper().replace('-', '_')}"):
        return told
    pip = ROOT / ".cache" / "bootstrap" / "bin" / "pip"
    if not pip.exists():
        return ""
    asked = subprocess.run(  # noqa: S603
        [str(pip), "config", "get", f"global.{name}"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()


def _do(command: list[str], remedy: str = "") -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise SetupError(f"{' '.join(command[:4])} … failed: {said}{f' ({remedy})' if remedy else ''}")
