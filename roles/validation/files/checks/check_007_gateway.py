"""Task-007: the API, as its clients see it from outside."""

import json
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest
from testinfra.host import Host

from checks.certificate import certificate_fault
from checks.probe import logged, said
from checks.recorder import Evidence, NotProven
from checks.site import Site

if TYPE_CHECKING:
    import openai

# Paths of an engine that the gateway must not let through.
CLOSED = (
    "/pooling",
    "/classify",
    "/invocations",
    "/inference/v1/generate",
    "/v1/load_lora_adapter",
    "/collective_rpc",
    "/sleep",
    "/v1/responses/resp_1/cancel",
)


@pytest.fixture(scope="module")
def key(host: Host, site: Site) -> str:
    """The first key, read on the host and shown nowhere."""
    return said(host, "cat %s", site.key_file)


@pytest.fixture(scope="module", autouse=True)
def _trusted(site: Site) -> None:
    """Say once what to do about a certificate that clients would not take."""
    if fault := certificate_fault(site.api_url):
        pytest.fail(fault, pytrace=False)


@pytest.fixture(scope="module")
def http(site: Site, key: str) -> Iterator[httpx.Client]:
    """A plain client with a right key."""
    with httpx.Client(
        base_url=site.api_url, headers={"Authorization": f"Bearer {key}"}, timeout=site.answer_timeout
    ) as client:
        yield client


@pytest.fixture(scope="module")
def client(site: Site, key: str) -> "openai.OpenAI":
    """The official client, without the retries that would hide a refusal."""
    import openai  # noqa: PLC0415 - it takes longer to load than all quick checks take

    return openai.OpenAI(
        base_url=f"{site.api_url}/v1", api_key=key, max_retries=0, timeout=site.answer_timeout
    )


@pytest.fixture
def model(site: Site, not_proven: NotProven) -> str:
    """A model that writes text."""
    return site.writing_model or not_proven("the catalogue has no model that writes text")


@pytest.mark.quick
@pytest.mark.item("007", "FastAPI-based API gateway implemented")
def check_ready(http: httpx.Client, site: Site, evidence: Evidence, not_proven: NotProven) -> None:
    assert http.get("/health").status_code == 200
    if not site.resident_models:
        not_proven("the gateway is up; no model is resident, so it has none to be ready for")
    ready = http.get("/ready")
    assert ready.status_code == 200, f"/ready says {ready.status_code}: {ready.text}"
    evidence(f"{http.base_url} is ready")


@pytest.mark.quick
@pytest.mark.item("007", "Model service endpoints created")
def check_models(http: httpx.Client, site: Site, evidence: Evidence) -> None:
    served = {model["id"] for model in http.get("/v1/models").raise_for_status().json()["data"]}
    missing = {model["name"] for model in site.served_models} - served
    assert not missing, f"not served: {missing}"
    evidence(f"serves {', '.join(sorted(served))}")


@pytest.mark.item("007", "Model service endpoints created")
def check_sdk(client: "openai.OpenAI", site: Site, evidence: Evidence) -> None:
    served = {model.id for model in client.models.list()}
    assert {model["name"] for model in site.served_models} <= served
    evidence("OpenAI's SDK lists them, too")


@pytest.mark.quick
@pytest.mark.item("007", "Request routing and load balancing implemented")
def check_answer(http: httpx.Client, model: str, evidence: Evidence) -> None:
    body = {"model": model, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 4}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
    text = answer.json()["choices"][0]["text"].strip()
    assert text, "the answer is empty"
    evidence(f"{model} goes on after 'The capital of France is': {text!r}")


@pytest.mark.item("007", "Request routing and load balancing implemented")
def check_stream(client: "openai.OpenAI", model: str, evidence: Evidence) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the opposite of hot?"}],
        temperature=0,
        max_tokens=16,
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 1, "the answer did not come in pieces"
    evidence(f"a chat answer streamed in {len(pieces)} pieces")


