"""/metrics: the gateway's and every engine's, readable by Prometheus, and only for whom it is meant."""

import asyncio
from typing import Any

import openai
import pytest
from aiohttp import web
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from .fake_engine import cut
from .gateway_site import CHAT, EMBED, Site, wait_until


def _families(site: Site) -> dict[str, Metric]:
    response = site.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    types = [line for line in response.text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types)), "each family is declared once"
    return {family.name: family for family in text_string_to_metric_families(response.text)}


def _value(families: dict[str, Metric], family: str, sample: str, **labels: str) -> float:
    found = [s.value for s in families[family].samples if s.name == sample and s.labels == labels]
    assert len(found) <= 1
    return found[0] if found else 0.0


def test_engines_metrics_carry_their_models_name(site: Site) -> None:
    families = _families(site)
    running = families["vllm:num_requests_running"]
    assert running.documentation == "Number of requests in model execution batches."
    assert [(s.labels, s.value) for s in running.samples] == [
        ({"engine": CHAT, "exported_engine": "0", "model_name": CHAT}, 2.0),
        ({"engine": EMBED, "exported_engine": "0", "model_name": EMBED}, 2.0),
    ]
    assert families["vllm:generation_tokens"].type == "counter"
    assert families["vllm:generation_tokens"].samples[0].name == "vllm:generation_tokens_total"
    buckets = families["vllm:time_to_first_token_seconds"]
    assert (buckets.type, len(buckets.samples)) == ("histogram", 8)
    memory = families["process_resident_memory_bytes"].samples
    assert [s.labels for s in memory] == [{}, {"engine": CHAT}, {"engine": EMBED}]


def test_requests_are_counted(site: Site) -> None:
    labels = {"model": CHAT, "route": "/v1/chat/completions"}
    requests, duration = "citadel_gateway_requests", "citadel_gateway_request_duration_seconds"
    first_byte = "citadel_gateway_first_byte_seconds"
    before = _families(site)
    for _ in site.openai().chat.completions.create(model=CHAT, messages=[], stream=True):
        pass
    site.http.get("/no/such/path")
    with pytest.raises(openai.NotFoundError):
        site.openai().chat.completions.create(model="unknown-model", messages=[])
    after = _families(site)

    def gained(family: str, sample: str, **labels: str) -> float:
        return _value(after, family, sample, **labels) - _value(before, family, sample, **labels)

    assert gained(requests, f"{requests}_total", **labels, status="200") == 1
    assert gained(duration, f"{duration}_count", **labels) == 1
    assert gained(first_byte, f"{first_byte}_count", **labels) == 1
    assert gained(requests, f"{requests}_total", model="", route="unmatched", status="404") == 1
    assert gained(requests, f"{requests}_total", model="", route=labels["route"], status="404") == 1
    assert "unknown-model" not in site.http.get("/metrics").text
    assert not [name for name in after if name.startswith("citadel") and name.endswith("_created")]
    known = "citadel_gateway_keys_known"
    assert _value(after, known, known) == len(site.keys.list(revoked=False))
    assert _value(after, "citadel_gateway_engine_up", "citadel_gateway_engine_up", model=CHAT) == 1


def test_a_client_that_hung_up_counts_as_499(make_site: Any) -> None:
    async def wait(_request: web.Request, _body: bytes) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    site = make_site()
    site.chat.answer = wait
    with pytest.raises(openai.APITimeoutError):
        site.openai().chat.completions.create(model=CHAT, messages=[], timeout=0.3)
    name = "citadel_gateway_requests"
    labels = {"model": CHAT, "route": "/v1/chat/completions", "status": "499"}
    wait_until(lambda: _value(_families(site), name, f"{name}_total", **labels) == 1)
    in_flight = "citadel_gateway_requests_in_flight"
    assert _value(_families(site), in_flight, in_flight, model=CHAT) == 0


def test_an_engines_failures_are_counted(make_site: Any) -> None:
    async def die(request: web.Request, _body: bytes) -> web.StreamResponse:
        cut(request)
        raise ConnectionResetError

    site = make_site()
    site.chat.answer = die
    with pytest.raises(openai.InternalServerError):
        site.openai().chat.completions.create(model=CHAT, messages=[])
    name = "citadel_gateway_upstream_errors"
    assert _value(_families(site), name, f"{name}_total", model=CHAT, code="engine_failed") == 1


@pytest.mark.parametrize("how", ["nonsense", "stopped"])
def test_a_bad_engine_only_loses_its_own_part(make_site: Any, how: str) -> None:
    site = make_site()
    if how == "nonsense":
        site.chat.metrics = "{{{ not metrics"
    else:
        site.run(site.chat.stop())
    families = _families(site)
    assert {s.labels["engine"] for s in families["vllm:num_requests_running"].samples} == {EMBED}
    assert "citadel_gateway_requests" in families
    if how == "nonsense":
        name = "citadel_gateway_engine_scrape_errors"
        assert _value(families, name, f"{name}_total", model=CHAT) == 1


def test_engines_that_disagree_on_a_type_leave_the_page_readable(make_site: Any) -> None:
    site = make_site()
    site.engines[
        EMBED
    ].metrics = "# TYPE vllm:num_requests_running counter\nvllm:num_requests_running_total 1\n"
    families = _families(site)
    assert [s.labels["engine"] for s in families["vllm:num_requests_running"].samples] == [CHAT]


def test_metrics_are_for_the_allowed_addresses(make_site: Any) -> None:
    site = make_site(metrics_allow=["10.0.0.0/8", "2001:db8::/32"])
    response = site.http.get("/metrics", headers={"x-forwarded-for": "10.0.0.1"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "not_allowed")
    assert "citadel_gateway" not in response.text
