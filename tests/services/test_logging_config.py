import json
import logging

import pytest
import structlog

from citadel_llm.config import Logging
from citadel_llm.logging_config import configure_logging, redact_text

KEY = "ck-0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

pytestmark = pytest.mark.usefixtures("_clean_logging")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Logging(), service="gateway")
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger("x").info("request", status=200, path="/v1/models", many=[1, 2.5, None, True])
    (line,) = lines(capsys)
    assert line.pop("timestamp")
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "x",
        "service": "gateway",
        "request_id": "r-1",
        "status": 200,
        "path": "/v1/models",
        "many": [1, 2.5, None, True],
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": KEY},
        {"Authorization": "Basic eHh4"},
        {"headers": {"authorization": "x-very-secret"}},
        {"api_key": "x-very-secret"},
        {"database_password": "x-very-secret"},
        {"prompt": "x-very-secret"},
        {"messages": [{"role": "user", "content": "x-very-secret"}]},
        {"request": {"body": b"x-very-secret"}},
        {"error": ValueError("Bearer x-very-secret")},
        {"url": "postgresql://user:x-very-secret@db/citadel"},
        {"note": f"they sent {KEY}"},
        {"notes": [f"they sent {KEY}"]},
        {"raw": f"they sent {KEY}".encode()},
    ],
)
def test_secrets_and_prompts_never_reach_the_log(
    capsys: pytest.CaptureFixture[str], fields: dict[str, object]
) -> None:
    configure_logging(Logging(level="debug"), service="gateway")
    structlog.get_logger("x").info("request", **fields)
    logging.getLogger("library").warning("said", extra=fields)
    written = capsys.readouterr().out
    assert len(written.splitlines()) == 2
    for secret in ("x-very-secret", KEY, "eHh4"):
        assert secret not in written
    assert written.count("<redacted>") == 2


def test_the_event_and_foreign_messages_are_masked_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Logging(), service="gateway")
    structlog.get_logger("x").info(f"got {KEY}")
    logging.getLogger("uvicorn").error("got %s", KEY)
    assert KEY not in capsys.readouterr().out


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str], form: str) -> None:
    configure_logging(Logging.model_validate({"format": form}), service="gateway")
    prompt = "x-very-" + "secret"
    try:
        int(f"{KEY} is no number")
    except ValueError:
        structlog.get_logger("x").exception("broken")
        logging.getLogger("library").exception("broken")
    written = capsys.readouterr().out
    assert written.count("ValueError") >= 2
    assert prompt not in written
    assert KEY not in written


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1:8000/v1", "sk-short", "12 tokens", "max_tokens=5", "unix:/run/citadel/engines/a.sock"],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact_text(text) == text


def test_the_level_holds_for_libraries_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(Logging(level="warning"), service="gateway")
    structlog.get_logger("x").info("quiet")
    logging.getLogger("library").info("quiet")
    logging.getLogger("library").warning("heard")
    assert [line["event"] for line in lines(capsys)] == ["heard"]
