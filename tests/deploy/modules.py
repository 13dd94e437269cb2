"""Modules of Ansible, run as Ansible runs them: as a process that reads arguments and writes a result."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

Result = dict[str, Any]
Run = Callable[..., Result]


def load(path: str) -> ModuleType:
    """Import a file of the repository that belongs to no package."""
    spec = importlib.util.spec_from_file_location(f"deploy_{Path(path).stem}", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run_module(folder: Path, path: str, *, check: bool = False, **parameters: object) -> Result:
    """Run a module with its parameters; returns what it answers. Its scratch files stand in `folder`."""
    arguments = folder / "arguments.json"
    ansible = {
        "_ansible_check_mode": check,
        "_ansible_tmpdir": str(folder),
        "_ansible_remote_tmp": str(folder),
    }
    arguments.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": parameters | ansible}))
    command = [sys.executable, str(ROOT / path), str(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr
    return dict(json.loads(done.stdout))
