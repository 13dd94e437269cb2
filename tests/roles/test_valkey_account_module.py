"""The account of the limits' store: its password for the gateways alone, its hash for the server."""

import hashlib
import os
import stat

import pytest

from .role_modules import load

account = load("roles/valkey/library/citadel_valkey_account.py")


def test_a_password_is_made_once_and_the_server_gets_its_hash():
    password, acl = account.plan("", None, "gw", "on +get")
    assert len(password.strip()) >= 43
    assert account.plan("", password, "gw", "on +get") == (password, acl)
    assert account.plan("", None, "gw", "on +get")[0] != password
    assert password.strip() not in acl
    assert acl.splitlines() == [
        "user default off resetpass resetkeys -@all",
        f"user gw on +get #{hashlib.sha256(password.strip().encode()).hexdigest()}",
    ]


def test_a_password_that_is_given_replaces_the_one_that_was_made():
    assert account.plan("given", "made\n", "gw", "on")[0] == "given\n"
    assert account.plan("given\n", None, "gw", "on") == account.plan("given", None, "gw", "on")


def test_a_file_that_is_as_it_shall_be_is_left(tmp_path):
    path = tmp_path / "password"
    group = os.getegid()
    assert account.differs(path, "a\n", group)
    path.write_text("a\n")
    path.chmod(account.MODE)
    assert account.differs(path, "a\n", group) is (os.geteuid() != 0)
    assert account.differs(path, "b\n", group)
    path.chmod(0o644)
    assert account.differs(path, "a\n", group)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert account.differs(link, "a\n", group)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to root")
def test_a_file_is_never_open_to_others(tmp_path):
    path = tmp_path / "password"
    account.write(path, "a\n", os.getegid())
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("a\n", 0o640)
    assert [child.name for child in tmp_path.iterdir()] == ["password"]
