import os
import pwd
from pathlib import Path

import pytest

from .modules import Run

MODULE = "library/citadel_file_set.py"
ME = pwd.getpwuid(os.getuid()).pw_name
OWNED = {"owner": ME, "group": ME}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_places_all_files_and_is_idempotent(run_module: Run, root: Path) -> None:
    files = {"a.yml": "a\n", "deep/er/b.yml": "b\n"}
    first = run_module(MODULE, root=str(root), files=files, **OWNED)
    assert first["changed"] is True
    assert first["placed"] == ["a.yml", "deep/er/b.yml"]
    assert (root / "deep/er/b.yml").read_text() == "b\n"
    assert (root / "a.yml").stat().st_mode & 0o7777 == 0o644
    assert run_module(MODULE, root=str(root), files=files, **OWNED)["changed"] is False


def test_check_mode_shows_the_difference_and_changes_nothing(run_module: Run, root: Path) -> None:
    run_module(MODULE, root=str(root), files={"a": "before\n"}, **OWNED)
    result = run_module(MODULE, check=True, root=str(root), files={"a": "after\n"}, **OWNED)
    assert result["changed"] is True
    assert [(diff["before"], diff["after"]) for diff in result["diff"]] == [("before\n", "after\n")]
    assert (root / "a").read_text() == "before\n"


def test_a_set_that_the_judge_refuses_leaves_everything_as_it_was(run_module: Run, root: Path) -> None:
    judge = ["sh", "-c", "grep -q right $1/a || { echo $1/a is wrong >&2; exit 2; }", "judge", "%s"]
    run_module(MODULE, root=str(root), files={"a": "right\n"}, validate=judge, **OWNED)
    refused = run_module(MODULE, root=str(root), files={"a": "no\n", "b": "new\n"}, validate=judge, **OWNED)
    assert refused["failed"] is True
    assert refused["msg"].endswith("\na is wrong")  # without the folder in which it was staged
    assert (root / "a").read_text() == "right\n"
    assert not (root / "b").exists()


@pytest.mark.parametrize(("mentions", "failed"), [(True, True), (False, False)])
def test_a_judge_that_warns_and_succeeds(run_module: Run, root: Path, mentions: bool, failed: bool) -> None:
    judge = ["sh", "-c", "echo $1/a:1: ignoring this >&2", "judge", "%s"]
    result = run_module(
        MODULE, root=str(root), files={"a": "x"}, validate=judge, validate_mentions=mentions, **OWNED
    )
    assert result.get("failed", False) is failed
    assert (root / "a").exists() is not failed


def test_judges_only_what_is_to_change_and_where_the_judge_is_there(run_module: Run, root: Path) -> None:
    common = {"root": str(root), "files": {"a": "x"}, **OWNED}
    absent = run_module(MODULE, validate=["false"], validate_when="/nonexistent", **common)
    assert (absent["changed"], absent["validated"]) == (True, False)
    unchanged = run_module(MODULE, validate=["false"], **common)
    assert (unchanged["changed"], unchanged["validated"]) == (False, False)


def test_removes_what_belongs_to_the_set_no_longer(run_module: Run, root: Path) -> None:
    both = {"x.d/one.conf": "1", "y.d/one.conf": "1"}
    run_module(MODULE, root=str(root), files=both, **OWNED)
    (root / "y.d/theirs.conf").write_text("an operator's")
    result = run_module(MODULE, root=str(root), files={}, exclusive=["*.d/one.conf"], **OWNED)
    assert result["removed"] == ["x.d/one.conf", "y.d/one.conf"]
    assert not (root / "x.d").exists()
    assert [path.name for path in (root / "y.d").iterdir()] == ["theirs.conf"]


def test_replaces_a_link_and_does_not_write_through_it(run_module: Run, root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs\n")
    root.mkdir()
    (root / "a").symlink_to(elsewhere)
    assert run_module(MODULE, root=str(root), files={"a": "ours\n"}, **OWNED)["changed"] is True
    assert not (root / "a").is_symlink()
    assert elsewhere.read_text() == "theirs\n"


def test_puts_modes_right(run_module: Run, root: Path) -> None:
    run_module(MODULE, root=str(root), files={"a": "x"}, **OWNED)
    (root / "a").chmod(0o666)
    assert run_module(MODULE, root=str(root), files={"a": "x"}, mode="0640", **OWNED)["placed"] == ["a"]
    assert (root / "a").stat().st_mode & 0o7777 == 0o640


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "."])
def test_refuses_paths_outside_its_root(run_module: Run, root: Path, path: str) -> None:
    result = run_module(MODULE, root=str(root), files={path: "x"}, **OWNED)
    assert result["failed"] is True
    assert "must be a path below root" in result["msg"]


def test_names_an_owner_that_the_host_does_not_know(run_module: Run, root: Path) -> None:
    files = {"a": "x"}
    result = run_module(MODULE, root=str(root), files=files, owner="no-such-user", group=ME)
    assert result["failed"] is True
    assert "no-such-user" in result["msg"]
    # On a fresh host in check mode the account is yet to be made.
    planned = run_module(MODULE, check=True, root=str(root), files=files, owner="no-such-user", group=ME)
    assert planned["placed"] == ["a"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as someone else")
def test_as_owner_a_link_leads_root_nowhere(run_module: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder in list(tmp_path.parents)[:-2]:
        folder.chmod(folder.stat().st_mode | 0o011)
    theirs, roots = tmp_path / "theirs", tmp_path / "roots"
    for folder in (theirs, roots):
        folder.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(theirs, nobody.pw_uid, nobody.pw_gid)
    (theirs / "sub").symlink_to(roots)
    files = {"sub/file": "x"}
    owner = {"owner": "nobody", "group": "nogroup", "as_owner": True}
    result = run_module(MODULE, root=str(theirs), files=files, **owner)
    assert result["failed"] is True
    assert list(roots.iterdir()) == []
