"""Check an environment from the inside: what the lock names is installed, and what must be importable is.

Run by the environment's own interpreter. Exits 0 when all is well; else 1, with one line for each fault.
"""

import argparse
import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

# A line of a lock: a pinned requirement, perhaps with a marker. Hashes stand on lines of their own.
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)\s*(?P<marker>;)?")


def pins(lock: str) -> dict[str, str]:
    """Return name and version of each requirement that holds on every platform.

    A requirement with a marker may rightly be absent, and is left out.
    """
    matches = (_PIN.match(line) for line in lock.splitlines())
    return {match["name"]: match["version"] for match in matches if match and not match["marker"]}


def version_faults(wanted: dict[str, str]) -> list[str]:
    """Compare what is installed with the lock."""
    faults = []
    for name, version in wanted.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "nothing"
        if found != version:
            faults.append(f"{name}: the lock names {version}, installed is {found}")
    return faults


def import_faults(modules: list[str]) -> list[str]:
    """Import each module, and say why one cannot be."""
    faults = []
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            faults.append(f"import {module}: {type(error).__name__}: {error}")
    return faults


def torch_faults(build: str, cuda: str | None) -> list[str]:
    """Compare the CUDA version that torch was built for (None: built without) with the wanted build."""
    if build == "cuda" and cuda is None:
        return ["torch was built without CUDA, and the engine's build is cuda"]
    if build == "cpu" and cuda is not None:
        return [f"torch was built for CUDA {cuda}, and the engine's build is cpu"]
    return []


def main() -> int:
    """Check the environment this runs in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--torch-build", choices=["cuda", "cpu", "none"], default="none")
    parser.add_argument("modules", nargs="*")
    arguments = parser.parse_args()

    faults = version_faults(pins(arguments.lock.read_text(encoding="utf-8")))
    faults += import_faults(arguments.modules)
    if arguments.torch_build != "none":
        torch = importlib.import_module("torch")
        faults += torch_faults(arguments.torch_build, torch.version.cuda)
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
