"""The check of an external database, against a real server that asks for passwords in each of its ways."""

import pytest
from sqlalchemy import create_engine, text
from tests.postgres import postgres_server

from .role_modules import load

pytestmark = pytest.mark.lab

plugin = load("roles/postgresql/library/citadel_postgresql_login.py")

RULES = """\
local all clear password
local all hashed md5
local all scram scram-sha-256
local all not_this_user peer
local all all trust
"""
ROLES = """\
SET password_encryption = 'md5';
CREATE ROLE hashed LOGIN PASSWORD 'pässword';
SET password_encryption = 'scram-sha-256';
CREATE ROLE clear LOGIN PASSWORD 'pässword';
CREATE ROLE scram LOGIN PASSWORD 'pässword';
CREATE ROLE not_this_user LOGIN;
CREATE ROLE reader LOGIN;
GRANT CREATE ON SCHEMA public TO hashed, clear, scram;
"""


@pytest.fixture(scope="module")
def folder():
    with postgres_server() as server:
        (server.folder / "data/pg_hba.conf").write_text(RULES)
        engine = create_engine(server.url)
        with engine.begin() as connection:
            connection.execute(text(ROLES))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield str(server.folder)


def login(folder, user, password="", database="postgres"):
    given = {"host": folder, "port": 5432, "timeout": 10, "tls": "try", "ca_file": ""}
    return plugin.ask(given | {"user": user, "password": password, "database": database})


@pytest.mark.parametrize("user", ["clear", "hashed", "scram"])
def test_each_way_of_asking_for_a_password(folder, user):
    assert login(folder, user, "pässword") >= 120000
    with pytest.raises(plugin.LoginError, match=r"28P01\): correct postgresql_password"):
        login(folder, user, "wrong")
    with pytest.raises(plugin.LoginError, match=r"asks for a password: set postgresql_password"):
        login(folder, user)


@pytest.mark.parametrize(
    ("user", "database", "said"),
    [
        ("reader", "postgres", 'GRANT CREATE ON SCHEMA public TO "reader"'),
        ("reader", "nowhere", r"3D000\): make the database"),
    ],
)
def test_what_is_missing_is_named(folder, user, database, said):
    with pytest.raises(plugin.LoginError, match=said):
        login(folder, user, database=database)


def test_where_the_server_judges_by_the_unix_user_it_is_only_greeted(folder):
    assert login(folder, "not_this_user") == 0


def test_nobody_listens(tmp_path):
    with pytest.raises(plugin.LoginError, match="start the server"):
        login(str(tmp_path), "reader")
