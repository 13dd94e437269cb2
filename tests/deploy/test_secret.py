"""A secret is made once, for its reader alone, and never told."""

import grp
import os
import pwd
from pathlib import Path
from typing import Any

from .modules import load, run_module

MODULE = "roles/postgresql/library/citadel_secret.py"


def test_a_secret_is_made_once_and_not_told(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    given: dict[str, Any] = {
        "dest": str(path),
        "owner": pwd.getpwuid(os.geteuid()).pw_name,
        "group": grp.getgrgid(os.getegid()).gr_name,
        "mode": "0640",
    }
    dry = run_module(tmp_path, MODULE, check=True, **given)
    assert (dry["changed"], path.exists()) == (True, False)

    made = run_module(tmp_path, MODULE, **given)
    secret = path.read_text().strip()
    assert len(secret) == 43
    assert path.stat().st_mode & 0o777 == 0o640
    assert (made["changed"], made["made"]) == (True, True)
    assert secret not in str(made)

    again = run_module(tmp_path, MODULE, **given)
    assert (again["changed"], again["made"], path.read_text().strip()) == (False, False, secret)

    path.chmod(0o644)
    assert run_module(tmp_path, MODULE, **given)["changed"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert {each.name for each in tmp_path.iterdir()} == {"secret", "arguments.json"}


def test_one_that_another_run_has_just_made_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("first\n")
    load(MODULE).make(path, 32)
    assert path.read_text() == "first\n"
    assert list(tmp_path.iterdir()) == [path]