@pytest.mark.item("007", "Request routing and load balancing implemented")
def check_other_forms(http: httpx.Client, model: str, evidence: Evidence) -> None:
    question = [{"role": "user", "content": "What is the opposite of hot?"}]
    bodies: dict[str, dict[str, object]] = {
        "/v1/responses": {"input": "What is the opposite of hot?", "max_output_tokens": 8},
        "/v1/messages": {"messages": question, "max_tokens": 8},
        "/v1/messages/count_tokens": {"messages": question},
        "/v1/tokenize": {"prompt": "What is the opposite of hot?"},
    }
    for path, body in bodies.items():
        answer = http.post(path, json={"model": model, **body})
        assert answer.status_code == 200, f"{path}: {answer.status_code}: {answer.text}"
    unknown = http.post(
        "/v1/messages", json={"model": "no-such-model", "messages": question, "max_tokens": 8}
    )
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    evidence(f"answers on {', '.join(bodies)}, too; errors of /v1/messages come in Anthropic's words")


@pytest.mark.quick
@pytest.mark.item("007", "Authentication and authorization set up")
def check_keys(site: Site, evidence: Evidence) -> None:
    for headers in ({}, {"Authorization": "Bearer ck-wrong"}):
        refused = httpx.get(f"{site.api_url}/v1/models", headers=headers, timeout=10)
        assert refused.status_code == 401, f"{refused.status_code} without a right key"
        assert refused.json()["error"]["code"] == "invalid_api_key"
    evidence("without a key, and with a wrong one: 401 invalid_api_key")


@pytest.mark.item("007", "Authentication and authorization set up")
def check_closed(http: httpx.Client, evidence: Evidence) -> None:
    for path in CLOSED:
        answer = http.post(path, json={})
        assert answer.status_code == 404, f"{path} of an engine can be reached: {answer.status_code}"
    evidence(f"{len(CLOSED)} other paths of an engine cannot be reached")


@pytest.mark.item("007", "API documentation created")
def check_documentation(http: httpx.Client, evidence: Evidence) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    described = {"/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/models"}
    assert described <= set(paths)
    assert http.get("/docs").status_code == 200
    evidence(f"/docs, and /openapi.json with {len(paths)} paths")


@pytest.mark.item("007", "Error handling and logging implemented")
def check_errors(client: "openai.OpenAI", http: httpx.Client, host: Host, evidence: Evidence) -> None:
    with pytest.raises(Exception, match="no-such-model") as unknown:
        client.completions.create(model="no-such-model", prompt="Hello")
    assert type(unknown.value).__name__ == "NotFoundError"
    assert getattr(unknown.value, "code", None) == "model_not_found"

    request_id = f"validation-{uuid.uuid4()}"
    answer = http.get("/v1/models", headers={"X-Request-Id": request_id})
    assert answer.headers["x-request-id"] == request_id
    entry = json.loads(logged(host, "citadel-gateway", request_id))
    evidence(
        f"an unknown model: 404 model_not_found; the log's line of a request: {', '.join(sorted(entry))}"
    )


@pytest.mark.item("007", "API gateway validated")
def check_secrecy(client: "openai.OpenAI", model: str, site: Site, host: Host, evidence: Evidence) -> None:
    marked = f"prompt-{uuid.uuid4()}"
    request_id = f"validation-{uuid.uuid4()}"
    client.completions.create(
        model=model, prompt=marked, max_tokens=1, extra_headers={"X-Request-Id": request_id}
    )
    # Whatever it writes of the request stands there before this line.
    logged(host, "citadel-gateway", request_id)
    # Only in Citadel's own entries, for sudo writes the search itself into the journal. The key is taken out
    # of its file on the host, so that it stands in no command line.
    searches = {
        "a prompt": f"grep --count --fixed-strings -- {marked}",
        "the key": f"grep --count --fixed-strings --file={site.key_file}",
    }
    for what, search in searches.items():
        found = host.run(f"journalctl --unit='citadel-*' --since=-5min --output=cat | {search}")
        assert found.stdout.strip() == "0", f"{what} stands in the journal"
    evidence("neither prompt nor key stands in the journal")
