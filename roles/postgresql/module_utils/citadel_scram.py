"""How one shows a PostgreSQL server that one knows a password, and it shows the same, without saying it."""

import base64
import hashlib
import hmac
import secrets

_WHO_IS_IT = "find out who answers there, and set sslmode=verify-full in postgresql_url"


class LoginError(Exception):
    """One cannot log in: what was seen, and what would help."""

    def __init__(self, said: str, remedy: str = "correct postgresql_url") -> None:
        super().__init__(f"{said}: {remedy}")


class Scram:
    """SCRAM-SHA-256 (RFC 5802, RFC 7677) without channel binding: what the client says, in its order.

    Raises:
        LoginError: from each method, where the server does not keep to it.
    """

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._nonce = secrets.token_urlsafe(18)
        self._bare = f"n=,r={self._nonce}"
        self._signature = b""
        self._is_asked = False
        self._has_proof = False

    def first(self) -> bytes:
        """The first message."""
        self._is_asked = True
        return f"n,,{self._bare}".encode()

    def final(self, challenge: bytes) -> bytes:
        """The answer to the server's challenge: that one knows the password, without saying it."""
        told = dict(part.split("=", 1) for part in challenge.decode().split(",") if "=" in part)
        nonce, salt, rounds = (told.get(name, "") for name in "rsi")
        # Another nonce than ours is of another exchange, which somebody recorded and plays back.
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise LoginError("the server answers somebody else's login", _WHO_IS_IT)
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(salt), int(rounds))
        client = _hmac(salted, b"Client Key")
        without = f"c=biws,r={nonce}"
        exchange = f"{self._bare},{challenge.decode()},{without}".encode()
        proof = bytes(
            one ^ other
            for one, other in zip(client, _hmac(hashlib.sha256(client).digest(), exchange), strict=True)
        )
        self._signature = _hmac(_hmac(salted, b"Server Key"), exchange)
        return f"{without},p={base64.b64encode(proof).decode()}".encode()

    def judge(self, last: bytes) -> None:
        """Raise unless the server knows the password, too."""
        expected = b"v=" + base64.b64encode(self._signature)
        # Extensions may follow the signature.
        if not self._signature or not hmac.compare_digest(last.partition(b",")[0], expected):
            raise LoginError("the server does not know the password itself", _WHO_IS_IT)
        self._has_proof = True

    def end(self) -> None:
        """Raise when one is let in by a server that began the exchange and has not proven itself in it."""
        if self._is_asked and not self._has_proof:
            raise LoginError("the server lets one in without showing that it knows the password", _WHO_IS_IT)


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()
