"""Load what Ansible loads by path: modules of `library/`, and plugins and files of roles."""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "roles"

# Where Ansible looks for what modules of `library/` share (ansible.cfg), and for a role's own.
ansible.module_utils.__path__ += [str(ROOT / "module_utils"), str(ROLES / "postgresql/module_utils")]


@functools.cache
def load(path: str) -> ModuleType:
    """Import a file of the repository that is no part of a package."""
    spec = importlib.util.spec_from_file_location(f"citadel_test_{Path(path).stem}", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
