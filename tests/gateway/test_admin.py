"""The admin API through the real server: what an admin can do, who is no admin, and what is written down."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from citadel_llm.store import Actor, AuditLog

from .gateway_site import LogLines, Site, wait_until

KEY = re.compile(r"ck-[A-Za-z0-9_-]{43}")
NEW = {
    "name": "laptop",
    "owner": "ada",
    "team": "physics",
    "expires_at": "2150-01-31T00:00:00+02:00",
    "models": ["chat-model"],
    "requests_per_minute": 60,
    "priority": "low",
}


class Admin:
    """A client with a key of the scope `admin`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.record, self.key = site.keys.create("admin", scope="admin", by=Actor("unix:root", "local"))
        self._headers = {"authorization": f"Bearer {self.key}"}

    def __call__(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = {**self._headers, **more.pop("headers", {})}
        return self.site.http.request(method, f"/v1/admin{path}", headers=headers, **more)

    def make(self, name: str, **fields: Any) -> dict[str, Any]:
        response = self("POST", "/keys", json={"name": name, **fields})
        assert response.status_code == 201, response.text
        made: dict[str, Any] = response.json()
        return made


@pytest.fixture
def admin(site: Site) -> Iterator[Admin]:
    admin = Admin(site)
    yield admin
    for record in site.keys.list(revoked=False):
        if record.id != site.key_id:
            site.keys.revoke(record.id)


def error_of(response: httpx2.Response) -> tuple[int, str | None, str | None]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["code"], error["param"]


def works(site: Site, key: str) -> bool:
    response = site.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    assert response.status_code in (200, 401)
    return response.status_code == 200


def chat(site: Site, headers: dict[str, str]) -> httpx2.Response:
    asked = {"model": "chat-model", "messages": [{"role": "user", "content": "Hello"}]}
    return site.http.post("/v1/chat/completions", headers=headers, json=asked)


def test_a_keys_life(admin: Admin, site: Site) -> None:
    response = admin("POST", "/keys", json=NEW)
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    made = response.json()
    key = made.pop("key")
    assert KEY.fullmatch(key)
    assert (made["expires_at"], made["models"], made["scope"]) == (
        "2150-01-30T22:00:00Z",
        ["chat-model"],
        "api",
    )
    assert works(site, key), "the gateway that made it knows it when it answers"
    assert admin("GET", f"/keys/{made['id']}").json() == made
    assert not KEY.search(admin("GET", "/keys").text)

    changed = admin("PATCH", f"/keys/{made['id']}", json={"tokens_per_day": 5, "expires_at": None}).json()
    assert changed == {**made, "tokens_per_day": 5, "expires_at": None}

    rotated = admin("POST", f"/keys/{made['id']}/rotate", json={"grace_seconds": 3600})
    assert rotated.headers["cache-control"] == "no-store"
    second = rotated.json()["key"]
    assert (rotated.json()["id"], second == key) == (made["id"], False)
    assert works(site, key)
    assert works(site, second)
    third = admin("POST", f"/keys/{made['id']}/rotate").json()["key"]
    assert [works(site, each) for each in (key, second, third)] == [False, False, True]

    revoked = admin("POST", f"/keys/{made['id']}/revoke").json()
    assert revoked["state"] == "revoked"
    assert not works(site, third)
    assert admin("POST", f"/keys/{made['id']}/revoke").json() == revoked


def test_the_holder_of_a_key_that_ended_is_told_so(admin: Admin, site: Site) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    key = admin.make("short", expires_at=soon)["key"]
    wait_until(lambda: not works(site, key))
    headers = {"authorization": f"Bearer {key}"}
    for response in (site.http.get("/v1/models", headers=headers), chat(site, headers)):
        assert response.status_code == 401
        assert "expired on" in response.json()["error"]["message"]


def test_only_an_admin_gets_in(admin: Admin, site: Site) -> None:
    peer = site.keys.create("peer", scope="peer")[1]
    made = admin.make("victim")
    before = site.keys.list()
    paths = [
        ("GET", "/keys"),
        ("POST", "/keys"),
        ("GET", f"/keys/{made['id']}"),
        ("PATCH", f"/keys/{made['id']}"),
        ("POST", f"/keys/{made['id']}/rotate"),
        ("POST", f"/keys/{made['id']}/revoke"),
        ("GET", "/audit"),
    ]
    described = site.http.get("/openapi.json").json()["paths"]
    ours = {
        (method.upper(), path.removeprefix("/v1/admin"))
        for path, item in described.items()
        for method in item
        if path.startswith(("/v1/admin/keys", "/v1/admin/audit"))
    }
    assert {(method, path.replace(made["id"], "{key_id}")) for method, path in paths} == ours, "all are tried"
    for method, path in paths:
        body = {"json": NEW} if method == "POST" and path == "/keys" else {}
        for key in (site.key, peer):
            response = admin(method, path, headers={"authorization": f"Bearer {key}"}, **body)
            assert error_of(response) == (403, "not_allowed", None), path
        for header in ("", "Bearer ck-" + "x" * 43):
            response = admin(method, path, headers={"authorization": header}, **body)
            assert error_of(response) == (401, "invalid_api_key", None), path
    assert site.keys.list() == before
    site.keys.revoke(admin.record.id)
    wait_until(lambda: admin("GET", "/keys").status_code == 401)


def test_an_admins_key_calls_models_only_when_it_names_some(admin: Admin, site: Site) -> None:
    names_some = admin.make("both", scope="admin", models=["chat-model"])["key"]
    assert error_of(site.http.get("/v1/models", headers={"authorization": f"Bearer {admin.key}"})) == (
        403,
        "not_allowed",
        None,
    )
    for key, status in ((admin.key, 403), (names_some, 200)):
        headers = {"authorization": f"Bearer {key}"}
        assert chat(site, headers).status_code == status
    listed = site.http.get("/v1/models", headers={"authorization": f"Bearer {names_some}"}).json()["data"]
    assert [model["id"] for model in listed] == ["chat-model"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"\xff", None),
        (b"[]", None),
        (b"{}", "name"),
        ({"name": 7}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "x", "colour": "red"}, "colour"),
        ({"name": "x", "requests_per_minute": 0}, "requests_per_minute"),
        ({"name": "x", "requests_per_minute": "60"}, "requests_per_minute"),
        ({"name": "x", "tokens_per_day": 2**63}, "tokens_per_day"),
        ({"name": "x", "expires_at": "2030-01-31T00:00:00"}, "expires_at"),
        ({"name": "x", "expires_at": "2001-01-31T00:00:00Z"}, "expires_at"),
        ({"name": "x", "expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"name": "x", "models": ["a", "a"]}, "models"),
        ({"name": "x", "priority": "urgent"}, "priority"),
        ({"name": "x", "scope": "root"}, "scope"),
        ({"name": "x", "owner": "a\u0000b"}, "owner"),
        ({"name": "x", "owner": "ck-" + "s3cret" + "x" * 37}, "owner"),
    ],
)
def test_a_bad_request_names_the_field(admin: Admin, site: Site, body: Any, param: str | None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = admin("POST", "/keys", content=content, headers={"content-type": "application/json"})
    assert error_of(response) == (400, None, param)
    assert param is None or param in response.json()["error"]["message"]
    assert "s3cret" not in response.text
    assert {record.name for record in site.keys.list(revoked=False)} == {"tests", "admin"}


def test_what_cannot_be_done(admin: Admin) -> None:
    made = admin.make("laptop")
    assert error_of(admin("POST", "/keys", json={"name": "laptop"})) == (409, "conflict", None)
    other = admin.make("other")
    assert error_of(admin("PATCH", f"/keys/{other['id']}", json={"name": "laptop"})) == (
        409,
        "conflict",
        None,
    )
    assert error_of(admin("PATCH", f"/keys/{other['id']}", json={"scope": "admin"})) == (400, None, "scope")
    assert error_of(admin("PATCH", f"/keys/{other['id']}", json={}))[0] == 400
    assert error_of(admin("PATCH", f"/keys/{other['id']}", json={"priority": None}))[0] == 400
    admin("POST", f"/keys/{made['id']}/revoke")
    assert error_of(admin("POST", f"/keys/{made['id']}/rotate")) == (409, "conflict", None)
    assert error_of(admin("GET", "/keys/0123")) == (404, "key_not_found", None)
    assert error_of(admin("GET", "/keys/none")) == (400, None, "key_id")
    assert error_of(admin("GET", "/keys?after=0123")) == (404, "key_not_found", None)
    assert error_of(admin("GET", "/keys?limit=0")) == (400, None, "limit")
    assert error_of(admin("POST", "/keys", content=b" " * 70_000)) == (413, "request_too_large", None)
    assert error_of(admin("DELETE", f"/keys/{other['id']}"))[0] == 405


def test_pages(admin: Admin) -> None:
    names = [admin.make(f"k{number}")["name"] for number in range(3)]
    seen: list[str] = []
    after = ""
    while True:
        page = admin("GET", f"/keys?limit=2&revoked=false{after}").json()
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen += [key["name"] for key in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == ["tests", "admin", *names]


def test_the_audit_log_has_every_act_and_no_secret(admin: Admin, site: Site, log: LogLines) -> None:
    made = admin.make("laptop", tokens_per_day=5)
    admin("PATCH", f"/keys/{made['id']}", json={"tokens_per_day": 6})
    second = admin("POST", f"/keys/{made['id']}/rotate").json()["key"]
    admin("POST", "/keys", json={"name": made["key"]})
    admin("POST", f"/keys/{made['id']}/revoke")
    newest = admin("GET", f"/audit?limit=5&actor=key:{admin.record.id}").json()
    assert [(entry["action"], entry["outcome"]) for entry in newest["data"]] == [
        ("key.revoke", "done"),
        ("key.create", "refused"),
        ("key.rotate", "done"),
        ("key.change", "done"),
        ("key.create", "done"),
    ]
    assert {(each["actor"], each["address"]) for each in newest["data"]} == {
        (f"key:{admin.record.id}", "127.0.0.1")
    }
    assert newest["data"][3]["details"] == {"tokens_per_day": [5, 6]}
    assert newest["has_more"] is False
    page = admin("GET", f"/audit?limit=2&key={made['id']}").json()
    assert page["has_more"] is True
    rest = admin("GET", f"/audit?limit=2&key={made['id']}&before={page['last_id']}").json()
    assert [entry["action"] for entry in rest["data"]] == ["key.change", "key.create"]
    (host,) = AuditLog(site.keys.database).list(limit=10, target=admin.record.id)
    assert host.actor == "unix:root"
    lines = [json.loads(line) for line in log.lines]
    acts = [line["action"] for line in lines if line["event"] == "audit"]
    assert acts == ["key.create", "key.change", "key.rotate", "key.create", "key.revoke"]
    everything = json.dumps([newest, page, rest]) + "".join(log.lines)
    assert not any(secret[3:] in everything for secret in (made["key"], second, admin.key))


def test_without_the_database_nothing_is_changed_and_it_says_so(make_site: Any) -> None:
    site = make_site(start=())
    admin = Admin(site)
    wait_until(lambda: admin("GET", "/keys").status_code == 200)
    site.keys.close()
    path = site.settings.run_dir / "citadel.db"
    # A table that is gone stands for a database that is: SQLite's file is held open.
    site.keys.database.close()
    with site.keys.database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE api_keys RENAME TO away")
    response = admin("POST", "/keys", json={"name": "laptop"})
    assert error_of(response) == (503, "keys_unavailable", None)
    assert "api_keys" not in response.text
    assert path.exists()


def test_the_description_is_complete(site: Site) -> None:
    document = site.http.get("/openapi.json").json()
    for path, item in document["paths"].items():
        if not path.startswith(("/v1/admin/keys", "/v1/admin/audit")):
            continue
        for method, operation in item.items():
            assert operation["security"] == [{"AdminKey": []}], path
            assert operation["tags"] == ["Admin"]
            assert operation["summary"]
            assert operation["description"]
            assert {"400", "401", "403", "503"} <= set(operation["responses"]), (method, path)
            assert "422" not in operation["responses"]
    schemas = document["components"]["schemas"]
    assert {"NewKey", "KeyChange", "Rotation", "SecretKey", "KeyPage", "EntryPage"} <= set(schemas)
    assert schemas["NewKey"]["examples"]
    assert "AdminKey" in document["components"]["securitySchemes"]
