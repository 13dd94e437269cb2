"""That no secret and nothing of a client's text gets into a log line, whatever a line is made of.

Whether a field's name tells that it holds such is what can be known: text that somebody writes into the event
itself, or under a name of another meaning, passes unless it shows by itself that it is a secret.
"""

import io
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from citadel_llm.config import Logging
from citadel_llm.logging_config import REDACTED, configure_logging, redact, redact_text

CANARY = "x7Qcanary9Zx7Qcanary9Z"

pytestmark = pytest.mark.usefixtures("_clean_logging")


@dataclass
class Request:
    """An object whose text tells what is in it."""

    prompt: str


SECRET_NAMES = st.sampled_from(
    [
        *(
            "authorization",
            "Authorization",
            "proxy-authorization",
            "Cookie",
            "set_cookie",
            "x-api-key",
            "api_key",
        ),
        *("apikey", "apiKey", "password", "database_password", "passwd", "passphrase", "client_secret"),
        *("credentials", "private_key", "access_key", "peer_key", "hf-token", "access_token", "token", "key"),
    ]
)
TEXT_NAMES = st.sampled_from(
    [
        *("prompt", "prompts", "messages", "message", "content", "text", "input", "inputs", "output", "body"),
        *("completion", "choices", "delta", "documents", "query", "instructions", "arguments", "tools"),
        *(
            "user_prompt",
            "systemPrompt",
            "raw_body",
            "reasoning_content",
            "request.body",
            "PROMPT",
            "_prompt",
        ),
    ]
)
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
# A name that tells nothing, for what is around the secret.
OTHER_NAMES = st.from_regex(r"[a-z]{1,6}_(id|count|ms)", fullmatch=True)


def hidden_in(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Something that holds a value, at any depth."""
    return st.recursive(
        value,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.dictionaries(OTHER_NAMES, inner, min_size=1, max_size=3)
            | st.tuples(PLAIN, inner)
        ),
        max_leaves=4,
    )


named = st.dictionaries(
    SECRET_NAMES | TEXT_NAMES,
    st.sampled_from([CANARY, CANARY.encode(), [CANARY], {"a": CANARY}, {CANARY: 1}, Request(CANARY)]),
    min_size=1,
    max_size=3,
)
objects = st.sampled_from([Request(CANARY), [Request(CANARY)], CANARY.encode(), bytearray(CANARY.encode())])
self_evident = st.sampled_from(
    [
        *(
            f"ck-{CANARY}",
            f"sk-{CANARY}",
            f"hf_{CANARY}",
            f"ghp_{CANARY}",
            f"Bearer {CANARY}",
            f"bearer  {CANARY}",
        ),
        *(f"postgresql://user:{CANARY}@db/x", f"redis://:p@{CANARY}@db/0", f"https://{CANARY}@host/x"),
        *(f"password={CANARY}", f'"api_key": "{CANARY}"', f"'token':'{CANARY}'", f"?access_key={CANARY}&a=b"),
        *(
            f"Authorization: Basic {CANARY}",
            f"authorization: {CANARY}",
            f"Cookie: a={CANARY}",
            f"x-api-key: {CANARY}",
        ),
        *(
            f"eyJ{CANARY}.{CANARY}.{CANARY}",
            f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
        ),
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n{CANARY}",
    ]
)
around = st.text(alphabet=" .,:;()[]{}<>|/\n\té漢\"'_-", max_size=6)
secrets_in_text = st.tuples(around, self_evident, around).map("".join)
fields = st.dictionaries(OTHER_NAMES, hidden_in(named | objects | secrets_in_text), min_size=1, max_size=3)
many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(fields)
def test_no_field_shows_it(event: dict[str, Any]) -> None:
    assert CANARY not in json.dumps(redact(None, "", event))


@many
@given(named)
def test_no_field_of_the_line_itself_shows_it(event: dict[str, Any]) -> None:
    assert set(redact(None, "", event).values()) == {REDACTED}


@many
@given(secrets_in_text)
def test_no_text_shows_it(text: str) -> None:
    assert CANARY not in redact_text(text)


@pytest.fixture(params=["json", "console"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """The log as it comes out at the end; what has been read is taken out."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    configure_logging(Logging(format=request.param, level="debug"), service="x")

    def take() -> str:
        text = out.getvalue()
        out.seek(0)
        out.truncate()
        return text

    return take


@settings(many, max_examples=60)
@given(fields, named, secrets_in_text)
def test_no_line_shows_it_ours_or_a_librarys(
    written: Callable[[], str], inside: dict[str, Any], direct: dict[str, Any], text: str
) -> None:
    ours, theirs = structlog.get_logger("ours"), logging.getLogger("theirs")
    ours.info("event", **inside, **{f"x_{name}": value for name, value in direct.items()})
    ours.info(text)
    theirs.warning("said %s", text)
    theirs.warning("said", extra={f"x_{name}": value for name, value in direct.items()})
    with structlog.contextvars.bound_contextvars(**inside):
        ours.info("bound")
    try:
        raise ValueError(text)  # noqa: TRY301 - its traceback is what is looked at
    except ValueError:
        ours.exception("failed")
        theirs.exception("failed")
    lines = written()
    assert CANARY not in lines
    assert lines.count("failed") >= 2


@pytest.mark.parametrize(
    "text",
    [
        *(
            "gateway.database_password: must be set",
            "max_tokens=5",
            "token limit reached",
            "basic authentication",
        ),
        *("tokens=12", "http://10.0.0.1:8000/v1?model=a", "task-001-hardware-validation-of-hosts"),
        *("mail ada@example.com", "unix:/run/citadel/engines/a.sock", "disk-0123456789abcdef0123"),
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


def test_what_people_need_stays() -> None:
    event = {
        "prompt_tokens": 5,
        "key_id": "k1",
        "content_type": "a/b",
        "reason": "no GPU",
        "status": 200,
        "keys": 3,
    }
    assert redact(None, "", dict(event)) == event
