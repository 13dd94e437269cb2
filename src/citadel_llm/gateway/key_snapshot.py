"""The keys on disk, signed: with them a gateway can start while its database is away.

Two files in the gateway's state folder, both for its user alone: the keys' records (hashes, never keys) as
JSON lines, ended by an HMAC over all of them, and the secret for it, made on this host at the first start. So
nobody without the secret can add a key or change one; an older snapshot that is put back whole is believed,
and its age is told.

When the records were last compared with the database is the file's time of modification: it changes every few
seconds, the content only when a key does.
"""

import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from citadel_llm.store import KeyRecord

_SECRET_BYTES = 32
_MAC_LENGTH = 64
_FORMAT = 1
# Encoded in pieces, so that the thread which does it never holds the interpreter for long.
_PIECE = 500


class SnapshotError(Exception):
    """The snapshot cannot be written, or must not be believed."""


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    database: str
    keys: int


class KeySnapshot:
    """The snapshot in a folder. Its methods block.

    Args:
        folder: The gateway's state folder. It is not made here: without it there is no snapshot.
        database: The database's URL without its password: another database's snapshot is not believed.
    """

    def __init__(self, folder: Path, database: str) -> None:
        self.path = folder / "keys.snapshot"
        self._secret_path = folder / "keys.secret"
        self._database = database

    def write(self, records: Sequence[KeyRecord], checked: float) -> None:
        """Replace the snapshot, whole or not at all.

        Args:
            records: The keys that are not revoked.
            checked: When they were read from the database, in Unix time.

        Raises:
            SnapshotError: It cannot be written.
        """
        try:
            mac = hmac.new(self._secret(), digestmod=hashlib.sha256)
            descriptor, draft = tempfile.mkstemp(prefix=".keys.", dir=self.path.parent)  # mode 0600
            try:
                with os.fdopen(descriptor, "wb") as file:
                    for piece in self._pieces(records):
                        mac.update(piece)
                        file.write(piece)
                    file.write(mac.hexdigest().encode())
                    file.flush()
                    os.fsync(file.fileno())
                os.utime(draft, (checked, checked))
                Path(draft).replace(self.path)
            finally:
                with suppress(FileNotFoundError):
                    Path(draft).unlink()
        except OSError as error:
            raise SnapshotError(f"{self.path.parent}: {error.strerror}") from None

    def confirm(self, checked: float) -> None:
        """Note that at this time (Unix) the database still said the same."""
        with suppress(OSError):
            os.utime(self.path, (checked, checked))

    def read(self) -> tuple[list[KeyRecord], float] | None:
        """The keys, and when they were last read from the database, in Unix time; None when there are none.

        Raises:
            SnapshotError: The snapshot cannot be read, or was not made by this host for this database.
        """
        try:
            checked = self.path.stat().st_mtime
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnapshotError(f"{self.path}: {error.strerror}") from None
        payload, said = content[:-_MAC_LENGTH], content[-_MAC_LENGTH:]
        try:
            expected = hmac.new(self._secret(), payload, hashlib.sha256).hexdigest().encode()
        except OSError as error:
            raise SnapshotError(f"{self._secret_path}: {error.strerror}") from None
        if not hmac.compare_digest(said, expected):
            raise SnapshotError("its signature is wrong: it was changed, or made with another secret")
        try:
            begin, _, lines = payload.partition(b"\n")
            header = msgspec.json.decode(begin, type=_Header)
            if header.format != _FORMAT:
                raise SnapshotError(f"its format is {header.format}, where {_FORMAT} is understood")
            if header.database != self._database:
                raise SnapshotError("it was made for another database")
            return msgspec.json.Decoder(KeyRecord).decode_lines(lines), checked
        except msgspec.DecodeError as error:
            raise SnapshotError(f"it cannot be understood: {error}") from None

    def _pieces(self, records: Sequence[KeyRecord]) -> Iterator[bytes]:
        encoder = msgspec.json.Encoder()
        yield encoder.encode_lines([_Header(_FORMAT, self._database, len(records))])
        for begin in range(0, len(records), _PIECE):
            yield encoder.encode_lines(records[begin : begin + _PIECE])

    def _secret(self) -> bytes:
        """The host's secret, made when there is none. Of two gateways that start at once, one makes it."""
        with suppress(FileNotFoundError):
            return self._read_secret()
        descriptor, draft = tempfile.mkstemp(prefix=".secret.", dir=self._secret_path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(draft, self._secret_path)
        finally:
            Path(draft).unlink()
        return self._read_secret()

    def _read_secret(self) -> bytes:
        mode = self._secret_path.stat().st_mode
        secret = self._secret_path.read_bytes()
        if mode & 0o077:
            raise SnapshotError(f"{self._secret_path} must be its owner's alone (mode 0600): remove it")
        if len(secret) != _SECRET_BYTES:
            raise SnapshotError(f"{self._secret_path} does not hold {_SECRET_BYTES} bytes: remove it")
        return secret
