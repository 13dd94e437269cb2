"""The controller's package sources, read from where pip reads them and handed to a host."""

import configparser
import io
import json
import os
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

# Where packages come from and how to get there. The rest (targets, caches) is about this machine alone.
_HANDED = (
    "cert",
    "extra-index-url",
    "find-links",
    "index-url",
    "no-index",
    "proxy",
    "retries",
    "trusted-host",
)
# torch's CPU builds are on no index. Where pip is told of no place that has them, it is their makers' page.
_FIND_LINKS = "https://download.pytorch.org/whl/cpu/torch/"
_TIMEOUT = ("timeout", "default-timeout")  # the second is the older name of the first


@dataclass(frozen=True)
class PipSettings:
    """The settings in force, by pip's names for them, as text."""

    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def certificate(self) -> Path | None:
        """The bundle of certificates to trust, on the controller."""
        cert = self.values.get("cert")
        return Path(cert) if cert else None

    @property
    def local_paths(self) -> list[Path]:
        """Folders and files of the controller that packages come from."""
        sources = [
            source
            for key in ("find-links", "index-url", "extra-index-url")
            for source in self.values.get(key, "").split()
        ]
        paths = {path for source in sources if (path := _local_path(source)) and path.exists()}
        return sorted(_without_nested(paths))

    def for_pip(self, certificate: Path) -> str:
        """The host's pip.conf; `certificate` is the host's own bundle."""
        parser = configparser.RawConfigParser()
        values = dict(self.values) | ({"cert": str(certificate)} if self.certificate else {})
        parser["global"] = {key: " ".join(value.split()) for key, value in sorted(values.items())}
        text = io.StringIO()
        parser.write(text)
        return text.getvalue().strip() + "\n"

    def for_uv(self) -> str:
        """The host's uv.toml.

        uv does not read pip's settings. It gets where to find what no index has, and which index to
        ask; not further indexes, for uv stops at the first that knows a name.
        """
        lines = [f"find-links = {json.dumps(self.values.get('find-links', _FIND_LINKS).split())}"]
        if self.values.get("index-url"):
            lines.append(f"index-url = {json.dumps(self.values['index-url'])}")
        if self.values.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
            lines.append("no-index = true")
        if self.certificate:
            lines.append("system-certs = true")
        return "".join(f"{line}\n" for line in lines)


def read(environment: Mapping[str, str] = os.environ, etc: Path = Path("/etc")) -> PipSettings:
    """The settings in force for the caller: the last of pip's sources that names one wins.

    `etc` is where the machine's own configuration stands.
    """
    found: dict[str, str] = {}
    for path in _files(environment, etc):
        parser = configparser.RawConfigParser()
        parser.read(path)
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {key.replace("_", "-"): value for key, value in parser[section].items()}
    for name, value in environment.items():
        if name.startswith("PIP_"):
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    handed = {key: value.strip() for key, value in found.items() if key in _HANDED}
    for key in _TIMEOUT:
        if key in found:
            handed.setdefault("timeout", found[key].strip())
    return PipSettings({key: value for key, value in handed.items() if value})


def _files(environment: Mapping[str, str], etc: Path) -> list[Path]:
    """Where pip looks on Linux, the weakest first."""
    home = _home_of_caller(environment)
    shared = environment.get("XDG_CONFIG_DIRS", str(etc / "xdg")).split(":")
    own = Path(environment.get("XDG_CONFIG_HOME", home / ".config"))
    files = [Path(folder) / "pip/pip.conf" for folder in reversed(shared) if folder]
    files += [etc / "pip.conf", home / ".pip/pip.conf", own / "pip/pip.conf"]
    if named := environment.get("PIP_CONFIG_FILE"):
        files = [] if named == os.devnull else [*files, Path(named)]
    return files


def _home_of_caller(environment: Mapping[str, str]) -> Path:
    """The home of whoever called sudo: the lab is root's, the settings are theirs."""
    if caller := environment.get("SUDO_UID"):
        return Path(pwd.getpwuid(int(caller)).pw_dir)
    return Path(environment.get("HOME", "/root"))


def _local_path(source: str) -> Path | None:
    url = urlparse(source)
    if url.scheme == "file":
        return Path(unquote(url.path))
    if not url.scheme and source.startswith("/"):
        return Path(source)
    return None


def _without_nested(paths: Iterable[Path]) -> set[Path]:
    every = set(paths)
    return {path for path in every if not any(parent in every for parent in path.parents)}
