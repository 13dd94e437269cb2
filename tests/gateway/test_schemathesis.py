"""Requests made up from the API's own description, right and wrong ones: whatever comes, no answer is a 5xx.

Making them up takes long: CITADEL_MADE_UP_REQUESTS says how many for each operation.
"""

import os
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from schemathesis.generation import GenerationMode

from .gateway_site import CHAT, EMBED, Site

pytestmark = pytest.mark.lab

_EXAMPLES = int(os.environ.get("CITADEL_MADE_UP_REQUESTS", "25"))
_PARTS = ("method", "url", "json", "data", "files", "params")
_METHODS = ("get", "post", "put", "patch", "delete")


def _operations(site: Site) -> list[tuple[str, Any]]:
    document = site.http.get("/openapi.json").json()
    loaded = schemathesis.openapi.from_dict(document)
    names = [
        (path, method) for path, item in document["paths"].items() for method in item if method in _METHODS
    ]
    return [(f"{method.upper()} {path}", loaded[path][method.upper()]) for path, method in names]


def _send(site: Site, case: Any, *, with_key: bool) -> httpx2.Response:
    made = case.as_transport_kwargs(base_url=site.url)
    if isinstance(made.get("json"), dict) and "model" in made["json"]:
        # Made-up names would all end at the same refusal.
        compares = any(word in case.path for word in ("embed", "rerank", "score"))
        made["json"] = {**made["json"], "model": EMBED if compares else CHAT}
    headers = made.pop("headers", None) or {}
    # It writes bodies as schemathesis means them, forms among them.
    prepared: Any = requests.Request(**{k: v for k, v in made.items() if k in _PARTS}).prepare()
    sent = {**headers, **prepared.headers}
    for name in [name for name in sent if name.lower() in ("authorization", "x-api-key", "content-length")]:
        del sent[name]
    if with_key:
        sent |= site.auth
    pairs = [(k.encode("latin-1", "replace"), str(v).encode("latin-1", "replace")) for k, v in sent.items()]
    return site.http.request(prepared.method, prepared.url, headers=pairs, content=prepared.body)


def _look(site: Site, name: str, operation: Any, examples: int, *, with_key: bool) -> None:
    open_to_all = not operation.definition.raw.get("security")

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def look(case: Any) -> None:
        try:
            answer = _send(site, case, with_key=with_key)
        except (httpx2.LocalProtocolError, httpx2.InvalidURL):
            return  # What the client itself refuses to send.
        assert answer.status_code < 500, f"{name}: {answer.status_code} {answer.text}"
        assert answer.headers["x-request-id"]
        if answer.status_code >= 400:
            assert answer.headers["content-type"].startswith("application/json"), name
            assert isinstance(answer.json()["error"], dict), name
        if not with_key and not open_to_all:
            assert answer.status_code in (400, 401, 404, 405, 413), f"{name}: {answer.status_code}"

    look()


@pytest.mark.parametrize("with_key", [True, False])
def test_made_up_requests(site: Site, *, with_key: bool) -> None:
    for name, operation in _operations(site):
        _look(site, name, operation, _EXAMPLES, with_key=with_key)
