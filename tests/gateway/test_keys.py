"""The keys in the gateway's memory, and on its disk: who gets in, until when, and without the database."""

import hashlib
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from citadel_llm.gateway.auth import KeyCache, authenticate
from citadel_llm.gateway.errors import InvalidKeyError, KeysUnavailableError, NotAllowedError
from citadel_llm.gateway.key_snapshot import KeySnapshot, SnapshotError
from citadel_llm.gateway.metrics import GatewayMetrics
from citadel_llm.store import KeyRecord, KeyStore, hash_key

from .gateway_site import LogLines

URL = "sqlite:///{}/citadel.db"
NOWHERE = "sqlite:////nonexistent/citadel.db"


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(URL.format(tmp_path))


def snapshot_in(folder: Path) -> KeySnapshot:
    return KeySnapshot(folder, "the database")


@asynccontextmanager
async def gateway(
    url: str, snapshot: KeySnapshot | None = None, refresh: float = 0.3
) -> AsyncIterator[tuple[KeyCache, GatewayMetrics]]:
    """What a gateway knows of the keys."""
    metrics = GatewayMetrics()
    keys = KeyCache(KeyStore(url), refresh, metrics, snapshot)
    async with keys.running():
        yield keys, metrics


def gauge(metrics: GatewayMetrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"citadel_gateway_{name}")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def bearer(plaintext: str) -> Headers:
    return Headers({"authorization": f"Bearer {plaintext}"})


async def test_a_key_is_known_at_once_and_gone_within_the_refresh(store: KeyStore, tmp_path: Path) -> None:
    old, old_key = store.create("old")
    async with gateway(URL.format(tmp_path)) as (one, _), gateway(URL.format(tmp_path)) as (other, _):
        assert one.find_now(old_key) == old == other.find_now(old_key)
        assert one.find_now("ck-" + "x" * 43) is None
        assert one.find_now("\udce4") is None
        new, new_key = store.create("new")
        assert await one.find(new_key) == new
        store.revoke(old.id)
        for keys in (one, other):
            await keys.read_soon()
            assert keys.find_now(old_key) is None
            assert keys.find_now(new_key) == new
    store.close()


