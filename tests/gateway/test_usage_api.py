"""/v1/usage and /v1/admin/usage through the real server."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from citadel_llm.store.usage_delivery import Batch, Position, UsageDelivery, UsageRecord

from .gateway_site import Site

TODAY = str(datetime.now(UTC).date())


@pytest.fixture(scope="module")
def used(shared_site: Site) -> Site:
    """The site, with some use of the tests' key and of another one."""
    now = time.time()
    rows = [
        UsageRecord(
            number, f"usage-{number}", now, key, "", model, "/v1/x", "e", 200, 10, 4, 5, 0.5, 1.0, False
        )
        for number, (key, model) in enumerate(
            [(shared_site.key_id, "model-a"), (shared_site.key_id, "model-b"), ("0123456789ab", "model-a")]
        )
    ]
    delivery = UsageDelivery(shared_site.keys.database)
    delivery.position("test")
    delivery.deliver("test", Batch(Position(0, 0), Position(1, 1), rows))
    return shared_site


def get(site: Site, path: str, plaintext: str, **query: Any) -> tuple[int, Any]:
    response = site.http.get(path, params=query, headers={"authorization": f"Bearer {plaintext}"})
    return response.status_code, response.json()


def ours(answer: Any) -> list[dict[str, Any]]:
    """Without what other tests of the shared site have used."""
    return [row for row in answer["data"] if str(row["model"]).startswith("model-")]


def test_a_key_sees_its_own_use(used: Site) -> None:
    status, answer = get(used, "/v1/usage", used.key, by=["model", "day"])
    assert status == 200
    assert answer["until"] == TODAY
    assert [(row["model"], row["day"], row["requests"], row["tokens_in"]) for row in ours(answer)] == [
        ("model-a", TODAY, 1, 10),
        ("model-b", TODAY, 1, 10),
    ]
    assert {row["key_id"] for row in answer["data"]} == {None}
    # No parameter of its leads to another key's.
    for query in ({"key": "0123456789ab"}, {"key_id": "0123456789ab"}):
        _, other = get(used, "/v1/usage", used.key, model="model-a", **query)
        assert other["total"]["requests"] == 1


def test_an_admin_sees_everybodys(used: Site) -> None:
    record, key = used.keys.create("usage-admin", scope="admin")
    status, answer = get(used, "/v1/admin/usage", key, by="key", model="model-a")
    assert status == 200
    assert {(row["key_id"], row["key_name"]) for row in answer["data"]} == {
        (used.key_id, "tests"),
        ("0123456789ab", "0123456789ab"),
    }
    assert (answer["total"]["requests"], answer["total"]["first_byte"]) == (2, 0.5)
    assert get(used, "/v1/admin/usage", key, until="2020-01-31")[1]["data"] == []
    assert get(used, "/v1/admin/usage", key, since="2020-01-31", until="2020-01-01")[0] == 400
    for field in ("key", "team", "model"):
        status, answer = get(used, "/v1/admin/usage", key, **{field: "a\0b"})
        assert (status, answer["error"]["param"]) == (400, field), "PostgreSQL takes no such text"
    used.keys.revoke(record.id)


def test_others_see_nothing(used: Site) -> None:
    assert get(used, "/v1/admin/usage", used.key)[0] == 403
    assert get(used, "/v1/usage", "ck-none")[0] == 401
    status, answer = get(used, "/v1/usage", used.key, by="key")
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
