import importlib.metadata
import sys

import pytest

from .role_modules import load

verify_env = load("roles/python_env/files/verify_env.py")

LOCK = """\
# A comment.
pyyaml==6.0.3 \\
    --hash=sha256:00
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:00
torch==2.13.0+cpu \\
    --hash=sha256:00
"""


def test_a_pin_with_a_marker_may_be_absent():
    assert verify_env.pins(LOCK) == {"pyyaml": "6.0.3", "torch": "2.13.0+cpu"}


def test_versions_are_compared_with_what_is_installed():
    installed = importlib.metadata.version("pyyaml")
    assert verify_env.version_faults({"pyyaml": installed}) == []
    assert verify_env.version_faults({"pyyaml": "0.1", "no-such-package": "1"}) == [
        f"pyyaml: the lock names 0.1, installed is {installed}",
        "no-such-package: the lock names 1, installed is nothing",
    ]


def test_each_import_that_fails_is_told(tmp_path, monkeypatch):
    (tmp_path / "broken_extension.py").write_text(
        "raise OSError('libnuma.so.1: cannot open shared object file')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert verify_env.import_faults(["json", "broken_extension", "no_such_module"]) == [
        "import broken_extension: OSError: libnuma.so.1: cannot open shared object file",
        "import no_such_module: ModuleNotFoundError: No module named 'no_such_module'",
    ]


@pytest.mark.parametrize(
    ("build", "cuda", "faults"),
    [("cuda", "12.9", 0), ("cuda", None, 1), ("cpu", None, 0), ("cpu", "12.9", 1)],
)
def test_torch_must_be_of_the_build(build, cuda, faults):
    assert len(verify_env.torch_faults(build, cuda)) == faults


@pytest.mark.parametrize(("module", "status"), [("json", 0), ("no_such_module", 1)])
def test_the_exit_status(tmp_path, monkeypatch, module, status):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"pyyaml=={importlib.metadata.version('pyyaml')} \\\n")
    monkeypatch.setattr(sys, "argv", ["verify_env.py", "--lock", str(lock), module])
    assert verify_env.main() == status