async def test_an_expired_key_is_refused_on_time_also_without_a_reading(
    store: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires = datetime.now(UTC) + timedelta(hours=1)
    record, plaintext = store.create("short", expires_at=expires)
    async with gateway(URL.format(tmp_path), refresh=60) as (keys, _):
        assert keys.find_now(plaintext) == record
        monkeypatch.setattr("citadel_llm.gateway.auth.time.time", lambda: expires.timestamp() - 0.001)
        assert keys.find_now(plaintext) == record
        monkeypatch.setattr("citadel_llm.gateway.auth.time.time", expires.timestamp)
        assert keys.find_now(plaintext) is None
        with pytest.raises(InvalidKeyError, match="expired on "):
            await authenticate(bearer(plaintext), keys)
        monkeypatch.undo()
        store.change(record.id, expires_at=None)
        await keys.read_soon()
        assert keys.find_now(plaintext) is not None
    store.close()


async def test_a_replaced_key_works_for_its_grace_and_no_longer(
    store: KeyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, first = store.create("laptop")
    async with gateway(URL.format(tmp_path), refresh=60) as (keys, _):
        rotated, second = store.rotate(record.id, timedelta(hours=1))
        await keys.read_soon()
        assert keys.find_now(first) == keys.find_now(second) == rotated
        ends = rotated.previous_expires_at
        assert ends is not None
        monkeypatch.setattr("citadel_llm.gateway.auth.time.time", ends.timestamp)
        assert keys.find_now(first) is None
        assert "was replaced" in str(keys.refusal(first))
        assert keys.find_now(second) == rotated
        monkeypatch.undo()
        third_record, third = store.rotate(record.id)
        await keys.read_soon()
        assert [keys.find_now(key) for key in (first, second, third)] == [None, None, third_record]
        store.revoke(record.id)
        await keys.read_soon()
        assert keys.find_now(third) is None
    store.close()


async def test_each_scope_is_for_its_own_part_of_the_api(store: KeyStore, tmp_path: Path) -> None:
    made = {
        "api": store.create("api")[1],
        "peer": store.create("peer", scope="peer")[1],
        "admin": store.create("admin", scope="admin")[1],
        "both": store.create("both", scope="admin", models=("*",))[1],
    }
    async with gateway(URL.format(tmp_path)) as (keys, _):

        async def lets_in(name: str, *, admin: bool) -> bool:
            try:
                await authenticate(bearer(made[name]), keys, admin=admin)
            except NotAllowedError:
                return False
            return True

        assert {name: await lets_in(name, admin=True) for name in made} == {
            "api": False,
            "peer": False,
            "admin": True,
            "both": True,
        }
        assert {name: await lets_in(name, admin=False) for name in made} == {
            "api": True,
            "peer": True,
            "admin": False,
            "both": True,
        }
    store.close()


async def test_a_gateway_starts_without_its_database(store: KeyStore, tmp_path: Path, log: LogLines) -> None:
    kept, kept_key = store.create("kept", team="physics", models=("a",), tokens_per_day=5)
    revoked, revoked_key = store.create("revoked")
    snapshot = snapshot_in(tmp_path)
    async with gateway(URL.format(tmp_path), snapshot) as (keys, metrics):
        store.revoke(revoked.id)
        await keys.read_soon()
        assert gauge(metrics, "keys_from_snapshot") == 0
    assert {mode_of(tmp_path / name) for name in ("keys.snapshot", "keys.secret")} == {0o600}
    content = snapshot.path.read_bytes()
    assert kept_key.encode() not in content
    assert hash_key(revoked_key).encode() not in content
    an_hour_ago = snapshot.path.stat().st_mtime - 3600
    os.utime(snapshot.path, (an_hour_ago, an_hour_ago))

    async with gateway(NOWHERE, snapshot_in(tmp_path)) as (keys, metrics):
        assert keys.find_now(kept_key) == kept
        assert await keys.find(revoked_key) is None
        assert keys.checked_at == pytest.approx(an_hour_ago)
        assert gauge(metrics, "keys_from_snapshot") == 1
        assert gauge(metrics, "keys_known") == 1
        assert gauge(metrics, "keys_read_timestamp_seconds") == pytest.approx(an_hour_ago)
    (line,) = [json.loads(each) for each in log.lines if "those of the snapshot" in each]
    assert line["checked_seconds_ago"] >= 3600
    store.close()


async def test_the_database_has_the_last_word_when_it_is_back(store: KeyStore, tmp_path: Path) -> None:
    record, plaintext = store.create("laptop")
    async with gateway(URL.format(tmp_path), snapshot_in(tmp_path)):
        pass
    store.revoke(record.id)
    store.close()
    away = tmp_path / "away"
    (tmp_path / "citadel.db").rename(away)
    (tmp_path / "citadel.db").mkdir()
    async with gateway(URL.format(tmp_path), snapshot_in(tmp_path)) as (keys, metrics):
        assert keys.find_now(plaintext) == record
        (tmp_path / "citadel.db").rmdir()
        away.rename(tmp_path / "citadel.db")
        await keys.read_soon()
        assert keys.find_now(plaintext) is None
        assert gauge(metrics, "keys_from_snapshot") == 0


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("a byte of a record", "signature is wrong"),
        ("a byte of the signature", "signature is wrong"),
        ("a record added", "signature is wrong"),
        ("cut short", "signature is wrong"),
        ("signed with no secret", "signature is wrong"),
        ("another secret", "signature is wrong"),
        ("another database", "another database"),
        ("a secret for all to read", "mode 0600"),
    ],
)
async def test_a_snapshot_that_was_tampered_with_is_refused(
    tmp_path: Path, log: LogLines, what: str, reason: str
) -> None:
    made = {"id": "1", "name": "n", "owner": "", "prefix": "ck-", "created_at": datetime.now(UTC)}
    plaintext = "ck-" + "x" * 43
    record = KeyRecord(hash=hash_key(plaintext), **made)  # type: ignore[arg-type]
    snapshot = snapshot_in(tmp_path)
    snapshot.write([record], 1.0)
    assert snapshot.read() == ([record], 1.0)
    content, secret = snapshot.path.read_bytes(), tmp_path / "keys.secret"
    lines = content.splitlines(keepends=True)
    payload = b"".join(lines[:-1])
    edited: dict[str, Any] = {
        "a byte of a record": flip(content, len(lines[0]) + 10),
        "a byte of the signature": flip(content, len(content) - 1),
        "a record added": payload + lines[1] + lines[-1],
        "cut short": content[:-1],
        "signed with no secret": payload + hashlib.sha256(payload).hexdigest().encode(),
    }
    if what in edited:
        snapshot.path.write_bytes(edited[what])
    elif what == "another secret":
        secret.write_bytes(os.urandom(32))
    elif what == "another database":
        snapshot = KeySnapshot(tmp_path, "elsewhere")
    else:
        secret.chmod(0o640)
    with pytest.raises(SnapshotError, match=reason):
        snapshot.read()
    if what == "a byte of a record":
        async with gateway(NOWHERE, snapshot) as (keys, _):
            assert keys.find_now(plaintext) is None
            with pytest.raises(KeysUnavailableError):
                await keys.find(plaintext)
        assert any("snapshot of the keys is refused" in line for line in log.lines)


async def test_without_a_folder_for_it_there_is_no_snapshot(
    store: KeyStore, tmp_path: Path, log: LogLines
) -> None:
    _, plaintext = store.create("laptop")
    async with gateway(URL.format(tmp_path), snapshot_in(tmp_path / "missing")) as (keys, _):
        assert keys.find_now(plaintext) is not None
    assert not (tmp_path / "missing").exists()
    assert any("cannot be kept on disk" in line for line in log.lines)
    store.close()
