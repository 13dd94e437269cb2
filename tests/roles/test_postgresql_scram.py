"""The login at an external database, against a server that is not what it says."""

import secrets
import socket
import struct
import threading

import pytest

from .role_modules import load

login = load("roles/postgresql/library/citadel_postgresql_login.py")

GIVEN = {
    "port": 5432,
    "timeout": 10,
    "tls": "try",
    "ca_file": "",
    "user": "u",
    "database": "d",
    "password": "p",
}
# The exchange that RFC 7677 gives as its example: what the server says, and what the client answers.
NONCE = "rOprNGfwEbeRWgbNEkqO"
CHALLENGE = f"r={NONCE}%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode()
PROOF = b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SIGNATURE = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.fixture
def scram(monkeypatch):
    monkeypatch.setattr(secrets, "token_urlsafe", lambda _: NONCE)
    scram = login.Scram("pencil")
    # To PostgreSQL the name was said before; the example says it here.
    scram._bare = f"n=user,r={NONCE}"
    scram.first()
    return scram


def test_the_published_exchange(scram):
    assert scram.final(CHALLENGE).endswith(PROOF)
    scram.judge(SIGNATURE)
    scram.end()


@pytest.mark.parametrize("nonce", ["", "another", NONCE])
def test_a_server_that_answers_another_login_gets_no_proof(scram, nonce):
    challenge = CHALLENGE.replace(CHALLENGE.partition(b",")[0], f"r={nonce}".encode())
    with pytest.raises(login.LoginError, match=r"somebody else's login: .*verify-full"):
        scram.final(challenge)


@pytest.mark.parametrize("last", [b"", b"v=", SIGNATURE.replace(b"6", b"7", 1), b"e=other-error"])
def test_a_server_that_does_not_know_the_password_itself_is_not_believed(scram, last):
    scram.final(CHALLENGE)
    with pytest.raises(login.LoginError, match="does not know the password itself"):
        scram.judge(last)
    with pytest.raises(login.LoginError, match="without showing that it knows"):
        scram.end()


def message(kind, number, body=b""):
    return kind + struct.pack("!ii", len(body) + 8, number) + body


@pytest.mark.parametrize(
    "skipped",
    [
        pytest.param([], id="at once"),
        pytest.param([message(b"R", 12, b"v=")], id="with a signature before the challenge"),
    ],
)
def test_whoever_lets_one_in_in_the_middle_of_the_exchange_is_not_believed(tmp_path, skipped):
    """No server of PostgreSQL's does it: somebody who stands in its place, and does not know the password."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.5432"))
        listener.listen()

        def impostor():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(message(b"R", 10, b"SCRAM-SHA-256\0\0"))
                connection.recv(1024)
                connection.sendall(b"".join([*skipped, message(b"R", 0), b"Z\0\0\0\x05I"]))

        thread = threading.Thread(target=impostor)
        thread.start()
        with pytest.raises(login.LoginError, match=r"know the password itself|knows the password"):
            login.ask(GIVEN | {"host": str(tmp_path)})
        thread.join()
